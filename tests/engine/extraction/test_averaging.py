"""Rows of a video, against plain means over all its views at once."""

import numpy as np
import pytest
import torch

from hiera_video.engine.extraction.averaging import Averager

FEATURES = torch.randn(10, 3, 4, generator=torch.Generator().manual_seed(0))  # 5 clips of 2 crops; maps of 3 x 4
SPANS_SEC = np.array([[i, i + 1.5] for i in range(5)])
EXPECTED = {
    "none": (FEATURES.flatten(1), SPANS_SEC.repeat(2, axis=0)),
    "crops": ((FEATURES[::2] + FEATURES[1::2]).flatten(1) / 2, SPANS_SEC),
    "video": (FEATURES.mean(dim=0).flatten()[None], np.array([[0, 5.5]])),
}


@pytest.mark.parametrize("clips_per_chunk", [1, 2, 5])
@pytest.mark.parametrize("average", EXPECTED)
@pytest.mark.parametrize("l2_normalize", [False, True])
def test_rows_are_plain_means_however_the_chunks_are_cut(average, l2_normalize, clips_per_chunk):
    averager = Averager(average, num_crops=2, l2_normalize=l2_normalize)
    rows, spans_sec = [], []
    for first in range(0, 5, clips_per_chunk):
        end = min(first + clips_per_chunk, 5)
        new = averager.add(FEATURES[2 * first : 2 * end], SPANS_SEC[first:end], is_last=end == 5)
        assert len(new[0]) == len(new[1]) and (average != "video" or len(new[0]) == (end == 5))
        rows.append(new[0])
        spans_sec.append(new[1])
    expected, expected_spans_sec = EXPECTED[average]
    if l2_normalize:
        expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(torch.cat(rows), expected)
    np.testing.assert_allclose(np.concatenate(spans_sec), expected_spans_sec)


def test_the_mean_of_a_long_video_does_not_drift():
    averager = Averager("video", num_crops=1)
    for number in range(3000):
        rows, _ = averager.add(torch.full((1, 1), 0.1), np.zeros((1, 2)), is_last=number == 2999)
    assert rows.item() == torch.tensor(0.1).item()  # a sum in float32 is off by a thousandth of a percent

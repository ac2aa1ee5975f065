"""Samples of key frames: which frames, which boxes, what training drops, and what becomes of broken videos."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from video_factory import read_number, write_video

from hiera_video.data.action_lists import KeyFrames
from hiera_video.data.box_dataset import BoxDataset
from hiera_video.data.box_transforms import BoxEvalTransform, BoxTrainTransform
from hiera_video.data.key_frame_clips import KeyFrameSampler
from hiera_video.data.transforms import EvalTransform, ShortSideJitterCrop, TrainTransform
from hiera_video.video import VideoDecodeError, VideoReader

SAMPLER = KeyFrameSampler(num_frames=4, sampling_rate=5, target_fps=25)
BOXES = [[0.4, 0.4, 0.6, 0.6], [0.0, 0.1, 0.1, 0.5], [0.2, 0.0, 0.7, 1.0], [0.45, 0.45, 0.55, 0.55]]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """A square video of 75 frames, 3 s, and a wide one."""
    folder = tmp_path_factory.mktemp("key_frames")
    square = write_video(folder / "square.mp4", num_frames=75, width=64, height=64)
    return [str(square), str(write_video(folder / "wide.mp4", num_frames=75, width=128, height=64))]


def make_list(paths, *, times_sec=(901.0, 902.0, 901.4), box_starts=(0, 1, 3, 4)):
    """Moments of the square, the wide and the square video, with one, two and one of BOXES."""
    actions = np.zeros((4, 5), dtype=bool)
    actions[[0, 0, 1, 2, 3], [1, 4, 0, 3, 2]] = True
    return KeyFrames(
        paths=np.array([paths[0], paths[1], paths[0]]),
        videos=np.array(["s", "w", "s"]),
        times_sec=np.array(times_sec),
        start_secs=np.full(3, 900.0),
        box_starts=np.array(box_starts),
        boxes=np.array(BOXES, dtype=np.float32),
        scores=np.ones(4, dtype=np.float32),
        actions=actions,
        persons=np.full(4, -1),
    )


def eval_set(key_frames, **options):
    return BoxDataset(key_frames, sampler=SAMPLER, transform=BoxEvalTransform(64), is_training=False, **options)


def train_set(key_frames, **options):
    transform = BoxTrainTransform(TrainTransform(ShortSideJitterCrop(48, 80, 32)))
    return BoxDataset(key_frames, sampler=SAMPLER, transform=transform, is_training=True, **({"seed": 7} | options))


def test_the_frames_are_those_around_the_key_frame(paths):
    """901.4 s of a file that begins at 900 s are frame 35 of 25 a second; the clip has every fifth."""
    sample = eval_set(make_list(paths))[2]
    assert sample["video"].shape == (1, 3, 4, 64, 64) and sample["video"].dtype == torch.uint8
    assert [read_number(frame) for frame in sample["video"][0].permute(1, 2, 3, 0)] == [25, 30, 35, 40]
    late = eval_set(make_list(paths, times_sec=(902.9, 902.0, 900.0)))
    assert [read_number(frame) for frame in late[0]["video"][0].permute(1, 2, 3, 0)] == [62, 67, 72, 74]
    assert [read_number(frame) for frame in late[2]["video"][0].permute(1, 2, 3, 0)] == [0, 0, 0, 5]


def test_a_test_sample(paths):
    """The wide video's center square spans x from 32 to 96: the second box, x from 0 to 12.8, lies outside."""
    sample = eval_set(make_list(paths))[1]
    assert sample["rows"].tolist() == [1, 2] and sample["is_outside"].tolist() == [True, False]
    expected = torch.tensor([[-32.0, 6.4, -19.2, 32.0], [0.0, 0.0, 57.6, 64.0]])
    torch.testing.assert_close(sample["boxes"], expected, atol=1e-4, rtol=0)
    assert sample["targets"].tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 1, 0]]
    frames = VideoReader(paths[1]).get_frames([40, 45, 50, 55])
    view = EvalTransform(num_crops=1, short_side_px=64, crop_size_px=64)(frames)
    assert torch.equal(sample["video"], view) and (sample["index"], sample["bad"]) == (1, [])


def test_training_drops_boxes_outside_and_keeps_what_belongs_to_the_others(paths):
    dataset = train_set(make_list(paths))
    counts = {1: 0, 2: 0}
    for epoch in range(40):
        sample = dataset[epoch, 1]
        counts[len(sample["rows"])] += 1
        assert not sample["is_outside"].any() and len(sample["boxes"]) == len(sample["rows"]) >= 1
        for row, box, target in zip(sample["rows"].tolist(), sample["boxes"], sample["targets"], strict=True):
            assert 0 <= box[0] < box[2] <= 32 and 0 <= box[1] < box[3] <= 32
            assert target.tolist() == dataset.videos.actions[row].tolist()
    assert counts[1] > 5 and counts[2] > 0


def test_a_sample_depends_on_seed_epoch_and_index_alone(paths):
    dataset = train_set(make_list(paths))
    first = dataset[3, 1]
    torch.rand(10), np.random.rand(3), dataset[0, 0]
    assert all(torch.equal(first[key], dataset[3, 1][key]) for key in ("video", "boxes", "rows"))
    assert not torch.equal(first["video"], dataset[4, 1]["video"])
    assert not torch.equal(first["video"], train_set(make_list(paths), seed=8)[3, 1]["video"])


def test_a_batch(paths):
    dataset = eval_set(make_list(paths))
    samples = [dataset[i] for i in (1, 2, 0)]
    batch = BoxDataset.collate(samples)
    assert batch["video"].shape == (3, 1, 3, 4, 64, 64) and batch["index"].tolist() == [1, 2, 0]
    assert batch["boxes"].dtype == torch.float32 and batch["boxes"][:, 0].tolist() == [0, 0, 1, 2]
    assert torch.equal(batch["boxes"][:, 1:], torch.cat([sample["boxes"] for sample in samples]))
    assert batch["rows"].tolist() == [1, 2, 3, 0] and batch["is_outside"].tolist() == [True, False, False, False]
    assert torch.equal(batch["targets"], torch.from_numpy(dataset.videos.actions[[1, 2, 3, 0]]).float())


def test_the_same_batches_with_no_and_two_workers(paths):
    keys = [(epoch, index) for epoch in range(2) for index in range(3)]
    alone, together = (
        list(DataLoader(train_set(make_list(paths)), 2, sampler=keys, num_workers=n, collate_fn=BoxDataset.collate))
        for n in (0, 2)
    )
    for first, second in zip(alone, together, strict=True):
        assert all(torch.equal(first[key], second[key]) for key in ("video", "boxes", "targets", "rows", "index"))


def test_moments_without_boxes_make_a_batch(paths):
    sample = eval_set(make_list(paths, box_starts=(0, 0, 2, 4)))[0]
    batch = BoxDataset.collate([sample])
    assert batch["boxes"].shape == (0, 5) and batch["targets"].shape == (0, 5) and batch["video"].any()


def test_broken_videos(paths, tmp_path):
    (tmp_path / "empty.mp4").touch()
    broken = make_list([paths[0], str(tmp_path / "empty.mp4")])
    sample = eval_set(broken)[1]
    assert sample["index"] == 1 and sample["bad"][0][:2] == (1, broken.paths[1]) and not sample["video"].any()
    assert sample["boxes"].shape == (2, 4) and sample["rows"].tolist() == [1, 2]
    assert sample["video"].shape == (1, 3, 4, 64, 64), "batches stack"
    replaced = train_set(broken)[0, 1]
    assert replaced["index"] != 1 and replaced["rows"].tolist() in ([0], [3]) and len(replaced["bad"]) == 1


def test_a_moment_beyond_the_end_is_named(paths):
    key_frames = make_list(paths, times_sec=(1500.0, 902.0, 901.0))
    bad = eval_set(key_frames)[0]["bad"]
    assert "square.mp4: a key frame is due 600 s after the first frame of 3.0 s; AVA.START_SEC" in bad[0].reason
    with pytest.raises(VideoDecodeError, match="due 600 s"):
        eval_set(key_frames).load(0, 0)

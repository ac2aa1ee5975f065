"""Which window's labels stand on a frame; tests/cli/test_predict.py looks at whole videos."""

import pytest

from hiera_video.report.labeled_video import CurrentWindow, LabeledWindow


def make_windows(*spans):
    return [LabeledWindow(start, end, [str(i)]) for i, (start, end) in enumerate(spans)]


@pytest.mark.parametrize(
    ("spans", "moments"),
    [
        ([(0, 2), (2, 4)], {0: "0", 1.9: "0", 2.0: "1", 3.9: "1", 4.05: "1", 5: None}),
        ([(0, 2), (1, 3), (2, 4)], {0: "0", 1.4: "0", 1.6: "1", 2.4: "1", 2.6: "2", 3.9: "2"}),
        ([(0, 1), (3, 4)], {0.5: "0", 2.0: None, 3.0: "1"}),
        ([], {0: None}),
    ],
    ids=["touching", "overlapping", "gaps", "none"],
)
def test_the_window_whose_middle_is_nearest_is_the_current_one(spans, moments):
    current = CurrentWindow(make_windows(*spans))
    found = {moment: current.find(moment, frame_sec=0.1) for moment in moments}
    assert {moment: window and window.lines[0] for moment, window in found.items()} == moments

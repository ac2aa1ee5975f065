"""Boxes drawn on frames."""

import numpy as np

from hiera_video.report.boxed_video import _COLORS, BoxPainter, LabeledBox, write_boxed_video
from hiera_video.video import VideoReader


def test_a_box_is_drawn_at_its_edges_in_its_tracks_color():
    frame = np.zeros((100, 200, 3), np.uint8)
    BoxPainter(200, 100).paint(frame, [LabeledBox(1, (0.25, 0.5, 0.5, 0.9), [])])
    assert (frame[50, 50:100] == _COLORS[1]).all() and (frame[89, 50:100] == _COLORS[1]).all()
    assert (frame[50:90, 50] == _COLORS[1]).all() and (frame[50:90, 99] == _COLORS[1]).all()
    inside = np.zeros((100, 200), bool)
    inside[50:90, 50:100] = True
    assert not frame[~inside].any() and not frame[55:85, 55:95].any()


def test_text_stands_above_its_box_or_inside_where_there_is_no_room():
    for top, rows in ((0.6, slice(0, 120)), (0.0, slice(2, 100))):
        frame = np.full((200, 300, 3), 128, np.uint8)
        plain = frame.copy()
        BoxPainter(300, 200).paint(plain, [LabeledBox(0, (0.3, top, 0.7, 0.95), [])])
        BoxPainter(300, 200).paint(frame, [LabeledBox(0, (0.3, top, 0.7, 0.95), ["#0", "90 % walk"])])
        changed = np.flatnonzero((frame != plain).any(axis=(1, 2)))
        assert len(changed) > 20 and rows.start <= changed[0] + 2 and changed[-1] < rows.stop


def test_texts_of_boxes_side_by_side_do_not_cover_each_other():
    """The second text would lie on the first: it goes inside of its box, and both are whole."""
    boxes = [
        LabeledBox(0, (0.1, 0.5, 0.3, 0.9), ["100 % Growing"]),
        LabeledBox(1, (0.3, 0.5, 0.5, 0.9), ["Moving left"]),
    ]
    painter = BoxPainter(400, 240)
    together, alone = np.full((240, 400, 3), 128, np.uint8), np.full((240, 400, 3), 128, np.uint8)
    painter.paint(together, boxes)
    painter.paint(alone, boxes[:1])
    above = slice(60, 119)
    assert (alone[above] != 128).any() and np.array_equal(together[above], alone[above])
    inside = together[125:160, 125:195]
    assert (inside != 128).any()


def test_boxes_beyond_the_frame_and_without_area_do_no_harm():
    frame = np.zeros((64, 64, 3), np.uint8)
    boxes = [(-0.5, -0.5, 1.5, 1.5), (0.5, 0.5, 0.5, 0.9), (0.99, 0.99, 1.2, 1.2), (1.2, 0.2, 1.4, 0.4)]
    BoxPainter(64, 64).paint(frame, [LabeledBox(9, box, ["long text " * 9]) for box in boxes])
    assert frame.any()


def test_a_video_has_its_boxes_at_their_times(action_dir, tmp_path):
    """A box that moves right with time: its left edge is where it should be, on three frames."""
    source = str(action_dir / "videos" / "e.mp4")

    def find(time_sec, frame_sec):
        assert abs(frame_sec - 0.1) < 1e-6
        return [LabeledBox(3, (0.1 + time_sec / 10, 0.2, 0.3 + time_sec / 10, 0.8), [])]

    write_boxed_video(source, find, tmp_path / "out.mp4")
    with VideoReader(str(tmp_path / "out.mp4")) as reader, VideoReader(source) as original:
        assert len(reader) == len(original) == 50
        for position in (0, 25, 49):
            frame = reader.get_frames([position])[0].numpy().astype(int)
            x = round((0.1 + position / 100) * 96)
            distance = abs(frame[14:34] - np.array(_COLORS[3])).sum(axis=2).mean(axis=0)  # of each column
            assert distance[x : x + 2].mean() < distance.mean() / 2

"""A video with boxes and what is done in them drawn on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from hiera_video.report.labeled_video import Paint, write_painted_video
from hiera_video.report.overlay import LabelPainter

# Okabe and Ito's colors, which people tell apart who see colors differently.
_COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
_LINES_IN_HEIGHT = 240  # thickness of a box's line


class LabeledBox(NamedTuple):
    """A box on a frame.

    Attributes:
        track: decides the color.
        corners: x1, y1, x2, y2 as shares of the frame.
        lines: of text, at its upper edge.
    """

    track: int
    corners: Sequence[float]
    lines: Sequence[str]


def write_boxed_video(
    video: str,
    find_boxes: Callable[[float, float], Sequence[LabeledBox]],
    path: str | os.PathLike[str],
    *,
    font_path: str = "",
) -> None:
    """Writes a video with boxes and their lines of text on each frame; see `write_painted_video`.

    Args:
        video: path or URL of the video.
        find_boxes: time of a frame, and how long it stands, in seconds since the first frame -> its boxes.
        path: of the file to write.
        font_path: a font file to use before those of the system.

    Raises:
        ValueError: the target is the video itself, or the times of its frames are unknown.
    """

    def make_paint(width_px: int, height_px: int, frame_sec: float) -> Paint:
        painter = BoxPainter(width_px, height_px, font_path=font_path)
        first_sec: list[float] = []

        def paint(picture: np.ndarray, time_sec: float) -> None:
            first_sec[:] = first_sec or [time_sec]
            painter.paint(picture, find_boxes(time_sec - first_sec[0], frame_sec))

        return paint

    write_painted_video(video, path, make_paint)


class BoxPainter:
    """Draws boxes with text on frames.

    Args:
        width_px: of the frames.
        height_px: of the frames.
        font_path: a font file to use before those of the system.
    """

    def __init__(self, width_px: int, height_px: int, *, font_path: str = "") -> None:
        self._labels = LabelPainter(width_px, height_px, font_path=font_path, num_kept=64)
        self._line_px = max(2, height_px // _LINES_IN_HEIGHT)

    def paint(self, frame: np.ndarray, boxes: Sequence[LabeledBox]) -> None:
        """Draws on a frame, uint8 (H, W, 3), in place; a text stands at its box, where there is room."""
        height, width = frame.shape[:2]
        for box in boxes:
            x1, y1, x2, y2 = (
                min(max(round(share * side), 0), side)
                for share, side in zip(box.corners, (width, height, width, height), strict=True)
            )
            if x2 <= x1 or y2 <= y1:
                continue
            line = min(self._line_px, x2 - x1, y2 - y1)
            color = _COLORS[box.track % len(_COLORS)]
            for rows, columns in (
                (slice(y1, y1 + line), slice(x1, x2)),
                (slice(y2 - line, y2), slice(x1, x2)),
                (slice(y1, y2), slice(x1, x1 + line)),
                (slice(y1, y2), slice(x2 - line, x2)),
            ):
                frame[rows, columns] = color
        taken: list[tuple[int, int, int, int]] = []
        for box in boxes:  # after all boxes, so that none crosses a text
            place = self._find_place(frame, box, taken)
            self._labels.paint_at(frame, box.lines, left_px=place[0], top_px=place[1])
            taken.append(place)

    def _find_place(
        self, frame: np.ndarray, box: LabeledBox, taken: Sequence[tuple[int, int, int, int]]
    ) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of a box's text: the first place that covers no other text, or the first of all."""
        height, width = frame.shape[:2]
        text_width, text_height = self._labels.measure(box.lines)
        x1, y1, _, y2 = (round(share * side) for share, side in zip(box.corners, (width, height) * 2, strict=True))
        left = min(max(x1, 0), max(width - text_width, 0))
        tops = [y1 - text_height, max(y1, 0), y2, y2 - text_height]  # above, inside, below, inside
        tops = [top for top in tops if 0 <= top <= height - text_height] or [max(y1, 0)]
        places = [(left, top, left + text_width, top + text_height) for top in tops]
        return next((place for place in places if not any(_overlap(place, other) for other in taken)), places[0])


def _overlap(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> bool:
    return first[0] < second[2] and second[0] < first[2] and first[1] < second[3] and second[1] < first[3]

"""A video with the labels of its windows drawn on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from hiera_video.report.overlay import LabelPainter
from hiera_video.video import VideoReader
from hiera_video.video.attempts import start_over
from hiera_video.video.writer import VideoWriter

_ROUNDING_SEC = 1e-6
# (picture, time_sec) -> draws in place | (width_px, height_px, frame_sec) -> such a function
Paint = Callable[[np.ndarray, float], None]
MakePaint = Callable[[int, int, float], Paint]


class LabeledWindow(NamedTuple):
    """Lines of text for the window [start_sec, end_sec) of a video."""

    start_sec: float
    end_sec: float
    lines: Sequence[str]


class CurrentWindow:
    """Finds the window whose labels stand on a frame: of the windows that the frame is in, the one with the nearest
    middle."""

    def __init__(self, windows: Sequence[LabeledWindow]) -> None:
        self._windows = windows
        self._middles = np.array([(window.start_sec + window.end_sec) / 2 for window in windows])

    def find(self, time_sec: float, *, frame_sec: float) -> LabeledWindow | None:
        """The window at a moment; a last frame that begins at most frame_sec after a window counts as in it."""
        after = int(np.searchsorted(self._middles, time_sec))
        near = [self._windows[i] for i in (after - 1, after) if 0 <= i < len(self._windows)]
        near = [window for window in near if window.start_sec <= time_sec + _ROUNDING_SEC < window.end_sec + frame_sec]
        return min(near, key=lambda window: self._rate(window, time_sec), default=None)

    def _rate(self, window: LabeledWindow, time_sec: float) -> tuple[bool, float]:
        is_over = time_sec + _ROUNDING_SEC >= window.end_sec
        return is_over, abs(window.start_sec + window.end_sec - 2 * time_sec)


def write_labeled_video(
    video: str, windows: Sequence[LabeledWindow], path: str | os.PathLike[str], *, font_path: str = ""
) -> None:
    """Writes a video with the current labels on each frame; see `write_painted_video`.

    Args:
        video: path or URL of the video.
        windows: the labels; windows may overlap.
        path: of the file to write.
        font_path: a font file to use before those of the system.

    Raises:
        ValueError: the target is the video itself, or the times of its frames are unknown.
    """
    current = CurrentWindow(windows)

    def make_paint(width_px: int, height_px: int, frame_sec: float) -> Paint:
        painter = LabelPainter(width_px, height_px, font_path=font_path)

        def paint(picture: np.ndarray, time_sec: float) -> None:
            window = current.find(time_sec, frame_sec=frame_sec)
            painter.paint(picture, window.lines if window else [])

        return paint

    write_painted_video(video, path, make_paint)


def write_painted_video(video: str, path: str | os.PathLike[str], make_paint: MakePaint) -> None:
    """Writes a video as H.264 without sound, at its own times, with something drawn on each frame.

    Frames are decoded, drawn on and written one by one. An odd last row or column is left out, because H.264 needs even
    sizes. The file appears when it is complete.

    Args:
        video: path or URL of the video.
        path: of the file to write.
        make_paint: width and height of the pictures, and the time of a frame -> what draws on a picture, uint8
            (H, W, 3), in place, at its time.

    Raises:
        ValueError: the target is the video itself, or the times of its frames are unknown.
    """
    target = Path(path)
    if target.exists() and os.path.exists(video) and target.samefile(video):
        raise ValueError(f"the labeled video cannot be written to {target}: that is the video itself")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    try:
        with VideoReader(video) as reader:
            for _ in start_over(video, lambda: _write_frames(reader, make_paint, partial)):
                pass
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _write_frames(reader: VideoReader, make_paint: MakePaint, path: Path) -> Iterator[int]:
    """Writes all frames; gives the position of each when it is written."""
    times_sec = reader.times_sec
    height, width = reader.height // 2 * 2, reader.width // 2 * 2
    paint = make_paint(width, height, 1 / reader.fps)
    with VideoWriter(path, width_px=width, height_px=height, fps=reader.fps) as writer:
        frames = reader.iterate_frames(range(len(reader)))
        for position, frame in tqdm(frames, desc="drawing", total=len(reader), leave=False, disable=None):
            picture = np.ascontiguousarray(frame.numpy()[:height, :width])
            paint(picture, times_sec[position])
            writer.write(picture, times_sec[position])
            yield position

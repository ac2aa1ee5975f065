"""Sliding windows over frames that come one by one, of a video whose end nobody knows yet."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch

from hiera_video.streams.window_grid import ROUNDING_FRAMES, WindowGrid, compute_tolerance_sec
from hiera_video.utils.fractions import Number


@dataclass(frozen=True, eq=False)
class LiveClip:
    """A window that is complete.

    Attributes:
        span_sec: [start, end) since the first frame.
        frames: T prepared frames.
    """

    span_sec: tuple[float, float]
    frames: list[torch.Tensor]


@dataclass
class _Window:
    number: int
    start: float  # in frames
    latest_sec: list[float]  # for each of its frames: when it begins at the latest
    frames: list[torch.Tensor] = field(default_factory=list)


class LiveWindows:
    """Windows on a `WindowGrid`; each is given out when the first frame after it comes.

    They are the windows that `SlidingWindows` finds in a file of the same frames. Only frames of unfinished windows are
    kept, once each.

    Args:
        num_frames: T of a clip.
        window_sec: length of a window.
        stride_sec: from one window's start to the next.
        fps: nominal frames per second.
        time_base: unit of the frames' times, seconds.
        is_segment: as for `SlidingWindows`.
        prepare: is applied once to each frame that a window shows.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        num_frames: int,
        *,
        window_sec: Number,
        stride_sec: Number,
        fps: Fraction,
        time_base: Fraction,
        is_segment: bool = False,
        prepare: Callable[[torch.Tensor], torch.Tensor] = lambda frame: frame,
    ) -> None:
        for name, value in (("window_sec", window_sec), ("stride_sec", stride_sec), ("fps", fps)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; it must be above 0")
        self.fps = float(fps)
        self._grid = WindowGrid.make(num_frames, window=window_sec, stride=stride_sec, fps=fps, is_segment=is_segment)
        frame_ticks = 1 / (fps * time_base)
        self._tolerance_sec = compute_tolerance_sec(time_base, fps=self.fps, frame_ticks=frame_ticks)
        self._prepare = prepare
        self._open: deque[_Window] = deque()
        self._num_opened = 0
        self._last: torch.Tensor | None = None  # the newest frame
        self._last_prepared: torch.Tensor | None = None
        self._length = 0.0  # of the video so far, in frames of the nominal rate

    def push(self, time_sec: float, frame: torch.Tensor) -> list[LiveClip]:
        """Takes the next frame and gives the windows that end before it.

        Args:
            time_sec: when it begins, since the first frame; increases.
            frame: is not changed.
        """
        while float(self._grid.get_start(self._num_opened)) < time_sec * self.fps:
            self._open_next()
        if self._last is not None:
            for window in self._open:
                self._fill(window, self._last, until_sec=time_sec)
        self._last, self._last_prepared, self._length = frame, None, time_sec * self.fps + 1
        clips = []
        while self._open and self._is_over(self._open[0]):
            clips.append(self._close(self._open.popleft()))
        return clips

    def finish(self) -> list[LiveClip]:
        """The windows that reach the end of the video or go past it, where they repeat the last frame. Call it once."""
        if self._last is None:
            return []
        count = self._grid.count(Fraction(self._length - ROUNDING_FRAMES))
        while self._num_opened < count:
            self._open_next()
        rest = [window for window in self._open if window.number < count]
        for window in rest:
            self._fill(window, self._last, until_sec=math.inf)
        return [self._close(window) for window in rest]

    def _is_over(self, window: _Window) -> bool:
        """Whether the window has all its frames, and the newest frame of the video reaches its end."""
        end = window.start + float(self._grid.window)
        return len(window.frames) == self._grid.num_frames and self._length >= end - ROUNDING_FRAMES

    def _open_next(self) -> None:
        start = float(self._grid.get_start(self._num_opened))
        latest_sec = self._grid.compute_latest_sec(np.array([start]), fps=self.fps, tolerance_sec=self._tolerance_sec)
        self._open.append(_Window(self._num_opened, start, latest_sec[0].tolist()))
        self._num_opened += 1

    def _fill(self, window: _Window, newest: torch.Tensor, *, until_sec: float) -> None:
        """Puts the newest frame wherever the window shows it; the next frame begins at ``until_sec``."""
        for latest_sec in window.latest_sec[len(window.frames) :]:
            if latest_sec >= until_sec:
                return
            if self._last_prepared is None:
                self._last_prepared = self._prepare(newest)
            window.frames.append(self._last_prepared)

    def _close(self, window: _Window) -> LiveClip:
        end = min(window.start + float(self._grid.window), self._length)
        return LiveClip((window.start / self.fps, end / self.fps), window.frames)

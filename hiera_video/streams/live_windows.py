"""Sliding windows over frames that come one by one, of a video whose end nobody knows yet."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch

_MAX_DENOMINATOR = 1_000_000
_HALF_FRAME = 0.5
_ROUNDING_FRAMES = 1e-6


@dataclass(frozen=True, eq=False)
class LiveClip:
    """A window that is complete.

    Attributes:
        span_sec: [start, end) since the first frame.
        frames: T of them, as `prepare` gave them.
    """

    span_sec: tuple[float, float]
    frames: list[torch.Tensor]


@dataclass
class _Window:
    number: int
    moments_sec: list[float]  # for each of its frames: the latest time of a frame that is shown then
    frames: list[torch.Tensor] = field(default_factory=list)


class LiveWindows:
    """Windows at 0, stride, 2 * stride, ..., each given out when the frame after its last one comes.

    For a video of even frames these are the windows of `SlidingWindows`; at other moments the frame shown then counts.
    Only frames that an unfinished window has are kept, once each.

    Args:
        num_frames: T of a clip.
        window_sec: length of a window.
        stride_sec: distance of two windows' starts.
        fps: nominal frames per second.
        time_base: unit of the frames' times, seconds.
        is_segment: as of `SlidingWindows`.
        prepare: applied to frames that are used.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        num_frames: int,
        *,
        window_sec: float,
        stride_sec: float,
        fps: Fraction,
        time_base: Fraction,
        is_segment: bool = False,
        prepare: Callable[[torch.Tensor], torch.Tensor] = lambda frame: frame,
    ) -> None:
        for name, value in (("window_sec", window_sec), ("stride_sec", stride_sec), ("fps", fps)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; it must be above 0")
        self.fps = float(fps)
        window = max(_to_fraction(window_sec) * fps, Fraction(1))
        self._window, self._stride = float(window), _to_fraction(stride_sec) * fps
        half = self._window / num_frames / 2
        first, last = (half, self._window - half) if is_segment else (0, self._window - 1)
        self._offsets = np.linspace(first, last, num_frames)  # (T,)
        # Where a frame is no whole number of ticks, time stamps are rounded: it counts as shown a tick earlier.
        is_exact = (1 / (fps * time_base)).denominator == 1
        self._tolerance_sec = _ROUNDING_FRAMES / self.fps if is_exact else min(float(time_base), 0.25 / self.fps)
        self._prepare = prepare
        self._open: deque[_Window] = deque()
        self._num_opened = 0
        self._last: torch.Tensor | None = None  # the newest frame
        self._last_prepared: torch.Tensor | None = None
        self._length = 0.0  # of all so far, in frames of the nominal rate

    def push(self, time_sec: float, frame: torch.Tensor) -> list[LiveClip]:
        """Takes the next frame and gives the windows that end before it.

        Args:
            time_sec: since the first frame, increasing.
            frame: not changed.
        """
        while float(self._num_opened * self._stride) < time_sec * self.fps:
            self._open_next()
        for window in self._open:
            self._fill(window, time_sec)
        self._last, self._last_prepared, self._length = frame, None, time_sec * self.fps + 1
        clips = []
        while self._open and self._is_over(self._open[0]):
            clips.append(self._close(self._open.popleft()))
        return clips

    def finish(self) -> list[LiveClip]:
        """The windows that reach to the end or past it, where the last frame is repeated; to be called once."""
        if self._last is None:
            return []
        while self._is_within(self._num_opened):
            self._open_next()
        rest = [window for window in self._open if self._is_within(window.number)]
        for window in rest:
            self._fill(window, math.inf)
        return [self._close(window) for window in rest]

    def _is_over(self, window: _Window) -> bool:
        """Whether all frames are there, and the newest one begins in the last frame of the window, or later."""
        start = float(window.number * self._stride)
        return len(window.frames) == len(self._offsets) and self._length >= start + self._window - _ROUNDING_FRAMES

    def _is_within(self, number: int) -> bool:
        """Whether a window begins before the end of the video, and the one before does not reach it."""
        end = self._length - _HALF_FRAME - _ROUNDING_FRAMES
        before = float((number - 1) * self._stride) + self._window
        return number == 0 or (float(number * self._stride) < end and before < end)

    def _open_next(self) -> None:
        moments_sec = (float(self._num_opened * self._stride) + self._offsets) / self.fps + self._tolerance_sec  # (T,)
        self._open.append(_Window(self._num_opened, moments_sec.tolist()))
        self._num_opened += 1

    def _fill(self, window: _Window, until_sec: float) -> None:
        """Puts the newest frame wherever it is shown, as the next one comes at ``until_sec``."""
        for moment_sec in window.moments_sec[len(window.frames) :]:
            if moment_sec >= until_sec:
                return
            if self._last_prepared is None:
                self._last_prepared = self._prepare(self._last)
            window.frames.append(self._last_prepared)

    def _close(self, window: _Window) -> LiveClip:
        start = float(window.number * self._stride)
        end = min(start + self._window, self._length)
        return LiveClip((start / self.fps, end / self.fps), window.frames)


def _to_fraction(value: float) -> Fraction:
    return Fraction(value).limit_denominator(_MAX_DENOMINATOR)

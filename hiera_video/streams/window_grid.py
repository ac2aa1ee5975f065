"""The grid on which sliding windows lie, and which frames a window shows: one rule for files and for live streams."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np

from hiera_video.data.clip_sampling import compute_clip_indices
from hiera_video.utils.fractions import Number, to_fraction

ROUNDING_FRAMES = 1e-6  # what floating point may add to a position
_HALF_FRAME = Fraction(1, 2)
_QUARTER_FRAME = 0.25
Length = TypeVar("Length", float, Fraction)


@dataclass(frozen=True)
class WindowGrid:
    """Windows at 0, stride, 2 * stride, ... until one reaches the end of the video; lengths in frames.

    Each window shows ``num_frames`` moments. The frame shown at a moment is the last one that begins by then.

    Attributes:
        num_frames: T of a clip.
        window: length of a window, at least one frame.
        stride: from one window's start to the next.
        is_segment: the moments are the middles of T equal parts, instead of running from the first frame to the last.
    """

    num_frames: int
    window: Fraction
    stride: Fraction
    is_segment: bool = False

    @classmethod
    def make(cls, num_frames: int, *, window: Number, stride: Number, fps: Number, is_segment: bool) -> WindowGrid:
        """The grid of a video with ``fps`` frames in the unit of window and stride."""
        scale = to_fraction(fps)
        length = max(to_fraction(window) * scale, Fraction(1))
        return cls(num_frames, length, to_fraction(stride) * scale, is_segment)

    def get_start(self, number: int) -> Fraction:
        """Where a window begins."""
        return number * self.stride

    def count(self, length: Fraction) -> int:
        """How many windows a video of ``length`` frames has.

        Each begins before the end, and none follows the first that reaches it. Less than half a frame does not count.
        """
        end = length - _HALF_FRAME
        to_the_end = math.ceil(max(end - self.window, Fraction(0)) / self.stride) + 1
        return max(min(to_the_end, math.ceil(end / self.stride)), 1)

    def choose_even_frames(self, number: int, num_video_frames: int) -> np.ndarray:
        """Frames that a window shows, int64 (T,), where frame i is shown from i to i + 1; exact arithmetic."""
        first, last = self._get_ends(self.window)
        return compute_clip_indices(
            start_frames=self.get_start(number) + first,
            clip_length_frames=last - first + 1,
            num_frames=self.num_frames,
            num_video_frames=num_video_frames,
        )

    def compute_latest_sec(self, starts: np.ndarray, *, fps: float, tolerance_sec: float) -> np.ndarray:
        """For each moment of windows that begin at ``starts`` (n,): the latest begin of the frame shown then, (n, T).

        A frame counts as shown ``tolerance_sec`` before it begins, see `compute_tolerance_sec`.
        """
        offsets = np.linspace(*self._get_ends(float(self.window)), self.num_frames)  # (T,)
        return (starts[:, None] + offsets) / fps + tolerance_sec

    def _get_ends(self, window: Length) -> tuple[Length, Length]:
        """First and last moment of a window, from its start."""
        half = window / self.num_frames / 2
        return (half, window - half) if self.is_segment else (window * 0, window - 1)


def compute_tolerance_sec(time_base: Fraction, *, fps: float, frame_ticks: Fraction | None = None) -> float:
    """How long before its time stamp a frame counts as shown: containers round time stamps by up to a tick.

    Args:
        time_base: a tick, seconds.
        fps: mean or nominal frames per second; the tolerance is never more than a quarter of a frame.
        frame_ticks: ticks that each frame lasts; None where they differ. With a whole number nothing is rounded.
    """
    if frame_ticks is not None and frame_ticks.denominator == 1:
        return ROUNDING_FRAMES / fps
    return min(float(time_base), _QUARTER_FRAME / fps)


def find_shown(times_sec: Sequence[float], latest_sec: np.ndarray) -> np.ndarray:
    """Positions, shaped like ``latest_sec``, of the last frames that begin by then; the first frame where none does."""
    shown = np.searchsorted(np.asarray(times_sec), latest_sec, side="right") - 1
    return shown.clip(0, len(times_sec) - 1)

"""Which clips of a video a job takes: windows that slide over all of it, or clips spread over it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from fvcore.common.config import CfgNode

from hiera_video.data.clip_sampling import FrameClipSampler, build_clip_sampler
from hiera_video.streams.window_grid import WindowGrid, compute_tolerance_sec, find_shown
from hiera_video.utils.fractions import MAX_DENOMINATOR, Number, to_fraction
from hiera_video.video import FrameIndex

_ROUNDING_SEC = 1e-6


@dataclass(frozen=True, eq=False)
class ClipPlan:
    """The clips of one video, in the order of time.

    Attributes:
        frames: int64 (n, T), positions of each clip's frames.
        spans_sec: float64 (n, 2), [start, end) of each clip since the first frame; NaN where no time is known.
    """

    frames: np.ndarray
    spans_sec: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)


class ClipPlanner(Protocol):
    """Chooses the clips of a video."""

    def plan(self, index: FrameIndex) -> ClipPlan:
        """The clips of a video; raises ValueError where too little is known of it, such as no frame rate."""

    def describe(self) -> dict[str, Any]:
        """How it chooses, in words and numbers that JSON can hold."""


class SlidingWindows:
    """Windows at 0, stride, 2 * stride, ... until one reaches the end of the video, see `WindowGrid`.

    The grid is regular, as code for temporal localization expects: the last window keeps its place on it, and where it
    reaches past the end, the last frame is repeated. A remainder of less than half a frame makes no window.

    Args:
        num_frames: T of a clip.
        window: length of a window.
        stride: from one window's start to the next.
        unit: "sec" or "frames", of window and stride.
        is_segment: a window's frames are the middles of T equal parts, instead of running from its first to its last.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self, num_frames: int, *, window: Number, stride: Number, unit: str = "sec", is_segment: bool = False
    ) -> None:
        if unit not in ("sec", "frames"):
            raise ValueError(f"unit is {unit!r}; legal are 'sec' and 'frames'")
        for name, value in (("window", window), ("stride", stride)):
            if not 1 / MAX_DENOMINATOR <= value < math.inf:
                raise ValueError(f"{name} is {value}; it must be a number of {unit}, at least {1 / MAX_DENOMINATOR:g}")
        self.num_frames = num_frames
        self.window, self.stride, self.unit = to_fraction(window), to_fraction(stride), unit
        self.is_segment = is_segment

    def plan(self, index: FrameIndex) -> ClipPlan:
        """The windows of a video.

        Raises:
            ValueError: windows in seconds, of pictures without a frame rate.
        """
        if index.num_frames == 1 and not index.fps:  # a single picture
            return ClipPlan(np.zeros((1, self.num_frames), dtype=np.int64), np.full((1, 2), np.nan))
        if self.unit == "sec" and not index.fps:
            raise ValueError("its frame rate is unknown, so windows in seconds have no meaning; use frames")
        grid = self.make_grid(index.fps if self.unit == "sec" else 1)
        is_even = self.unit == "frames" or index.pts is None or isinstance(index.pts, range)
        length = Fraction(index.num_frames) if is_even else to_fraction(index.duration_sec) * to_fraction(index.fps)
        starts = [grid.get_start(number) for number in range(grid.count(length))]
        if is_even:
            frames = np.stack([grid.choose_even_frames(number, index.num_frames) for number in range(len(starts))])
        else:
            tolerance_sec = compute_tolerance_sec(index.time_base, fps=index.fps)
            begins = np.array(starts, dtype=np.float64)
            latest_sec = grid.compute_latest_sec(begins, fps=index.fps, tolerance_sec=tolerance_sec)
            frames = find_shown(index.times_sec, latest_sec)
        return ClipPlan(frames, self._compute_spans(index, starts, grid.window))

    def make_grid(self, fps: Number) -> WindowGrid:
        """The grid of a video with ``fps`` frames in a unit of window and stride."""
        return WindowGrid.make(
            self.num_frames, window=self.window, stride=self.stride, fps=fps, is_segment=self.is_segment
        )

    def describe(self) -> dict[str, Any]:
        """Window and stride in their unit, and how a window's frames are chosen."""
        lengths = {"window": float(self.window), "stride": float(self.stride), "unit": self.unit}
        frames = "middles of equal parts" if self.is_segment else "first to last, evenly"
        return {"kind": "sliding windows", **lengths, "num_frames": self.num_frames, "frames": frames}

    def _compute_spans(self, index: FrameIndex, starts: list[Fraction], window: Fraction) -> np.ndarray:
        if not index.fps:
            return np.full((len(starts), 2), np.nan)
        if self.unit == "frames":
            ends = [(start, math.ceil(start + window) - 1) for start in starts]
            return _find_spans(index, np.array(ends, dtype=np.float64))
        begins = np.array([float(start) for start in starts]) / index.fps
        return np.stack([begins, np.minimum(begins + float(window) / index.fps, index.duration_sec)], axis=1)


class UniformClips:
    """A fixed number of clips spread over the video, as in multi-view testing.

    Args:
        sampler: chooses their frames.
    """

    def __init__(self, sampler: FrameClipSampler) -> None:
        self.sampler = sampler

    def plan(self, index: FrameIndex) -> ClipPlan:
        """The clips of a video."""
        frames = self.sampler.get_frame_indices(index.num_frames, index.fps)  # (n, T)
        if not index.fps:
            return ClipPlan(frames, np.full((len(frames), 2), np.nan))
        return ClipPlan(frames, _find_spans(index, frames[:, [0, -1]]))

    def describe(self) -> dict[str, Any]:
        """How many clips."""
        return {"kind": "uniform clips", "num_clips": self.sampler.num_clips, "num_frames": self.sampler.num_frames}


class ClipsWithin:
    """The clips of another planner of which at least half lies in a range of time; or else the clip nearest to it.

    Args:
        planner: the other planner.
        start_sec: start of the range, since the first frame.
        end_sec: end of the range, excluded.

    Raises:
        ValueError: an empty range.
    """

    def __init__(self, planner: ClipPlanner, *, start_sec: float, end_sec: float) -> None:
        if not 0 <= start_sec < end_sec:
            raise ValueError(f"the range [{start_sec:g}, {end_sec:g}) s is empty; it must hold 0 <= start < end")
        self.planner, self.start_sec, self.end_sec = planner, start_sec, end_sec

    def plan(self, index: FrameIndex) -> ClipPlan:
        """The clips of the range.

        Raises:
            ValueError: the range begins after the end of the video, or no time is known.
        """
        if not self.start_sec < index.duration_sec:
            raise ValueError(f"the range begins at {self.start_sec:g} s, the video is {index.duration_sec:g} s long")
        plan = self.planner.plan(index)
        starts, ends = plan.spans_sec.T
        inside = np.minimum(ends, self.end_sec) - np.maximum(starts, self.start_sec)  # (n,) seconds
        chosen = inside >= 0.5 * (ends - starts) - _ROUNDING_SEC
        if not chosen.any():
            chosen[inside.argmax()] = True
        return ClipPlan(plan.frames[chosen], plan.spans_sec[chosen])

    def describe(self) -> dict[str, Any]:
        """How the other planner chooses, and the range."""
        return {**self.planner.describe(), "start_sec": self.start_sec, "end_sec": self.end_sec}


class SpreadClips:
    """At most some of the clips of another planner, spread evenly from the first to the last; of one, the middle.

    Args:
        planner: the other planner.
        max_clips: how many.

    Raises:
        ValueError: max_clips is below 1.
    """

    def __init__(self, planner: ClipPlanner, max_clips: int) -> None:
        if max_clips < 1:
            raise ValueError(f"max_clips is {max_clips}; it must be at least 1")
        self.planner, self.max_clips = planner, max_clips

    def plan(self, index: FrameIndex) -> ClipPlan:
        """These clips of a video."""
        plan = self.planner.plan(index)
        if len(plan) <= self.max_clips:
            return plan
        last = len(plan) - 1
        places = np.linspace(0, last, self.max_clips) if self.max_clips > 1 else np.array([last / 2])
        chosen = places.round().astype(np.int64)
        return ClipPlan(plan.frames[chosen], plan.spans_sec[chosen])

    def describe(self) -> dict[str, Any]:
        """How the other planner chooses, and how many at most."""
        return {**self.planner.describe(), "max_clips": self.max_clips}


def _find_spans(index: FrameIndex, ends: np.ndarray) -> np.ndarray:
    """From the start of a first frame to the end of a last one: positions (n, 2) -> seconds (n, 2)."""
    times_sec = np.array([*index.times_sec, index.duration_sec])
    ends = np.minimum(ends.astype(np.int64), index.num_frames - 1)
    return np.stack([times_sec[ends[:, 0]], times_sec[ends[:, 1] + 1]], axis=1)


def build_windows(
    cfg: CfgNode, *, window: Number | None = None, stride: Number | None = None, unit: str = "sec"
) -> SlidingWindows:
    """Sliding windows of the clips of a config.

    Args:
        cfg: DATA says how many frames a clip has and how they are chosen.
        window: length of a window; None: as long as the clips that the model was trained on.
        stride: from one window's start to the next; None: the length of a window.
        unit: "sec" or "frames", of window and stride.

    Raises:
        ValueError: an argument out of range.
    """
    data = cfg.DATA
    if window is None:
        length = Fraction(data.NUM_FRAMES * data.SAMPLING_RATE)
        window = length if unit == "frames" else length / data.TARGET_FPS
    return SlidingWindows(
        data.NUM_FRAMES,
        window=window,
        stride=window if stride is None else stride,
        unit=unit,
        is_segment=data.SAMPLING == "segment",
    )


def build_clip_planner(cfg: CfgNode) -> ClipPlanner:
    """The clips that EXTRACT asks for; a window or stride of 0 stands for the default of `build_windows`."""
    extract = cfg.EXTRACT
    if extract.CLIPS == "uniform":
        return UniformClips(build_clip_sampler(cfg, num_clips=extract.NUM_CLIPS, is_training=False))
    return build_windows(cfg, window=extract.WINDOW or None, stride=extract.STRIDE or None, unit=extract.UNIT)

"""Which frames of a video the clip around a key frame takes, and when a file's first frame was taken: arithmetic."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from hiera_video.utils.fractions import Number, to_fraction
from hiera_video.video.index import FrameIndex

WHOLE_SEC, CUT_SEC = 0.0, 900.0  # AVA's films as they are, and without their first 15 minutes
_TOLERANCE_SEC = 1.0


class KeyFrameSampler:
    """The frames nearest to moments around a key frame: at distances of ``sampling_rate / target_fps`` seconds.

    Frame number ``num_frames // 2`` of the clip, counted from 0, is the key frame. Moments before the first frame or
    after the last one take that frame. Of two frames that are equally near, it is the earlier one.

    Args:
        num_frames: T.
        sampling_rate: frames from one to the next, at ``target_fps``.
        target_fps: also the rate of pictures, which have none.

    Follows: SlowFast on AVA, whose frames come at 30 a second: positions ``range(c - 32, c + 32, 4)``, clamped.
    Differs: any rate of frames, even a changing one, by exact times; an odd number of frames has the key frame too.
    """

    def __init__(self, *, num_frames: int, sampling_rate: Number, target_fps: Number) -> None:
        self.target_fps = to_fraction(target_fps)
        step = to_fraction(sampling_rate) / self.target_fps
        self.offsets_sec = [(number - num_frames // 2) * step for number in range(num_frames)]

    def get_frame_indices(self, index: FrameIndex, time_sec: Number) -> np.ndarray:
        """Positions of a clip's frames, int64 (T,), in order.

        Args:
            index: the frames of the video.
            time_sec: of the key frame, since the first frame of the video.

        Raises:
            ValueError: it lies more than a second before the first frame or after the last one.
        """
        length_sec = self.compute_length_sec(index)
        if not -_TOLERANCE_SEC <= time_sec <= length_sec + _TOLERANCE_SEC:
            raise ValueError(f"a key frame is due {float(time_sec):g} s after the first frame of {length_sec:.1f} s")
        time = to_fraction(time_sec)
        return np.array([self._find(index, time + offset) for offset in self.offsets_sec], dtype=np.int64)

    def compute_length_sec(self, index: FrameIndex) -> float:
        """How long a video lasts; of pictures without a rate, at ``target_fps``."""
        return index.duration_sec or index.num_frames / float(self.target_fps)

    def _find(self, index: FrameIndex, time: Fraction) -> int:
        if index.pts is None:
            place = _round_down(time * (to_fraction(index.fps) if index.fps else self.target_fps))
        else:
            place = _find_nearest(index.pts, index.pts[0] + time / index.time_base)
        return min(max(place, 0), index.num_frames - 1)


def find_start_sec(duration_sec: float, last_sec: float) -> float:
    """When the first frame of AVA's file was taken: 0 of a whole film, 900 if it was cut there as is usual.

    Args:
        duration_sec: of the file.
        last_sec: the last moment that the lists name in it.

    Raises:
        ValueError: it is neither.
    """
    if last_sec <= duration_sec:
        return WHOLE_SEC
    if CUT_SEC <= last_sec <= CUT_SEC + duration_sec + _TOLERANCE_SEC:
        return CUT_SEC
    raise ValueError(
        f"it lasts {duration_sec:.1f} s, and the lists name second {last_sec:g} in it: it is neither a whole film "
        "(AVA.START_SEC 0) nor one cut at 900 s (AVA.START_SEC 900); set AVA.START_SEC to the time of its first frame"
    )


def _find_nearest(stamps: Sequence[int], wanted: Fraction) -> int:
    place = bisect_left(stamps, wanted)
    if place == 0:
        return 0
    if place == len(stamps) or wanted - stamps[place - 1] <= stamps[place] - wanted:
        return place - 1
    return place


def _round_down(value: Fraction) -> int:
    """To the nearest integer; a half goes down, to the earlier frame."""
    return math.ceil(value - Fraction(1, 2))

"""Which frames of a video a clip takes: pure arithmetic, no pixels.

A sampler has two interfaces. Our data set asks `get_frame_indices` (frames, exact); PyTorchVideo's data sets call the
sampler itself (seconds), so ours can be plugged in there, and theirs here through `PytorchVideoClipSampler`.
All random draws come from Python's global ``random``, as PyTorchVideo's do.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode
from pytorchvideo.data.clip_sampling import ClipInfo, ClipSampler

from hiera_video.utils.fractions import Number, to_fraction


def compute_clip_length_frames(*, num_frames: int, sampling_rate: Number, fps: Number, target_fps: Number) -> Fraction:
    """Length of a clip in frames of the video: num_frames * sampling_rate * fps / target_fps, exact.

    Args:
        num_frames: frames that the model gets.
        sampling_rate: distance of two of them, in frames of a video at `target_fps`.
        fps: frame rate of the video, in frames a second; 0, negative or not finite means unknown: `target_fps`.
        target_fps: frame rate for which `sampling_rate` is meant.

    Follows: SlowFast, slowfast/datasets/decoder.py.
    Differs: never below one frame, where SlowFast's clip would run backwards.
    """
    target = to_fraction(target_fps)
    rate = to_fraction(fps) if _is_known_fps(fps) else target
    return max(num_frames * to_fraction(sampling_rate) * rate / target, Fraction(1))


def compute_clip_start_frames(
    *, delta_frames: Number, clip_index: int, num_clips: int, use_offset_sampling: bool
) -> Fraction:
    """Start of test clip `clip_index` of `num_clips`, in frames, when the first frame can lie in [0, delta_frames].

    With `use_offset_sampling`: clip_index * floor(delta / (num_clips - 1)), and floor(delta / 2) for a single clip;
    without: clip_index * delta / num_clips.

    Follows: SlowFast, slowfast/datasets/decoder.py.
    """
    delta = Fraction(delta_frames)
    if not use_offset_sampling:
        return clip_index * delta / num_clips
    if num_clips == 1:
        return Fraction(delta // 2)
    return clip_index * Fraction(delta // (num_clips - 1))


def compute_clip_indices(
    *, start_frames: Number, clip_length_frames: Number, num_frames: int, num_video_frames: int
) -> np.ndarray:
    """Frames of a clip: linspace(start, start + length - 1, num_frames), clamped to the video, then floored.

    Returns:
        int64 (num_frames,), in order, each in [0, num_video_frames); a short video repeats its last frame.

    Differs: exact arithmetic, so that 2.9999999 for 3 cannot happen.
    """
    start = Fraction(start_frames)
    step = (Fraction(clip_length_frames) - 1) / max(num_frames - 1, 1)
    # One common denominator turns the rest into integer arithmetic.
    denominator = start.denominator * step.denominator
    first, stride = start.numerator * step.denominator, step.numerator * start.denominator
    last = num_video_frames - 1
    indices = [min(max((first + i * stride) // denominator, 0), last) for i in range(num_frames)]
    return np.array(indices, dtype=np.int64)


def compute_segment_indices(*, positions: Sequence[Number], num_video_frames: int) -> np.ndarray:
    """Frames of a segment-sampled clip: the video is cut into len(positions) equal parts, one frame of each.

    Args:
        positions: relative place in each part, in [0, 1).
        num_video_frames: frames of the video; fewer frames than parts repeat frames.

    Returns:
        int64 (len(positions),), in order, each in [0, num_video_frames).

    Follows: Temporal Segment Networks (arXiv 1608.00859), section 3.1.
    Differs: from SlowFast's ssv2 reader, which cuts num_video_frames - 1 and always takes the center in testing.
    """
    num_parts = len(positions)
    indices = [int((i + Fraction(place)) * num_video_frames / num_parts) for i, place in enumerate(positions)]
    return np.minimum(np.array(indices, dtype=np.int64), num_video_frames - 1)


class FrameClipSampler(ClipSampler):
    """What our samplers share: `num_clips` clips of `num_frames` frames each, and PyTorchVideo's interface to them.

    Args:
        num_frames: frames of a clip.
        num_clips: clips of a video.
        clip_duration_sec: length of a clip for PyTorchVideo; 0 stands for the whole video.
    """

    _current_clip_index: int  # set by PyTorchVideo's class, which brings no types

    def __init__(self, *, num_frames: int, num_clips: int, clip_duration_sec: Number) -> None:
        _check_positive("num_frames", num_frames)
        _check_positive("num_clips", num_clips)
        super().__init__(clip_duration_sec)
        self.num_frames = num_frames
        self.num_clips = num_clips

    @abstractmethod
    def get_frame_indices(self, num_video_frames: int, fps: Number) -> np.ndarray:
        """Frames of each clip.

        Args:
            num_video_frames: frames of the video, at least 1.
            fps: frame rate of the video; 0 means unknown.

        Returns:
            int64 (num_clips, num_frames), rows in order, values in [0, num_video_frames).

        Raises:
            ValueError: the video has no frame.
        """

    @abstractmethod
    def _get_clip_start_sec(self, clip_index: int, delta_sec: Fraction) -> Number:
        """Start of a clip that may begin in [0, delta]."""

    def __call__(self, last_clip_time: Number | None, video_duration: Number, annotation: dict[str, Any]) -> ClipInfo:
        """The next clip as PyTorchVideo's data sets want it: [start, end) in seconds."""
        duration_sec = self._clip_duration or Fraction(video_duration)
        delta_sec = max(Fraction(video_duration) - duration_sec, Fraction(0))
        clip_index = self._current_clip_index
        start_sec = Fraction(self._get_clip_start_sec(clip_index, delta_sec))
        is_last_clip = clip_index + 1 == self.num_clips
        self._current_clip_index = 0 if is_last_clip else clip_index + 1
        return ClipInfo(start_sec, start_sec + duration_sec, clip_index, 0, is_last_clip)

    def reset(self) -> None:
        """The next call is for the first clip of another video."""
        self._current_clip_index = 0


class _StridedClipSampler(FrameClipSampler):
    """Clips of evenly spaced frames that last num_frames * sampling_rate / target_fps seconds."""

    def __init__(self, num_frames: int, sampling_rate: Number, target_fps: Number, num_clips: int) -> None:
        _check_positive("num_frames", num_frames)
        _check_positive("sampling_rate", sampling_rate)
        _check_positive("target_fps", target_fps)
        duration_sec = num_frames * to_fraction(sampling_rate) / to_fraction(target_fps)
        super().__init__(num_frames=num_frames, num_clips=num_clips, clip_duration_sec=duration_sec)
        self.sampling_rate = sampling_rate
        self.target_fps = target_fps

    @abstractmethod
    def _get_clip_start_frames(self, clip_index: int, delta_frames: Fraction) -> Number:
        """Start of a clip that may begin in [0, delta]."""

    def _get_clip_start_sec(self, clip_index: int, delta_sec: Fraction) -> Number:
        # In seconds the video's own rate is unknown; its frames are taken to come at target_fps.
        fps = to_fraction(self.target_fps)
        return self._get_clip_start_frames(clip_index, delta_sec * fps) / fps

    def get_frame_indices(self, num_video_frames: int, fps: Number) -> np.ndarray:
        _check_has_frames(num_video_frames)
        length = compute_clip_length_frames(
            num_frames=self.num_frames, sampling_rate=self.sampling_rate, fps=fps, target_fps=self.target_fps
        )
        delta = max(num_video_frames - length, Fraction(0))
        clips = [
            compute_clip_indices(
                start_frames=self._get_clip_start_frames(clip_index, delta),
                clip_length_frames=length,
                num_frames=self.num_frames,
                num_video_frames=num_video_frames,
            )
            for clip_index in range(self.num_clips)
        ]
        return np.stack(clips)


class RandomClipSampler(_StridedClipSampler):
    """Training: each clip starts anywhere in [0, delta], uniformly and independently; delta = max(video - clip, 0).

    Args:
        num_frames: frames of a clip.
        sampling_rate: distance of two of them, in frames of a video at `target_fps`.
        target_fps: frame rate for which `sampling_rate` is meant.
        num_clips: clips of a video (repeated augmentation).
    """

    def __init__(self, num_frames: int, sampling_rate: Number, target_fps: Number, num_clips: int = 1) -> None:
        super().__init__(num_frames, sampling_rate, target_fps, num_clips)

    def _get_clip_start_frames(self, clip_index: int, delta_frames: Fraction) -> Number:
        return Fraction(random.uniform(0.0, float(delta_frames)))


class UniformClipSampler(_StridedClipSampler):
    """Testing: `num_clips` clips spread evenly over the video, see `compute_clip_start_frames`.

    Args:
        num_frames: frames of a clip.
        sampling_rate: distance of two of them, in frames of a video at `target_fps`.
        target_fps: frame rate for which `sampling_rate` is meant.
        num_clips: clips of a video.
        use_offset_sampling: DATA.USE_OFFSET_SAMPLING.
    """

    def __init__(
        self,
        num_frames: int,
        sampling_rate: Number,
        target_fps: Number,
        num_clips: int = 1,
        use_offset_sampling: bool = True,
    ) -> None:
        super().__init__(num_frames, sampling_rate, target_fps, num_clips)
        self.use_offset_sampling = use_offset_sampling

    def _get_clip_start_frames(self, clip_index: int, delta_frames: Fraction) -> Number:
        return compute_clip_start_frames(
            delta_frames=delta_frames,
            clip_index=clip_index,
            num_clips=self.num_clips,
            use_offset_sampling=self.use_offset_sampling,
        )


class SegmentClipSampler(FrameClipSampler):
    """Segment (TSN) sampling: the whole video in `num_frames` equal parts, one frame of each.

    In training (`random=True`) the place within each part is drawn anew; in testing clip k of n takes the place
    (k + 0.5) / n in every part, so that several clips show different frames.

    In PyTorchVideo's interface a clip is the whole video; choosing frames is then up to that data set's transform.
    """

    def __init__(self, num_frames: int, num_clips: int = 1, random: bool = False) -> None:
        super().__init__(num_frames=num_frames, num_clips=num_clips, clip_duration_sec=0)
        self.random = random

    def _get_clip_start_sec(self, clip_index: int, delta_sec: Fraction) -> Number:
        return 0

    def _get_positions(self, clip_index: int) -> list[Number]:
        if self.random:
            return [random.random() for _ in range(self.num_frames)]
        return [Fraction(2 * clip_index + 1, 2 * self.num_clips)] * self.num_frames

    def get_frame_indices(self, num_video_frames: int, fps: Number = 0) -> np.ndarray:
        _check_has_frames(num_video_frames)
        clips = [
            compute_segment_indices(positions=self._get_positions(k), num_video_frames=num_video_frames)
            for k in range(self.num_clips)
        ]
        return np.stack(clips)


class PytorchVideoClipSampler:
    """Lets any clip sampler of PyTorchVideo choose frames.

    Of the frames that its clips [start, end) show, it takes `num_frames` at even distances, as
    ``EncodedVideo.get_clip`` followed by ``UniformTemporalSubsample`` does.

    Args:
        clip_sampler: the sampler; it is reset before each video.
        num_frames: frames of a clip.
        max_clips: number of clips of every video, so that batches stack: further ones are left out, and when the
            sampler has fewer they are repeated in turn.
        default_fps: stands in for a frame rate that is unknown.
    """

    def __init__(
        self, clip_sampler: ClipSampler, num_frames: int, max_clips: int = 1, default_fps: Number = 30
    ) -> None:
        _check_positive("num_frames", num_frames)
        _check_positive("max_clips", max_clips)
        self.clip_sampler = clip_sampler
        self.num_frames = num_frames
        self.num_clips = max_clips
        self.default_fps = default_fps

    def get_frame_indices(self, num_video_frames: int, fps: Number) -> np.ndarray:
        """Frames of each clip, int64 (max_clips, num_frames); see `FrameClipSampler.get_frame_indices`."""
        _check_has_frames(num_video_frames)
        rate = to_fraction(fps if _is_known_fps(fps) else self.default_fps)
        clips_sec = self._get_clips_sec(Fraction(num_video_frames) / rate)
        return np.stack(
            [self._get_indices(clips_sec[k % len(clips_sec)], rate, num_video_frames) for k in range(self.num_clips)]
        )

    def _get_clips_sec(self, duration_sec: Fraction) -> list[tuple[Fraction, Fraction]]:
        self.clip_sampler.reset()
        clips: list[tuple[Fraction, Fraction]] = []
        end: Number = Fraction(0)
        is_last = False
        while not is_last and len(clips) < self.num_clips:
            starts, ends, _, _, last = self.clip_sampler(end, duration_sec, {})
            if isinstance(starts, list):  # RandomMultiClipSampler gives all its clips at once
                clips.extend((Fraction(a), Fraction(b)) for a, b in zip(starts, ends, strict=True))
                end, is_last = ends[-1], last[-1]
            else:
                clips.append((Fraction(starts), Fraction(ends)))
                end, is_last = ends, last
        self.clip_sampler.reset()
        return clips[: self.num_clips]

    def _get_indices(self, clip_sec: tuple[Fraction, Fraction], fps: Fraction, num_video_frames: int) -> np.ndarray:
        start_sec, end_sec = clip_sec
        # Frame i is shown at i / fps: the clip holds ceil(start * fps) ... ceil(end * fps) - 1.
        last = num_video_frames - 1
        first_in_clip = min(max(-((-start_sec * fps) // 1), 0), last)
        last_in_clip = min(max(-((-end_sec * fps) // 1) - 1, first_in_clip), last)
        return compute_clip_indices(
            start_frames=first_in_clip,
            clip_length_frames=last_in_clip - first_in_clip + 1,
            num_frames=self.num_frames,
            num_video_frames=num_video_frames,
        )


def _is_known_fps(fps: Number) -> bool:
    return 0 < fps < float("inf")


def _check_positive(name: str, value: Number) -> None:
    if not value > 0:
        raise ValueError(f"{name} is {value!r}; it must be greater than 0")


def _check_has_frames(num_video_frames: int) -> None:
    if num_video_frames < 1:
        raise ValueError(f"num_video_frames is {num_video_frames}; no clip can be taken from a video without frames")


def build_clip_sampler(cfg: CfgNode, *, num_clips: int, is_training: bool) -> FrameClipSampler:
    """The sampler that DATA.SAMPLING asks for: random clips in training, evenly spread ones otherwise."""
    data = cfg.DATA
    if data.SAMPLING == "segment":
        return SegmentClipSampler(data.NUM_FRAMES, num_clips, random=is_training)
    if is_training:
        return RandomClipSampler(data.NUM_FRAMES, data.SAMPLING_RATE, data.TARGET_FPS, num_clips)
    return UniformClipSampler(
        data.NUM_FRAMES, data.SAMPLING_RATE, data.TARGET_FPS, num_clips, use_offset_sampling=data.USE_OFFSET_SAMPLING
    )

"""Writes a video anew as an H.264 file that is cheap to read at random places: the same frames at the same times."""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from hiera_video.video.index import FrameIndex, VideoDecodeError, decode_index, iterate_frames, open_stream
from hiera_video.video.reader import VideoReader
from hiera_video.video.source import find_source

_MAX_TICKS_PER_SEC = 1_000_000  # a finer time base is rounded to the next one
_COARSE_TICKS_PER_SEC = 90_000
# The same bytes on every processor.
_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
_SAME_FPS = 0.005  # a range's rate this close to the source's is the same


@dataclass(frozen=True)
class Encoding:
    """How videos are written.

    Attributes:
        short_side_px: larger frames are scaled down to this short side; smaller ones keep their size. Sides are even.
        key_distance_frames: from one key frame to the next; decoding starts at these alone.
        crf: x264's quality: lower is better and larger.
        preset: x264's; a slower one makes smaller files.
        b_frames: between two frames that others refer to. No frame refers to these, so a reader that does not want them
            leaves them out.
        fast_decode: leave out what costs a decoder most: arithmetic coding, the deblocking filter, weighted prediction.
    """

    short_side_px: int = 256
    key_distance_frames: int = 16
    crf: int = 19
    preset: str = "medium"
    b_frames: int = 3
    fast_decode: bool = True


@dataclass(frozen=True)
class Reencoded:
    """What `reencode` made of a video.

    Attributes:
        num_frames: of the new file.
        ticks: when each begins, since the first one, in units of ``time_base``.
        time_base: of the new file, in seconds.
        fps: frames a second, as the source says, or of the range where that differs.
        duration_sec: to the end of the last frame. With uneven times the file itself may tell its length wrong,
            as MP4 stores lengths in decoding order.
        samples: position in the new file -> that frame of the source, uint8 RGB (H, W, 3), upright, not scaled.
        notes: what was wrong with the source; its frames are those that decode.
    """

    num_frames: int
    ticks: tuple[int, ...]
    time_base: Fraction
    fps: float
    duration_sec: float
    samples: dict[int, np.ndarray]
    notes: str


class _OtherFramesError(Exception):
    """The decoder gives other frames than the packets promise."""


@dataclass(frozen=True)
class _Plan:
    """Which frames of the source to write, and when each is shown."""

    first: int
    ticks: tuple[int, ...]  # since the first of them
    last_duration: int
    time_base: Fraction
    fps: float


def reencode(
    path: str,
    target: str | Path,
    encoding: Encoding,
    *,
    range_sec: tuple[float, float] | None = None,
    pictures_fps: float = 30.0,
    num_samples: int = 2,
) -> Reencoded:
    """Writes a video's frames as an MP4 file without sound, whose index stands in front of the frames.

    Frames and times are those of `VideoReader`: what a full decode shows, upright, also where rates vary. Colors keep
    their matrix; the range becomes the limited one.

    Args:
        path: of the video, or of its pictures.
        target: the file to write.
        encoding: how.
        range_sec: only frames that begin in [first, second), in seconds since the first frame. None: all.
        pictures_fps: the rate of videos that lie there as pictures, which says nothing of time.
        num_samples: how many frames of the source to give back, evenly spread.

    Raises:
        FileNotFoundError: there is no such video.
        VideoDecodeError: it is no video, nothing in it decodes, or no frame is in the range.
    """
    with VideoReader(path) as reader:
        index, is_pictures = reader.index, reader.codec == "pictures"
    if is_pictures:
        plan = _make_plan(path, index, range_sec, fps=pictures_fps)
        return _write(_iterate_pictures(path), target, encoding, plan, num_samples=num_samples, notes=[])
    for _ in range(2):
        notes: list[str] = []
        plan = _make_plan(path, index, range_sec)
        try:
            frames = _iterate_checked(path, index, notes)
            return _write(frames, target, encoding, plan, num_samples=num_samples, notes=notes)
        except _OtherFramesError:  # damage that only decoding shows
            index = decode_index(find_source(path), stream_index=None, num_threads=1)
    raise VideoDecodeError(f"{path}: its frames change each time that it is decoded")


def _make_plan(
    path: str, index: FrameIndex, range_sec: tuple[float, float] | None, *, fps: float | None = None
) -> _Plan:
    fps = fps or index.fps
    if index.pts is None:  # evenly spaced, as `FrameIndex.times_sec` has them
        step = 1 / Fraction(fps).limit_denominator(1001)
        pts: Sequence[int] = range(index.num_frames)
        time_base, length_sec = step, index.num_frames * step
    else:
        pts, time_base = index.pts, index.time_base
        length_sec = Fraction(index.duration_sec).limit_denominator(_MAX_TICKS_PER_SEC)
    begins = [(stamp - pts[0]) * time_base for stamp in pts]
    first, end = 0, len(begins)
    if range_sec is not None:
        first, end = (
            bisect_left(begins, Fraction(second).limit_denominator(_MAX_TICKS_PER_SEC)) for second in range_sec
        )
        if first == end:
            raise VideoDecodeError(
                f"{path}: no frame begins in [{range_sec[0]:g}, {range_sec[1]:g}) s; it lasts {float(length_sec):.3f} s"
            )
    is_coarse = time_base.denominator > _MAX_TICKS_PER_SEC
    tick = Fraction(1, _COARSE_TICKS_PER_SEC if is_coarse else time_base.denominator)
    ends = [*begins[1:], max(length_sec, begins[-1] + tick)]
    ticks = [round((begin - begins[first]) / tick) for begin in begins[first:end]]
    ticks = list(accumulate(ticks, lambda before, now: max(before + 1, now)))
    last_duration = max(round((ends[end - 1] - begins[end - 1]) / tick), 1)
    range_fps = len(ticks) / float((ticks[-1] + last_duration) * tick)
    is_same = len(ticks) == len(begins) or abs(range_fps / fps - 1) < _SAME_FPS
    return _Plan(first, tuple(ticks), last_duration, tick, fps if is_same else range_fps)


def _iterate_checked(path: str, index: FrameIndex, notes: list[str]) -> Iterator[av.VideoFrame]:
    """All frames of a full decode. Raises _OtherFramesError where they are not those of the index."""
    source = find_source(path)
    container, stream = open_stream(source, stream_index=None, num_threads=1)
    count = num_damaged = 0
    errors: list[str] = []
    with container:
        for frame in iterate_frames(container, stream, errors=errors):
            if count == index.num_frames or (index.pts is not None and frame.pts != index.pts[count]):
                raise _OtherFramesError
            count, num_damaged = count + 1, num_damaged + bool(frame.is_corrupt)
            yield frame
    source.close()
    if count != index.num_frames:
        raise _OtherFramesError
    notes += errors[:1]
    notes += [f"{num_damaged} of {count} frames have damage"] if num_damaged else []


def _iterate_pictures(path: str) -> Iterator[av.VideoFrame]:
    with VideoReader(path) as reader:
        for _, rgb in reader.iterate_frames(range(len(reader))):
            yield av.VideoFrame.from_ndarray(rgb.numpy(), format="rgb24")


def _write(
    frames: Iterator[av.VideoFrame],
    target: str | Path,
    encoding: Encoding,
    plan: _Plan,
    *,
    num_samples: int,
    notes: list[str],
) -> Reencoded:
    """Encodes the planned frames. All frames are decoded, also those outside of a range, so that damage shows."""
    length = len(plan.ticks)
    sampled = {(2 * i + 1) * length // (2 * num_samples) for i in range(num_samples)}
    samples: dict[int, np.ndarray] = {}
    writer: _FileWriter | None = None
    reformatter = VideoReformatter()
    try:
        for position, frame in enumerate(frames, start=-plan.first):
            if not 0 <= position < length:
                continue
            turns = round(frame.rotation / 90)
            writer = writer or _FileWriter(target, encoding, plan, frame)
            if position in sampled:
                rgb = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
                samples[position] = np.ascontiguousarray(np.rot90(rgb, turns))
            writer.write(frame, position)
    except BaseException:
        if writer is not None:
            writer.abandon()
        raise
    if writer is None:
        raise VideoDecodeError("no frame can be decoded")
    writer.finish()
    duration_sec = float((plan.ticks[-1] + plan.last_duration) * plan.time_base)
    return Reencoded(length, plan.ticks, plan.time_base, plan.fps, duration_sec, samples, "; ".join(notes))


class _FileWriter:
    """An MP4 file that grows frame by frame."""

    def __init__(self, target: str | Path, encoding: Encoding, plan: _Plan, first: av.VideoFrame) -> None:
        self._plan, self._reformatter = plan, VideoReformatter()
        self._turns = round(first.rotation / 90)
        self._size = compute_size(first.width, first.height, encoding.short_side_px)
        whole = first.width, first.height
        self._scaled = whole if self._size == (whole[0] & ~1, whole[1] & ~1) else self._size
        options = {"movflags": "faststart", "video_track_timescale": str(plan.time_base.denominator)}
        self._container = av.open(f"file:{target}", "w", format="mp4", options=options)
        rate = Fraction(plan.fps).limit_denominator(1001)
        self._stream: Any = self._container.add_stream("libx264", rate=rate, options=_make_options(encoding))
        width, height = self._size if self._turns % 2 == 0 else self._size[::-1]
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        context = self._stream.codec_context
        context.time_base, context.thread_count = plan.time_base, 1
        if not first.format.is_rgb:
            context.colorspace, context.color_range = first.colorspace, ColorRange.MPEG
            context.color_primaries, context.color_trc = first.color_primaries, first.color_trc

    def write(self, frame: av.VideoFrame, position: int) -> None:
        ticks = self._plan.ticks
        picture = self._convert(frame)
        is_last = position == len(ticks) - 1
        picture.pts, picture.time_base = ticks[position], self._plan.time_base
        picture.duration = self._plan.last_duration if is_last else ticks[position + 1] - ticks[position]
        picture.pict_type = PictureType.NONE
        self._container.mux(self._stream.encode(picture))

    def finish(self) -> None:
        try:
            self._container.mux(self._stream.encode())
        finally:
            self._container.close()

    def abandon(self) -> None:
        with contextlib.suppress(av.FFmpegError):
            self._container.close()

    def _convert(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Scaled, cut to even sides, upright."""
        scaled = self._reformatter.reformat(
            frame,
            width=self._scaled[0],
            height=self._scaled[1],
            format="yuv420p",
            dst_color_range=ColorRange.MPEG,
            interpolation=_SCALING,
            threads=1,
        )
        if self._scaled == self._size and self._turns == 0:
            return scaled
        return _cut_and_turn(scaled, self._size, self._turns)


def compute_size(width: int, height: int, short_side_px: int) -> tuple[int, int]:
    """Width and height of the new pictures: scaled down so that the shorter is ``short_side_px``, and even."""
    short = min(width, height)
    if short <= short_side_px:
        return max(width & ~1, 2), max(height & ~1, 2)
    return (
        max(round(width * short_side_px / short / 2) * 2, 2),
        max(round(height * short_side_px / short / 2) * 2, 2),
    )


def _cut_and_turn(frame: av.VideoFrame, size: tuple[int, int], turns: int) -> av.VideoFrame:
    """The upper left part of a yuv420p picture, turned counter-clockwise by quarters."""
    width, height = size
    planes = []
    for number, plane in enumerate(frame.planes):
        rows = np.frombuffer(memoryview(plane), dtype=np.uint8).reshape(-1, plane.line_size)
        factor = 1 if number == 0 else 2
        planes.append(np.rot90(rows[: height // factor, : width // factor], turns).reshape(-1))
    width, height = size if turns % 2 == 0 else size[::-1]
    packed = np.concatenate(planes).reshape(height * 3 // 2, width)
    turned = av.VideoFrame.from_ndarray(packed, format="yuv420p")
    turned.colorspace, turned.color_range = frame.colorspace, frame.color_range
    return turned


def _make_options(encoding: Encoding) -> dict[str, str]:
    """x264's options: key frames exactly where they are wanted, and the same bytes at each run."""
    params = {
        "keyint": encoding.key_distance_frames,
        "min-keyint": encoding.key_distance_frames,
        "scenecut": 0,
        "open-gop": 0,
        "bframes": encoding.b_frames,
        "b-adapt": 0,
        "b-pyramid": "none",
        "mbtree": 0,  # it saves some of the size, but gives other bytes now and then, seemingly at random
        "threads": 1,
        "lookahead-threads": 1,
    }
    options = {"preset": encoding.preset, "crf": str(encoding.crf)}
    options |= {"tune": "fastdecode"} if encoding.fast_decode else {}
    return options | {"x264-params": ":".join(f"{name}={value}" for name, value in params.items())}

"""Which frames does a file really have? Headers do not say: they count hidden and missing frames, or nothing at all.

A frame's *presentation position* is its place in the output of a decoder that is fed the whole stream from its start.
Two ways lead to the same list:

* `scan_packets` reads the packets without decoding them (a few milliseconds). It answers only if each packet is sure to
  give one frame: container and codec promise it, all time stamps are present and distinct, and nothing is cut off.
* `decode_index` decodes everything and counts. It serves all other files: AVI with its guessed time stamps, MPEG-4
  with its empty pictures, VP8 with its invisible frames, streams that start in the middle, truncated files.

Neither the container nor the packets show damage inside a packet. The decoder then notices that frames are missing (see
`pyav_backend`), and the file is counted by decoding.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from statistics import median
from typing import cast

import av

from hiera_video.utils.logging import get_logger
from hiera_video.video.source import Source

_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}  # by their rules, one packet holds one shown frame
_CODECS = {"h264", "hevc", "vp9", "av1"}
_FPS_TOLERANCE = 0.02  # a header's rate this close to the measured one is taken, as it has no rounding errors
_logger = get_logger(__name__)


class VideoDecodeError(RuntimeError):
    """A file that is no video, or frames that do not decode. The message names the path, and the frame when known."""


@dataclass(frozen=True)
class KeyFrame:
    """A packet where decoding may start: all frames from here on come out as if the whole stream had been decoded.

    Packets before it in the file are shown earlier, packets after it later.
    """

    position: int  # of its frame, which is the first frame that the decoder gives
    pts: int
    seek_timestamp: int


@dataclass(frozen=True)
class FrameIndex:
    """The frames of one video stream in presentation order.

    ``pts`` (in units of ``time_base``) increases strictly. It is a range if the frames are evenly spaced, and None if
    the time stamps cannot tell frames apart. Only a packet scan fills ``keys`` and ``is_seek_safe`` (there are no other
    key frames, and no hidden frames); without them, the reader counts frames from the start.
    """

    num_frames: int
    pts: Sequence[int] | None
    time_base: Fraction
    duration_sec: float
    fps: float
    keys: tuple[KeyFrame, ...] = ()
    is_seek_safe: bool = False

    @property
    def times_sec(self) -> list[float]:
        """Start of each frame in seconds since the first one; evenly spaced if the time stamps cannot be trusted.

        Raises:
            ValueError: neither time stamps nor a frame rate is known.
        """
        if self.pts is None:
            if not self.fps:
                raise ValueError("nothing says when these frames were taken: they are pictures without a frame rate")
            return [position / self.fps for position in range(self.num_frames)]
        return [float((pts - self.pts[0]) * self.time_base) for pts in self.pts]


@dataclass(frozen=True)
class _Packet:
    pts: int
    dts: int | None
    duration: int
    is_corrupt: bool
    is_discard: bool
    is_key: bool
    is_clean_key: bool


def open_stream(
    source: Source, *, stream_index: int | None, num_threads: int
) -> tuple[av.container.InputContainer, av.VideoStream]:
    """Opens a file and picks a video stream: the one with this index, or the first that is not a cover picture.

    Raises:
        VideoDecodeError: the file is not a video, or has no such stream, or nothing can decode that stream.
    """
    if source.size_bytes == 0:
        raise VideoDecodeError("the file is empty (0 bytes)")
    try:
        container = source.open()
    except av.FFmpegError as error:
        raise VideoDecodeError(f"cannot be opened as a video: {error.strerror}") from error
    streams = [
        s
        for s in container.streams.video
        if not s.disposition & av.stream.Disposition.attached_pic and stream_index in (None, s.index)
    ]
    if not streams or streams[0].codec_context is None:
        container.close()
        asked = "" if stream_index is None else f" with index {stream_index}"
        raise VideoDecodeError(f"{'no decoder for its video stream' if streams else 'no video stream'}{asked}")
    streams[0].codec_context.thread_count = num_threads
    streams[0].codec_context.thread_type = "SLICE" if num_threads == 1 else "AUTO"
    return container, streams[0]


def get_time_base(stream: av.VideoStream) -> Fraction:
    """The unit of a stream's time stamps, in seconds.

    Raises:
        VideoDecodeError: the stream does not say.
    """
    if stream.time_base is None:
        raise VideoDecodeError("the stream does not say which unit its time stamps have")
    return stream.time_base


def decode_index(source: Source, *, stream_index: int | None, num_threads: int) -> FrameIndex:
    """Finds the frames of a file by decoding all of it. Like ffmpeg, it skips packets that do not decode.

    Raises:
        VideoDecodeError: the file is not a video, or nothing in it decodes.
    """
    container, stream = open_stream(source, stream_index=stream_index, num_threads=num_threads)
    with container:
        errors: list[str] = []
        frames = [(frame.pts, frame.duration) for frame in iterate_frames(container, stream, errors=errors)]
        if not frames:
            raise VideoDecodeError(f"no frame can be decoded: {errors[0] if errors else 'the stream is empty'}")
        if errors:
            _logger.warning("%s: damaged or truncated (%s); %d frames decode", source, errors[0], len(frames))
        pts = [stamp for stamp, _ in frames if stamp is not None]
        is_timed = len(pts) == len(frames) and all(first < second for first, second in pairwise(pts))
        duration_sec, fps = _compute_timing(stream, pts if is_timed else None, frames[-1][1], len(frames))
        return FrameIndex(len(frames), _compress(pts) if is_timed else None, get_time_base(stream), duration_sec, fps)


def scan_packets(
    container: av.container.InputContainer, stream: av.VideoStream, *, has_data: bool = True
) -> FrameIndex | None:
    """The index from the packets alone, or None if they leave open which frames the decoder will give.

    Args:
        container: just opened; the scan reads it to its end.
        stream: one of its streams.
        has_data: False if the packets have the right sizes but no data. Then every key frame is taken for one that
            resets the decoder, and whoever starts there has to check that first.
    """
    codec = stream.codec_context.codec.canonical_name
    if container.format.name not in _CONTAINERS or codec not in _CODECS:
        return None
    extradata = bytes(stream.codec_context.extradata or b"") if has_data else None
    try:
        noted = [_note(packet, codec, extradata) for packet in iterate_packets(container, stream)]
    except av.FFmpegError:
        return None
    packets = [packet for packet in noted if packet is not None]
    stamps = [packet.pts for packet in packets]
    is_whole = not any(packet.is_corrupt for packet in packets) and stream.frames in (0, len(packets))
    if not is_whole or len(set(stamps)) != len(noted):
        return None
    shown = sorted((packet.pts, packet.duration) for packet in packets if not packet.is_discard)
    if not shown:
        return None
    pts = _compress([stamp for stamp, _ in shown])
    keys = _find_keys(packets, pts, seek_by_pts=container.format.name == "matroska,webm")
    if not keys or keys[0].pts != stamps[0]:
        return None  # decoding starts in the middle of something: only decoding tells which frames come out
    return FrameIndex(
        len(pts),
        pts,
        get_time_base(stream),
        *_compute_timing(stream, pts, shown[-1][1], len(pts)),
        keys=tuple(keys),
        is_seek_safe=has_data and len(keys) == sum(packet.is_key for packet in packets) and len(pts) == len(packets),
    )


def resets_decoder(packet: av.Packet, codec: str, extradata: bytes) -> bool:
    """Whether nothing after this key frame can refer to anything before it.

    H.264 and HEVC also mark frames as key frames from which a decoder merely recovers (intra refresh, open groups of
    pictures). Only an IDR picture makes it forget all earlier ones. The first NAL unit that holds picture data says
    which it is.
    """
    if codec not in ("h264", "hevc"):
        return True
    config_byte, idr_types, first_non_picture = (4, (5,), 6) if codec == "h264" else (21, (19, 20), 32)
    if len(extradata) <= config_byte or extradata[0] != 1:
        return False  # no length-prefixed units
    size_bytes = (extradata[config_byte] & 3) + 1
    data = memoryview(packet)
    start = 0
    while start + size_bytes < len(data):
        header = data[start + size_bytes]
        unit_type = header & 31 if codec == "h264" else header >> 1 & 63
        if unit_type < first_non_picture:
            return unit_type in idr_types
        start += size_bytes + int.from_bytes(data[start : start + size_bytes], "big")
    return False


def can_leave_out_frames(codec: str, extradata: bytes) -> bool:
    """Whether a decoder that leaves out "unreferenced" frames still gives all others bit for bit.

    HEVC calls a frame unreferenced if no frame of its own temporal layer refers to it; a higher layer still may. So an
    HEVC stream must have a single layer (byte 21 of its configuration record).
    """
    if codec == "hevc":
        return len(extradata) > 21 and extradata[0] == 1 and extradata[21] >> 3 & 7 == 1
    return codec in ("h264", "vp9")


def iterate_packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The stream's packets from the container's position on, without empty ones, which would end decoding."""
    # PyAV loses some memory with each of its own generators that is left before its end and not closed.
    with contextlib.closing(cast("Generator[av.Packet]", container.demux(stream))) as packets:
        for packet in packets:
            if packet.size > 0:
                yield packet


def iterate_frames(
    container: av.container.InputContainer, stream: av.VideoStream, *, errors: list[str]
) -> Iterator[av.VideoFrame]:
    """All frames from the container's position on; ``errors`` collects what could not be read or decoded."""
    for packet in read_packets(container, stream, errors=errors):
        if packet.size > 0:
            yield from decode_packet(stream, packet, errors=errors)
    yield from decode_packet(stream, None, errors=errors)


def read_packets(
    container: av.container.InputContainer, stream: av.VideoStream, *, errors: list[str]
) -> Iterator[av.Packet]:
    """The stream's packets, also empty ones, until the file ends or cannot be read; ``errors`` collects the reason."""
    try:
        yield from container.demux(stream)
    except av.FFmpegError as error:
        errors.append(f"reading stopped: {error.strerror}")


def decode_packet(stream: av.VideoStream, packet: av.Packet | None, *, errors: list[str]) -> list[av.VideoFrame]:
    """The frames that the decoder gives for a packet, or for None, at the end, all that it still holds."""
    try:
        return stream.codec_context.decode(packet)
    except av.FFmpegError as error:
        errors.append(f"a packet does not decode: {error.strerror}")
        return []


def _note(packet: av.Packet, codec: str, extradata: bytes | None) -> _Packet | None:
    """What matters of a packet; None if it has no time stamp."""
    if packet.pts is None:
        return None
    return _Packet(
        pts=packet.pts,
        dts=packet.dts,
        duration=packet.duration or 0,
        is_corrupt=packet.is_corrupt,
        is_discard=packet.is_discard,
        is_key=packet.is_keyframe,
        is_clean_key=packet.is_keyframe and (extradata is None or resets_decoder(packet, codec, extradata)),
    )


def _compress(pts: Sequence[int]) -> Sequence[int]:
    """The same numbers, as a range if they are evenly spaced."""
    step = pts[1] - pts[0] if len(pts) > 1 else 1
    even = range(pts[0], pts[0] + len(pts) * step, step)
    return even if list(even) == list(pts) else tuple(pts)


def _find_keys(packets: Sequence[_Packet], pts: Sequence[int], *, seek_by_pts: bool) -> list[KeyFrame]:
    """Clean key frames that divide the stream: packets before one are shown earlier, packets after it later."""
    stamps = [packet.pts for packet in packets]
    latest_before = [stamps[0] - 1, *accumulate(stamps, max)]
    earliest_after = [*accumulate(reversed(stamps), min)][::-1]
    keys = [
        KeyFrame(
            bisect_left(pts, packet.pts),
            packet.pts,
            packet.pts if seek_by_pts or packet.dts is None else packet.dts,
        )
        for i, packet in enumerate(packets)
        if packet.is_clean_key and latest_before[i] < packet.pts == earliest_after[i]
    ]
    has_hidden = any(packet.is_discard for packet in packets)
    return keys[:1] if has_hidden else keys  # after a seek in a file with an edit list, other frames would be hidden


def _compute_timing(
    stream: av.VideoStream, pts: Sequence[int] | None, last_duration: int | None, num_frames: int
) -> tuple[float, float]:
    """Duration in seconds and average frames per second of frames at ``pts``; if that is None, as the header says."""
    header_fps = float(stream.guessed_rate or stream.average_rate or 0)
    if pts is None or (len(pts) == 1 and not last_duration):
        fps = header_fps or 25.0  # nothing is known: FFmpeg's own default
        return num_frames / fps, fps
    gap = last_duration or median(second - first for first, second in pairwise(pts))
    duration_sec = float((pts[-1] - pts[0] + gap) * get_time_base(stream))
    fps = num_frames / duration_sec
    rates = [float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
    return duration_sec, next((rate for rate in rates if abs(rate / fps - 1) < _FPS_TOLERANCE), fps)

"""Decodes with PyAV, which reads any codec, and only as much of a file as the wanted frames need.

If the packets show which frames there are (see `index`), decoding starts at the last key frame before a wanted one,
and leaves out frames that nobody wants and no other frame refers to. All other files are decoded from their start.
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from itertools import chain, dropwhile

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from hiera_video.utils.logging import get_logger
from hiera_video.video.index import (
    FrameIndex,
    KeyFrame,
    VideoDecodeError,
    can_leave_out_frames,
    decode_index,
    iterate_frames,
    iterate_packets,
    open_stream,
    resets_decoder,
    scan_packets,
)
from hiera_video.video.source import RemoteSource, Source

_MIN_FRAMES_SAVED = 8  # a jump costs about as much as decoding a few frames
_logger = get_logger(__name__)


class _IndexMismatchError(Exception):
    """The decoder gives other frames than the packets promised."""


class _UncleanKeyError(Exception):
    """A key frame does not reset the decoder after all."""

    def __init__(self, key: KeyFrame) -> None:
        super().__init__()
        self.key = key


class PyavBackend:
    """The frames of one video stream of one file.

    ``index`` says which frames there are. If decoding shows that promised frames are missing, it is corrected.
    """

    def __init__(
        self,
        source: Source,
        *,
        stream_index: int | None,
        num_threads: int,
        index: FrameIndex | None = None,
        max_short_side_px: int = 0,
    ) -> None:
        """Opens the file and finds its frames, unless ``index`` already says which there are.

        Raises:
            VideoDecodeError: the file is not a video, or nothing in it decodes.
        """
        self._source = source
        self.num_threads = num_threads
        self._max_short_side_px = max_short_side_px
        self._reformatter = VideoReformatter()
        self._container, self._stream = open_stream(source, stream_index=stream_index, num_threads=num_threads)
        self.stream_index = self._stream.index
        context = self._stream.codec_context
        self.codec = context.codec.canonical_name
        self._extradata = bytes(context.extradata or b"")
        self._header_size = context.width, context.height
        # Several threads decode a packet some time after it was sent, so `skip_frame` would apply to the wrong packets.
        self._leaves_out = num_threads == 1 and can_leave_out_frames(self.codec, self._extradata)
        self.index = index or self._scan() or self._count()

    @property
    def is_best_stream(self) -> bool:
        """Whether FFmpeg would choose this stream too: other libraries take that one."""
        best = self._container.streams.best("video")
        return best is not None and best.index == self.stream_index

    @property
    def _pts(self) -> Sequence[int]:
        """The time stamps, which every index with key frames has."""
        if self.index.pts is None:
            raise _IndexMismatchError("there are key frames, but no time stamps")
        return self.index.pts

    def decode(self, positions: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (position, uint8 RGB (H, W, 3)) for strictly increasing positions. It may start over and repeat some.

        Raises:
            VideoDecodeError: a frame does not decode.
        """
        left = positions
        while self.index.keys:
            try:
                for key, wanted in _plan_runs(self.index.keys, left):
                    yield from self._decode_run(key, wanted)
                    left = left[len(wanted) :]
                return
            except _UncleanKeyError as error:  # this run has given no frame yet; the frames before it are right
                self.index = replace(self.index, keys=tuple(key for key in self.index.keys if key != error.key))
            except _IndexMismatchError as error:
                left = positions
                if self._leaves_out:  # this stream breaks its codec's rules: decode all of its frames
                    self._leaves_out = False
                    continue
                _logger.warning("%s: %s; counting the frames by decoding all of them", self._source, error)
                self.index = self._count()
        yield from self._decode_by_counting(positions)

    def close(self) -> None:
        self._container.close()
        self._source.close()

    def _scan(self) -> FrameIndex | None:
        if not isinstance(self._source, RemoteSource):
            return scan_packets(self._container, self._stream)
        # The header of an unfragmented MP4 lists every packet, so nothing has to be fetched to find their times.
        is_listed = 0 < self._stream.frames == len(self._stream.index_entries)
        self._source.is_hollow = is_listed
        index = scan_packets(self._container, self._stream, has_data=not is_listed)
        self._source.is_hollow = False
        self._container.close()
        self._container, self._stream = self._reopen()
        return index

    def _count(self) -> FrameIndex:
        self._container.close()
        index = decode_index(self._source, stream_index=self.stream_index, num_threads=self.num_threads)
        self._container, self._stream = self._reopen()
        return index

    def _reopen(self) -> tuple[av.container.InputContainer, av.VideoStream]:
        return open_stream(self._source, stream_index=self.stream_index, num_threads=self.num_threads)

    def _decode_run(self, key: KeyFrame, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Decodes from ``key`` to the last wanted frame. The time stamps tell which frame is which."""
        pts = self._pts
        left = {pts[position]: position for position in wanted}
        previous = key.position - 1
        try:
            for packet in self._choose_packets(key, frozenset(left)):
                for frame in self._stream.codec_context.decode(packet):
                    previous = self._check_order(frame, previous)
                    if frame.pts in left:
                        yield left.pop(frame.pts), self._to_rgb(frame)
                if not left:
                    return
        except av.FFmpegError as error:
            raise _IndexMismatchError(f"frame {min(left.values())} or one before it does not decode") from error
        raise _IndexMismatchError(f"frame {min(left.values())} is missing")

    def _choose_packets(self, key: KeyFrame, wanted_pts: Set[int]) -> Iterator[av.Packet | None]:
        """Packets from ``key`` on until all wanted ones have been sent, then None, which empties the decoder."""
        context = self._stream.codec_context
        num_left = len(wanted_pts)
        for packet in self._iterate_from(key):
            if self._leaves_out:
                is_wanted = packet.pts in wanted_pts
                context.skip_frame = "DEFAULT" if is_wanted else "NONREF"
                num_left -= is_wanted
            yield packet
            if num_left == 0:
                break
        yield None

    def _check_order(self, frame: av.VideoFrame, previous: int) -> int:
        """The frame's position. Raises if it is unknown or out of order, or if a frame before it is missing."""
        pts = self._pts
        position = bisect_right(pts, frame.pts) - 1 if frame.pts is not None else -1
        is_known = position >= 0 and pts[position] == frame.pts
        if not is_known or position <= previous or (position > previous + 1 and not self._leaves_out):
            raise _IndexMismatchError(f"the frame after frame {previous} is not the one that the container lists there")
        return position

    def _iterate_from(self, key: KeyFrame) -> Iterator[av.Packet]:
        """The packets from a key frame on. If seeking lands behind the key frame, the file is read from its start."""
        self._container.seek(key.seek_timestamp, stream=self._stream)
        packets = iterate_packets(self._container, self._stream)
        first = next(packets, None)
        if first is None or first.pts is None or first.pts > key.pts:
            self._container.close()
            self._container, self._stream = self._reopen()
            packets = iterate_packets(self._container, self._stream)
        else:
            packets = chain([first], packets)
        packets = dropwhile(lambda packet: packet.pts != key.pts, packets)
        start = next(packets, None)
        if start is None:
            raise _IndexMismatchError(f"key frame {key.position} is not there")
        if not resets_decoder(start, self.codec, self._extradata):
            raise _UncleanKeyError(key)
        yield from chain([start], packets)

    def _decode_by_counting(self, positions: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Decodes a freshly opened file from its start, exactly as its frames were counted."""
        left = set(positions)
        self._container.close()
        self._container, self._stream = self._reopen()
        for position, frame in enumerate(iterate_frames(self._container, self._stream, errors=[])):
            if position in left:
                left.remove(position)
                yield position, self._to_rgb(frame)
            if not left:
                return
        raise VideoDecodeError(f"frame {min(left)} cannot be decoded; {self.index.num_frames} frames can")

    def _to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """Upright RGB. All frames get the size of the video's first frame, as a stream may change its size."""
        size = frame.width, frame.height
        width, height = size if size == self._header_size else self._first_size
        short = min(width, height)
        if 0 < self._max_short_side_px < short:
            width, height = (side * self._max_short_side_px // short for side in (width, height))
        rgb = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=Interpolation.BILINEAR, threads=1
        )
        return np.rot90(rgb.to_ndarray(), round(frame.rotation / 90))

    @functools.cached_property
    def _first_size(self) -> tuple[int, int]:
        container, stream = self._reopen()
        with container:
            frame = next(iterate_frames(container, stream, errors=[]))
            return frame.width, frame.height


def _plan_runs(keys: Sequence[KeyFrame], positions: Sequence[int]) -> list[tuple[KeyFrame, list[int]]]:
    """Groups wanted positions by the key frame to start from, jumping ahead only where that saves decoding."""
    starts = [key.position for key in keys]
    runs: list[tuple[KeyFrame, list[int]]] = []
    for position in positions:
        key = keys[bisect_right(starts, position) - 1]
        if not runs or key.position - runs[-1][1][-1] > _MIN_FRAMES_SAVED:
            runs.append((key, []))
        runs[-1][1].append(position)
    return runs

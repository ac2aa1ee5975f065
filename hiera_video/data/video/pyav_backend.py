"""Frames by PyAV: from the nearest key frame that is safe, checked frame by frame against the index."""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain, islice

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from hiera_video.data.video.index import (
    FrameIndex,
    KeyFrame,
    VideoDecodeError,
    decode_index,
    iterate_frames,
    iterate_packets,
    open_stream,
    scan_packets,
)
from hiera_video.utils.logging import get_logger

_MIN_FRAMES_SAVED = 8  # a jump costs about as much as decoding a few frames
_logger = get_logger(__name__)


class _IndexMismatchError(Exception):
    """The decoder does not give the frames that the packets promised."""


class PyavBackend:
    """The frames of one video stream of one local file.

    ``index`` says which frames there are. It is corrected when decoding shows that promised frames do not come.
    """

    def __init__(self, path: str, *, stream_index: int | None, num_threads: int) -> None:
        """Opens the file and finds its frames.

        Raises:
            VideoDecodeError: the file is not a video, or nothing in it decodes.
        """
        self._path = path
        self.num_threads = num_threads
        self._reformatter = VideoReformatter()
        self._container, self._stream = open_stream(path, stream_index=stream_index, num_threads=num_threads)
        self.stream_index = self._stream.index
        self._header_size = self._stream.codec_context.width, self._stream.codec_context.height
        self.index = scan_packets(self._container, self._stream) or self._count()

    @property
    def is_best_stream(self) -> bool:
        """Whether FFmpeg would choose this stream too: other libraries cannot be told which one to take."""
        return self._container.streams.best("video").index == self.stream_index

    def decode(self, positions: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (position, uint8 RGB (H, W, 3)) for strictly increasing positions; it may start over once.

        Raises:
            VideoDecodeError: a frame does not decode.
        """
        if self.index.keys:
            try:
                for key, wanted in _plan_runs(self.index.keys, positions):
                    yield from self._decode_run(key, wanted)
                return
            except _IndexMismatchError as error:
                _logger.warning("%s: %s; counting the frames by decoding all of them", self._path, error)
                self.index = self._count()
        yield from self._decode_by_counting(positions)

    def close(self) -> None:
        self._container.close()

    def _count(self) -> FrameIndex:
        try:
            return decode_index(self._path, stream_index=self.stream_index, num_threads=self.num_threads)
        except VideoDecodeError:
            self.close()
            raise

    def _reopen(self) -> tuple[av.container.InputContainer, av.VideoStream]:
        return open_stream(self._path, stream_index=self.stream_index, num_threads=self.num_threads)

    def _decode_run(self, key: KeyFrame, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Decodes from ``key`` to the last wanted frame, and checks the time stamp of each frame on the way."""
        left = set(wanted)
        try:
            for position, frame in enumerate(self._iterate_from(key), start=key.position):
                if position >= self.index.num_frames or frame.pts != self.index.pts[position]:
                    raise _IndexMismatchError(f"frame {position} is not the one that the container announces")
                if position in left:
                    left.remove(position)
                    yield position, self._to_rgb(frame)
                if not left:
                    return
        except av.FFmpegError as error:
            raise _IndexMismatchError(f"frame {min(left)} or one before it does not decode") from error
        raise _IndexMismatchError(f"frame {min(left)} is missing")

    def _iterate_from(self, key: KeyFrame) -> Iterator[av.VideoFrame]:
        """The frames from a key frame on; where a seek does not arrive before it, the file is read from its start."""
        self._container.seek(key.seek_timestamp, stream=self._stream)
        packets = iterate_packets(self._container, self._stream)
        first = next(packets, None)
        here = self._find_packet(first)
        if here is None or here > key.packet:
            self._container.close()
            self._container, self._stream = self._reopen()
            first, packets, here = None, iterate_packets(self._container, self._stream), 0
        todo = chain([first] if first else [], packets)
        for packet in chain(islice(todo, key.packet - here, None), [None]):
            yield from self._stream.codec_context.decode(packet)

    def _find_packet(self, packet: av.Packet | None) -> int | None:
        pts = self.index.packet_pts
        return pts.index(packet.pts) if packet is not None and packet.pts in pts else None

    def _decode_by_counting(self, positions: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Decodes a freshly opened file from its start, exactly as its frames were counted."""
        left = set(positions)
        container, stream = self._reopen()
        with container:
            for position, frame in enumerate(iterate_frames(container, stream, errors=[])):
                if position in left:
                    left.remove(position)
                    yield position, self._to_rgb(frame)
                if not left:
                    return
        raise VideoDecodeError(f"frame {min(left)} cannot be decoded; {self.index.num_frames} frames can")

    def _to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """Upright RGB of the size of the video's first frame: streams may change their size on the way."""
        size = frame.width, frame.height
        width, height = size if size == self._header_size else self._first_size
        rgb = self._reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
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

"""Reads sources without a known length, such as a camera, a network stream or a pipe: once, from start to end."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import torch
from av.video.reformatter import Interpolation, VideoReformatter

from hiera_video.utils.logging import get_logger
from hiera_video.video.index import VideoDecodeError, get_time_base, iterate_frames, open_stream

_PROTOCOLS = {"rtmp", "rtmps", "rtp", "rtsp", "rtsps", "srt", "tcp", "udp"}
_CAMERA = "/dev/video"
_STANDARD_INPUT = "-"
_DEFAULT_FPS = Fraction(25)  # FFmpeg's own, for streams that do not say
_MIN_STEP_SEC = 1e-6
_MAX_GAP_SEC = 60.0  # if time stamps jump further ahead, somebody has set the source's clock
_MAX_DISORDER_SEC = 1.0  # and likewise if they jump further back; smaller disorder occurs in some files
_logger = get_logger(__name__)


def is_live(path: str) -> bool:
    """Whether a path is a camera (/dev/video*), a pipe, "-" (standard input), or a stream by its protocol or .m3u8."""
    protocol, separator, rest = path.partition("://")
    if separator:
        return protocol.lower() in _PROTOCOLS or rest.partition("?")[0].endswith(".m3u8")
    if path == _STANDARD_INPUT or path.startswith(_CAMERA):
        return True
    return os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode)


class LiveVideo:
    """The frames of a source, one by one as they come. The source may also be a file.

    Attributes:
        path: of the source.
        fps: nominal frames per second.
        time_base: unit of its time stamps, in seconds.
        is_realtime: whether the source goes on while nobody reads, as cameras and network streams do, but not files and
            pipes.
    """

    def __init__(self, path: str, *, timeout_sec: float = 10.0) -> None:
        """Opens the source.

        Args:
            path: file, pipe, camera, "-", or a URL that FFmpeg opens.
            timeout_sec: after so long without data, the stream counts as ended. Opening may take as long, too.

        Raises:
            VideoDecodeError: it cannot be opened, or holds no video.
        """
        self.path = path
        self.is_realtime = "://" in path or path.startswith(_CAMERA)
        try:
            source = _LiveSource(path, timeout_sec)
            self._container, self._stream = open_stream(source, stream_index=None, num_threads=1)
        except VideoDecodeError as error:
            raise VideoDecodeError(f"{path}: {error}") from error.__cause__
        self.fps = Fraction(self._stream.average_rate or self._stream.guessed_rate or _DEFAULT_FPS)
        self.time_base = get_time_base(self._stream)

    def __iter__(self) -> Iterator[tuple[float, torch.Tensor]]:
        """Seconds since the first frame, strictly increasing; and the frame, RGB uint8 (H, W, C)."""
        errors: list[str] = []
        has_warned = False
        reformatter = VideoReformatter()
        clock = _Clock(float(1 / self.fps))
        size: tuple[int, int] | None = None
        for frame in iterate_frames(self._container, self._stream, errors=errors):
            if errors:
                (_logger.debug if has_warned else _logger.warning)("%s: %s", self.path, errors[0])
                has_warned = True
                errors.clear()
            size = size or (frame.width, frame.height)
            stamp_sec = None if frame.pts is None else float(frame.pts * self.time_base)
            rgb = reformatter.reformat(
                frame, width=size[0], height=size[1], format="rgb24", interpolation=Interpolation.BILINEAR, threads=1
            )
            upright = np.ascontiguousarray(np.rot90(rgb.to_ndarray(), round(frame.rotation / 90)))
            yield clock.read(stamp_sec), torch.from_numpy(upright)
        if errors:
            _logger.warning("%s: %s", self.path, errors[-1])

    def close(self) -> None:
        """Closes the source."""
        self._container.close()

    def __enter__(self) -> LiveVideo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _LiveSource:
    """A `Source` whose size is unknown."""

    size_bytes = -1

    def __init__(self, path: str, timeout_sec: float) -> None:
        self.path, self.timeout_sec = path, timeout_sec

    def close(self) -> None:
        """Does nothing: only the container holds the source open."""

    def open(self) -> av.container.InputContainer:
        path = "pipe:0" if self.path == _STANDARD_INPUT else self.path
        is_camera, is_rtsp = path.startswith(_CAMERA), path.startswith("rtsp")
        return av.open(
            path if is_camera or "://" in path or path == "pipe:0" else "file:" + path,
            format="v4l2" if is_camera else None,
            options={"rtsp_transport": "tcp"} if is_rtsp else {},  # over UDP, lost packets spoil pictures
            timeout=self.timeout_sec,
            metadata_errors="ignore",
        )


class _Clock:
    """Time since the first frame. It always increases, and continues evenly when the source's own clock is set."""

    def __init__(self, frame_sec: float) -> None:
        self._frame_sec = frame_sec
        self._now_sec = -frame_sec  # a frame before the first one
        self._zero_sec: float | None = None  # the source's time at our 0

    def read(self, stamp_sec: float | None) -> float:
        """Time of a frame. A frame without a usable time stamp comes one frame duration after the one before it."""
        step_sec = math.inf
        if self._zero_sec is not None and stamp_sec is not None:
            step_sec = stamp_sec - self._zero_sec - self._now_sec
        self._now_sec += step_sec if _MIN_STEP_SEC < step_sec <= _MAX_GAP_SEC else self._frame_sec
        if stamp_sec is not None and not -_MAX_DISORDER_SEC <= step_sec <= _MAX_GAP_SEC:
            self._zero_sec = stamp_sec - self._now_sec
        return self._now_sec

"""Writes pictures as an H.264 file."""

from __future__ import annotations

import os
from fractions import Fraction
from types import TracebackType

import av
import numpy as np
from av.video.stream import VideoStream

_TICKS_PER_SEC = 90_000  # of time stamps in the file: whole numbers for all usual frame rates
_OPTIONS = {"crf": "20", "preset": "veryfast"}


class VideoWriter:
    """An MP4 file without sound that grows picture by picture; a context manager that completes it.

    Args:
        path: where to write.
        width_px: of the pictures; even, as H.264 demands.
        height_px: likewise.
        fps: the rate that the file names; the pictures' times may be uneven.
    """

    def __init__(self, path: str | os.PathLike[str], *, width_px: int, height_px: int, fps: float) -> None:
        self._container = av.open(os.fspath(path), "w", format="mp4")
        rate = Fraction(fps).limit_denominator(1001)
        self._stream: VideoStream = self._container.add_stream("libx264", rate=rate, options=_OPTIONS)
        self._stream.width, self._stream.height, self._stream.pix_fmt = width_px, height_px, "yuv420p"
        self._stream.codec_context.time_base = Fraction(1, _TICKS_PER_SEC)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._container.mux(self._stream.encode())
        finally:
            self._container.close()

    def write(self, picture: np.ndarray, time_sec: float) -> None:
        """Adds a picture, uint8 (H, W, 3), that is shown from ``time_sec`` on; times ascend."""
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.time_base, frame.pts = Fraction(1, _TICKS_PER_SEC), round(time_sec * _TICKS_PER_SEC)
        self._container.mux(self._stream.encode(frame))

"""Decodes with decord and torchcodec, but only files for which their frames can be trusted.

Both count and seek by their own rules. On files with painted frame numbers, both lost frames or gave wrong ones if a
container's time stamps are guesses (AVI, MPEG-TS) or if a key frame does not reset the decoder (decord: open groups of
pictures, both: intra refresh). decord also counts frames that an edit list hides. So they decode only files in which
our packet scan finds nothing of this, and they must agree with it on the number of frames and on their time stamps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hiera_video.video.pyav_backend import PyavBackend

_TIME_TOLERANCE_SEC = 0.0015  # Matroska rounds to milliseconds, decord to 32-bit floats


class UntrustedBackendError(Exception):
    """The frames that this library gives for this file cannot be trusted; the message says why."""


class DecordBackend:
    """Decodes with decord, which always takes the stream that FFmpeg would choose."""

    def __init__(self, path: str, source: PyavBackend) -> None:
        decord = import_decord()
        _check_seekable(source)
        if not source.is_best_stream:
            raise UntrustedBackendError("it cannot choose among several video streams")
        try:
            self._reader = decord.VideoReader(path, num_threads=source.num_threads)
            stamps = self._reader.get_frame_timestamp(list(range(len(self._reader))))[:, 0]
        except decord.base.DECORDError as error:
            raise UntrustedBackendError("it cannot open the file") from error
        _check_times(stamps - stamps[0], source.index.times_sec)

    def decode(self, positions: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (position, uint8 RGB (H, W, 3)) for strictly increasing positions."""
        try:
            frames = self._reader.get_batch(list(positions)).asnumpy()
        except import_decord().base.DECORDError as error:
            raise UntrustedBackendError("it cannot decode the frames") from error
        yield from zip(positions, frames, strict=True)


class TorchcodecBackend:
    """Decodes with torchcodec."""

    def __init__(self, path: str, source: PyavBackend) -> None:
        decoders = import_torchcodec()
        _check_seekable(source)
        index = source.index
        self._times_sec = np.asarray([float(pts * index.time_base) for pts in index.pts or ()])
        try:
            self._decoder = decoders.VideoDecoder(
                path,
                stream_index=source.stream_index,
                dimension_order="NHWC",
                num_ffmpeg_threads=source.num_threads,
                device="cpu",
            )
        except (RuntimeError, ValueError) as error:
            raise UntrustedBackendError("it cannot open the file") from error
        if len(self._decoder) != index.num_frames:
            raise UntrustedBackendError(f"it finds {len(self._decoder)} frames instead of {index.num_frames}")

    def decode(self, positions: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (position, uint8 RGB (H, W, 3)) for strictly increasing positions."""
        try:
            batch = self._decoder.get_frames_at(list(positions))
        except RuntimeError as error:
            raise UntrustedBackendError("it cannot decode the frames") from error
        _check_times(batch.pts_seconds.numpy(), self._times_sec[list(positions)])
        yield from zip(positions, batch.data.numpy(), strict=True)


def import_decord() -> Any:
    """The decord module, without its log lines. Raises an ImportError that says what to install."""
    try:
        import decord
    except (ImportError, OSError) as error:
        raise ImportError(f"the video backend 'decord' cannot be loaded: pip install decord ({error})") from error
    decord.logging.set_level(decord.logging.FATAL)
    return decord


def import_torchcodec() -> Any:
    """The module torchcodec.decoders. Raises an ImportError that says what to install."""
    try:
        from torchcodec import decoders
    except (ImportError, OSError, RuntimeError) as error:
        raise ImportError(
            "the video backend 'torchcodec' cannot be loaded: pip install torchcodec (a version that fits torch), "
            f"and FFmpeg's shared libraries, e.g. apt-get install ffmpeg ({_first_line(error)})"
        ) from error
    return decoders


def _check_seekable(source: PyavBackend) -> None:
    if not source.index.is_seek_safe:
        raise UntrustedBackendError("its seeking is not exact in this kind of stream")


def _check_times(found_sec: Sequence[float] | np.ndarray, expected_sec: Sequence[float] | np.ndarray) -> None:
    if len(found_sec) != len(expected_sec):
        raise UntrustedBackendError(f"it finds {len(found_sec)} frames instead of {len(expected_sec)}")
    if not np.allclose(found_sec, expected_sec, rtol=1e-6, atol=_TIME_TOLERANCE_SEC):
        raise UntrustedBackendError("its time stamps are not those of the file")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

"""VideoReader: the one way from a path to frames."""

from __future__ import annotations

import contextlib
import logging
import operator
import os
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from itertools import pairwise

import av
import numpy as np
import torch

from hiera_video.utils.logging import get_logger
from hiera_video.video.file_cache import FileCache
from hiera_video.video.frames_backend import FramesBackend, is_frames_path
from hiera_video.video.image_backend import ImageBackend, is_image_path
from hiera_video.video.index import FrameIndex, VideoDecodeError
from hiera_video.video.other_backends import (
    DecordBackend,
    TorchcodecBackend,
    UntrustedBackendError,
    import_decord,
    import_torchcodec,
)
from hiera_video.video.pyav_backend import PyavBackend
from hiera_video.video.source import LocalSource, find_source

_OTHER_BACKENDS: dict[str, type[DecordBackend | TorchcodecBackend]] = {
    "decord": DecordBackend,
    "torchcodec": TorchcodecBackend,
}
_IMPORTS = {"decord": import_decord, "torchcodec": import_torchcodec}
_warned: set[tuple[str, str]] = set()
_logger = get_logger(__name__)
_FRAMES_PER_CALL = 32  # limits memory: these decoders return all requested frames at once


def describe_backend(backend: str) -> str:
    """Name and version of a decoder, with the library that PyAV decodes with."""
    version = metadata.version("av" if backend == "pyav" else backend)
    if backend != "pyav":
        return f"{backend} {version}"
    return f"pyav {version}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"


class FramesChangedError(Exception):
    """Decoding showed that the index was wrong, after the first frames had been given out."""


def available_backends() -> list[str]:
    """The names that ``VideoReader(backend=...)`` takes on this machine; "pyav" is always among them."""
    return ["pyav", *(name for name, load in _IMPORTS.items() if _can_import(load))]


class VideoReader:
    """A video as a sequence of frames in presentation order.

    Frame ``i`` is the ``i``-th picture that a decoder shows when it plays the whole stream: hidden frames (edit lists)
    do not count, time stamps need not start at zero or be evenly spaced, and a rotation in the file is applied. Of a
    truncated file, the frames that still decode are the video. If packets in the middle are damaged in a way that only
    decoding shows, the reader warns and corrects ``len`` when it gets there. ``backend`` is the decoder in use.

    From a remote MP4 file, only the bytes that the wanted frames need are fetched. Other containers do not list their
    frames in one place, so they are read once as a whole, unless ``index`` is given. A video may also be
    a folder or a series of pictures.

    Differs: FFmpeg reads the "best" of several video streams. This reads the first, as SlowFast and PyTorchVideo do;
        ``stream_index`` chooses another.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        backend: str = "pyav",
        num_threads: int = 1,
        *,
        stream_index: int | None = None,
        index: FrameIndex | None = None,
        max_short_side_px: int = 0,
        cache: FileCache | None = None,
    ) -> None:
        """Opens a video and finds out which frames it has.

        Args:
            path: a local file, or a URL that fsspec or the project's path manager (iopath) opens; or a member of a tar
                file at either place, such as ``shard.tar#a.mp4``. Or pictures: a folder, which is read in the order of
                the numbers in the names, or a series such as ``7/%06d.jpg#1-117`` (117 is the last). The ``fps`` of
                pictures is 0.
            backend: "pyav", "decord" or "torchcodec"; all give the same frames. If decord or torchcodec cannot be
                trusted with a file, PyAV reads it, and the log says so.
            num_threads: decoding threads. 1 suits data loading by several processes; with 0, FFmpeg chooses.
            stream_index: the container's index of the stream to read; None for the first video stream.
            index: which frames the file has, if a manifest knows it, so that the file need not be scanned. Decoding
                notices if it is wrong.
            max_short_side_px: larger frames are scaled down to this short side while their colors are converted, which
                costs less than resizing them afterwards and filters more; the numbers differ. 0: never. PyAV only.
            cache: keeps remote files on a local disk. None: they are read where they are.

        Raises:
            ValueError: the backend is unknown.
            ImportError: the backend cannot be loaded here; the message says what to install.
            FileNotFoundError: there is no such file.
            VideoDecodeError: the file is not a video, or nothing in it decodes.
        """
        if backend != "pyav" and backend not in _OTHER_BACKENDS:
            raise ValueError(f"backend is {backend!r}; legal values: 'pyav', {', '.join(map(repr, _OTHER_BACKENDS))}")
        if backend in _IMPORTS:
            _IMPORTS[backend]()
        self.path = os.fspath(path)
        self.backend = backend
        self._frame_shape: tuple[int, ...] | None = None
        self._other: DecordBackend | TorchcodecBackend | None = None
        self._is_closed = False
        if is_frames_path(self.path) or is_image_path(self.path):
            self.backend = "pictures"
            with _naming(self.path):
                self._main: PyavBackend | FramesBackend | ImageBackend = (
                    FramesBackend(self.path)
                    if is_frames_path(self.path)
                    else ImageBackend(self.path, max_short_side_px=max_short_side_px, cache=cache)
                )
            return
        source = find_source(self.path, cache)
        try:
            with _naming(self.path):
                self._main = PyavBackend(
                    source,
                    stream_index=stream_index,
                    num_threads=num_threads,
                    index=index,
                    max_short_side_px=max_short_side_px,
                )
        except BaseException:
            source.close()
            raise
        if backend in _OTHER_BACKENDS:
            try:
                if not isinstance(source, LocalSource):
                    raise UntrustedBackendError("it is not used for remote files")
                if max_short_side_px:
                    raise UntrustedBackendError("it does not scale frames while it converts them")
                self._other = _OTHER_BACKENDS[backend](source.address, self._main)
            except UntrustedBackendError as error:
                self._fall_back(error)

    @property
    def index(self) -> FrameIndex:
        """The frames of the video. Decoding corrects it where it was wrong."""
        return self._main.index

    @property
    def codec(self) -> str:
        """The codec's usual name, such as "h264"; "pictures" for a folder of frames, "image" for a single picture."""
        return self._main.codec

    def __len__(self) -> int:
        return self.index.num_frames

    @property
    def fps(self) -> float:
        """Average frames per second; 0 if unknown."""
        return self.index.fps

    @property
    def duration_sec(self) -> float:
        """From the start of the first frame to the end of the last one; 0 if unknown."""
        return self.index.duration_sec

    @property
    def times_sec(self) -> list[float]:
        """Start of each frame, in seconds since the first one."""
        return self.index.times_sec

    @property
    def height(self) -> int:
        """In pixels, after rotation."""
        return self._load_frame_shape()[0]

    @property
    def width(self) -> int:
        """In pixels, after rotation."""
        return self._load_frame_shape()[1]

    def get_frames(self, indices: Iterable[int]) -> torch.Tensor:
        """Decodes exactly the frames at these presentation positions.

        Args:
            indices: positions in [0, len(self)), in any order, repeats allowed.

        Returns:
            RGB frames (T, H, W, C), uint8, in the order of ``indices``.

        Raises:
            ValueError: a position is out of range, or the reader is closed.
            VideoDecodeError: a frame does not decode.
        """
        if self._is_closed:
            raise ValueError(f"{self.path}: the reader is closed")
        slots: dict[int, list[int]] = {}
        for slot, index in enumerate(map(operator.index, indices)):
            if not 0 <= index < len(self):
                raise ValueError(f"{self.path}: frame index is {index}; legal values: 0 to {len(self) - 1}")
            slots.setdefault(index, []).append(slot)
        if not slots:
            return torch.empty((0, *self._load_frame_shape()), dtype=torch.uint8)
        num_slots = sum(map(len, slots.values()))
        frames = np.empty(0, dtype=np.uint8)
        with _naming(self.path):
            for position, rgb in self._decode(sorted(slots)):
                if not len(frames):
                    frames = np.empty((num_slots, *rgb.shape), dtype=np.uint8)
                for slot in slots[position]:
                    frames[slot] = rgb
        self._frame_shape = frames.shape[1:]
        return torch.from_numpy(frames)

    def iterate_frames(self, indices: Iterable[int]) -> Iterator[tuple[int, torch.Tensor]]:
        """Decodes the frames at these presentation positions one by one, so that any number of them fits into memory.

        Args:
            indices: positions in [0, len(self)), strictly increasing.

        Yields:
            the position, and the RGB frame (H, W, C), uint8.

        Raises:
            ValueError: a position is out of range or order, or the reader is closed.
            VideoDecodeError: a frame does not decode.
            FramesChangedError: decoding met damage, so the positions given out before and after it do not fit together.
                The reader has the right frames now: start over.
        """
        if self._is_closed:
            raise ValueError(f"{self.path}: the reader is closed")
        wanted = [operator.index(index) for index in indices]
        in_order = all(first < second for first, second in pairwise(wanted))
        if wanted and not (in_order and wanted[0] >= 0 and wanted[-1] < len(self)):
            raise ValueError(f"{self.path}: positions must increase strictly within 0 to {len(self) - 1}")
        length, previous = len(self), -1
        try:
            with _naming(self.path):
                for position, rgb in self._decode(wanted):
                    if position <= previous or len(self) != length:
                        raise FramesChangedError(self.path)
                    previous = position
                    yield position, torch.from_numpy(np.require(rgb, requirements=["C", "W"]))
        except VideoDecodeError as error:
            if len(self) != length:
                raise FramesChangedError(self.path) from error
            raise

    def close(self) -> None:
        """Closes the file. Length and times can still be read."""
        self._is_closed = True
        self._main.close()
        self._other = None

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"VideoReader({self.path!r}, {len(self)} frames, {self.fps:.4g} fps)"

    def _decode(self, positions: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        if self._other is not None:
            try:
                for start in range(0, len(positions), _FRAMES_PER_CALL):
                    yield from self._other.decode(positions[start : start + _FRAMES_PER_CALL])
                return
            except UntrustedBackendError as error:
                self._fall_back(error)
        yield from self._main.decode(positions)

    def _fall_back(self, error: UntrustedBackendError) -> None:
        _warn_once(self.backend, str(error), self.path)
        self._other = None
        self.backend = "pyav"

    def _load_frame_shape(self) -> tuple[int, ...]:
        return self._frame_shape or tuple(self.get_frames([0]).shape[1:])


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Puts the path as the user wrote it before the message of a decode error."""
    try:
        yield
    except VideoDecodeError as error:
        raise VideoDecodeError(f"{path}: {error}") from error.__cause__


def _warn_once(backend: str, reason: str, path: str) -> None:
    """Warns once per reason, and notes further files at debug level: a whole data set may be like this."""
    level = logging.DEBUG if (backend, reason) in _warned else logging.WARNING
    _warned.add((backend, reason))
    _logger.log(level, "%s: read by PyAV instead of %s: %s", path, backend, reason)


def _can_import(load: Callable[[], object]) -> bool:
    try:
        load()
    except ImportError:
        return False
    return True

"""Opens the bytes of a video: those of a local file, or the needed ones of a remote file."""

from __future__ import annotations

import errno
import io
import os
import time
from collections.abc import Callable
from typing import BinaryIO, Protocol, TypeVar

import av
import fsspec

from hiera_video.utils.logging import get_logger
from hiera_video.utils.pathmgr import fetch_file, get_path_here

_BLOCK_BYTES = 256 * 1024  # that one request fetches: about a second of video at the sizes of Kinetics
_CACHED_BLOCKS = 32  # kept for each open file
_WAITS_SEC = (0.5, 2.0)  # before the second and the third try
_PASSING_STATUS = {408, 425, 429}  # of HTTP; and all from 500 on
_PASSING_ERRNO = {errno.EIO, errno.ETIMEDOUT, errno.ECONNRESET, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ESTALE}
_NETWORK_PACKAGES = ("aiohttp.", "botocore.", "urllib3.", "requests.", "http.client")
_logger = get_logger(__name__)
_Result = TypeVar("_Result")


class UnreachableError(OSError):
    """The way to a file failed, again and again, and not the file: it may be whole."""


class Source(Protocol):
    """A file that can be opened as a container, several times."""

    size_bytes: int

    def open(self) -> av.container.InputContainer:
        """Opens it from its start. Raises av.FFmpegError if it is not a media file."""

    def close(self) -> None:
        """Lets go of what is open beside the containers."""


class LocalSource:
    """A file on this machine."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.size_bytes = os.path.getsize(path)

    def close(self) -> None:
        """Does nothing: only containers hold the file open."""

    def open(self) -> av.container.InputContainer:
        # Without "file:", FFmpeg takes a name such as "a:b.mp4" for a protocol. Broken metadata does no harm.
        return av.open("file:" + self.path, metadata_errors="ignore")

    def __str__(self) -> str:
        return self.path


class RemoteSource:
    """A file on another machine that can be read from any position.

    While ``is_hollow``, reading gives zeros and fetches nothing: a container whose header is known then gives the times
    of all its packets without their data.
    """

    def __init__(self, path: str, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self.size_bytes = file.seek(0, io.SEEK_END)
        self.is_hollow = False

    def open(self) -> av.container.InputContainer:
        return av.open(_View(self), "r", metadata_errors="ignore")

    def close(self) -> None:
        """Closes the file."""
        self.file.close()

    def __str__(self) -> str:
        return self.path


class _View:
    """The position of one container in a remote file. Closing the container leaves the file open."""

    def __init__(self, source: RemoteSource) -> None:
        self._source = source
        self._position = 0

    def read(self, size: int) -> bytes:
        size = max(min(size, self._source.size_bytes - self._position), 0)
        data = bytes(size) if self._source.is_hollow else self._fetch(size)
        self._position += len(data)
        return data

    def _fetch(self, size: int) -> bytes:
        def read() -> bytes:
            self._source.file.seek(self._position)
            return self._source.file.read(size)

        try:
            return _try_again(read, self._source.path)
        except UnreachableError:
            raise
        except Exception as error:  # each file system has errors of its own, such as aiohttp's
            raise OSError(f"{self._source.path}: cannot be read: {error or type(error).__name__}") from error

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size_bytes}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position


def find_source(path: str) -> LocalSource | RemoteSource:
    """Finds the file that a local path names, or a URL that fsspec or the project's path manager (iopath) opens.

    If fsspec can seek in a remote file, the file is read where it is; otherwise the path manager fetches a copy.

    Raises:
        FileNotFoundError: there is no such file, or nothing here opens such a URL; the message names the path.
    """
    if get_path_here(path) is None:
        file = _open_remote(path)
        if file is not None:
            return RemoteSource(path, file)
    return LocalSource(fetch_file(path))


def _open_remote(path: str) -> BinaryIO | None:
    """A seekable file, or None if fsspec does not know the protocol or cannot seek in the file."""
    try:
        file_system, path_there = fsspec.url_to_fs(path)
    except (ValueError, ImportError) as error:
        _logger.debug("%s: fsspec cannot open this here: %s", path, error)
        return None
    options = {"block_size": _BLOCK_BYTES, "cache_type": "blockcache", "cache_options": {"maxblocks": _CACHED_BLOCKS}}
    try:
        file = _try_again(lambda: file_system.open(path_there, "rb", **options), path)
    except UnreachableError:
        raise
    except Exception as error:  # each file system has errors of its own, such as aiohttp's
        raise FileNotFoundError(f"{path}: cannot be opened: {error or type(error).__name__}") from error
    return file if file.seekable() else None


def _try_again(function: Callable[[], _Result], path: str) -> _Result:
    """``function()``, tried again after a while where it fails in a way that may pass."""
    for wait_sec in (*_WAITS_SEC, None):
        try:
            return function()
        except Exception as error:  # each file system has errors of its own, such as aiohttp's
            if not _is_passing(error):
                raise
            reason = f"{error or type(error).__name__}"
            if wait_sec is None:
                tries = len(_WAITS_SEC) + 1
                raise UnreachableError(f"{path}: cannot be reached, in {tries} tries: {reason}") from error
            _logger.debug("%s: %s; trying again in %.1f s", path, reason, wait_sec)
            time.sleep(wait_sec)
    raise RuntimeError("the last try returns or raises")


def _is_passing(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status >= 500 or status in _PASSING_STATUS
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
        return False
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    is_network = type(error).__module__.startswith(_NETWORK_PACKAGES)
    return is_network or (isinstance(error, OSError) and error.errno in _PASSING_ERRNO)


def is_unreachable(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is an `UnreachableError`."""
    while error is not None:
        if isinstance(error, UnreachableError):
            return True
        error = error.__cause__ or error.__context__
    return False

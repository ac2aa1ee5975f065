"""Requests to other machines: what a file there is, parts of it, and another try where one may help."""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

import fsspec

from hiera_video.utils.logging import get_logger

BLOCK_BYTES = 256 * 1024  # that one request fetches: about a second of video at the sizes of Kinetics
_CACHED_BLOCKS = 32  # kept for each open file
_WAITS_SEC = (0.5, 2.0)  # before the second and the third try
_PASSING_STATUS = {408, 425, 429}  # of HTTP; and all from 500 on
_PASSING_ERRNO = {errno.EIO, errno.ETIMEDOUT, errno.ECONNRESET, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ESTALE}
_NETWORK_PACKAGES = ("aiohttp.", "botocore.", "urllib3.", "requests.", "http.client")
_VERSION_FIELDS = {"etag", "content-md5", "md5hash", "crc32c", "generation", "versionid", "checksum"}
_TIME_FIELDS = {"last-modified", "lastmodified", "last_modified", "mtime", "updated", "modified", "created"}
_logger = get_logger(__name__)
_Result = TypeVar("_Result")


class UnreachableError(OSError):
    """The way to a file failed, again and again, and not the file: it may be whole."""


@dataclass(frozen=True)
class RemoteFacts:
    """What a server says of a file.

    Attributes:
        size_bytes: its length.
        version: changes when the file does, as far as the server tells: of size, ETag or checksum, time of change.
    """

    size_bytes: int
    version: str


class RangeFile(io.RawIOBase):
    """Some bytes of a remote file as a file of their own, fetched in blocks that begin where they do.

    Nothing is asked of the server before the first byte is read.
    """

    def __init__(self, url: str, *, start: int, size_bytes: int, block_bytes: int | None = None) -> None:
        """The bytes [start, start + size_bytes) of a file, in blocks of `BLOCK_BYTES` or of ``block_bytes``."""
        step = block_bytes or BLOCK_BYTES
        self._size_bytes, self._position, self._block_bytes = size_bytes, 0, step

        @functools.lru_cache(maxsize=_CACHED_BLOCKS)
        def get_block(number: int) -> bytes:
            first = number * step  # with ``self`` in it, the blocks would stay until a collection of garbage
            return read_range(url, start + first, start + min(first + step, size_bytes))

        self._get_block = get_block

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves the position, as files do."""
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes; fewer at the end."""
        left = max(self._size_bytes - self._position, 0)
        count = left if size is None or size < 0 else min(size, left)
        first, skipped = divmod(self._position, self._block_bytes)
        blocks = range(first, -(-(self._position + count) // self._block_bytes) if count else first)
        data = b"".join(map(self._get_block, blocks))[skipped : skipped + count]
        self._position += len(data)
        return data

    def readall(self) -> bytes:
        """All that is left."""
        return self.read()


def open_remote(url: str) -> BinaryIO | None:
    """A seekable file, or None if fsspec does not know the protocol or cannot seek in the file.

    Raises:
        FileNotFoundError: it cannot be opened; the message begins with the URL.
        UnreachableError: the server does not answer.
    """
    found = _find_file_system(url)
    if found is None:
        return None
    file_system, path_there = found
    options = {"block_size": BLOCK_BYTES, "cache_type": "blockcache", "cache_options": {"maxblocks": _CACHED_BLOCKS}}
    file = _ask(lambda: file_system.open(path_there, "rb", **options), url)
    return file if file.seekable() else None


def get_facts(url: str) -> RemoteFacts | None:
    """Size and version of a remote file; None if fsspec does not know the protocol, or the server not the size.

    Raises:
        FileNotFoundError: there is no such file.
        UnreachableError: the server does not answer.
    """
    found = _find_file_system(url)
    if found is None:
        return None
    file_system, path_there = found
    file_system.invalidate_cache()  # some keep lists of files, which this is to look through
    info = _ask(lambda: file_system.info(path_there), url)
    size_bytes = info.get("size")
    if size_bytes is None or not info.get("partial", True):
        return None
    told = {name.lower(): value for name, value in info.items()}
    fields = _VERSION_FIELDS if _VERSION_FIELDS & set(told) else _TIME_FIELDS
    text = repr([size_bytes, *((name, str(told[name])) for name in sorted(fields & set(told)))])
    return RemoteFacts(int(size_bytes), hashlib.blake2b(text.encode(), digest_size=8).hexdigest())


def read_range(url: str, start: int, end: int) -> bytes:
    """The bytes [start, end) of a remote file, by one request.

    Raises:
        FileNotFoundError: there is no such file.
        UnreachableError: the server does not answer.
        OSError: the server sends another number of bytes.
    """
    found = _find_file_system(url)
    if found is None:
        raise FileNotFoundError(f"{url}: nothing here opens such addresses")
    file_system, path_there = found
    data = _ask(lambda: file_system.cat_file(path_there, start=start, end=end), url)
    if len(data) != end - start:
        reason = "it serves no parts of files" if len(data) > end - start else "the file is shorter than it was"
        raise OSError(
            f"{url}: the server sent {len(data)} bytes instead of the {end - start} from {start} on: {reason}"
        )
    return data


def _find_file_system(url: str) -> tuple[fsspec.AbstractFileSystem, str] | None:
    try:
        return fsspec.url_to_fs(url)
    except (ValueError, ImportError) as error:
        _logger.debug("%s: fsspec cannot open this here: %s", url, error)
        return None


def _ask(request: Callable[[], _Result], url: str) -> _Result:
    try:
        return try_again(request, url)
    except UnreachableError:
        raise
    except Exception as error:  # each file system has errors of its own, such as aiohttp's
        raise FileNotFoundError(f"{url}: cannot be opened: {error or type(error).__name__}") from error


def try_again(function: Callable[[], _Result], path: str) -> _Result:
    """``function()``, tried again after a while where it fails in a way that may pass.

    Raises:
        UnreachableError: it failed in such ways each time; names ``path``.
    """
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
    if isinstance(error, UnreachableError):
        return False  # it has been tried again already
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

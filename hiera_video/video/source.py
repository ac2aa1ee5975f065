"""Opens the bytes of a video: those of a local file, or the needed ones of a remote file, or a part of either."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

import av

from hiera_video.utils.pathmgr import fetch_file, get_path_here
from hiera_video.video.remote import RangeFile, UnreachableError, open_remote, try_again
from hiera_video.video.shard_index import HEADER_BYTES, ShardError
from hiera_video.video.shards import Member, find_member

if TYPE_CHECKING:
    from hiera_video.video.file_cache import CachedFile, FileCache


class Source(Protocol):
    """A file that can be opened as a container, several times."""

    size_bytes: int

    def open(self) -> av.container.InputContainer:
        """Opens it from its start. Raises av.FFmpegError if it is not a media file."""

    def close(self) -> None:
        """Lets go of what is open beside the containers."""


class LocalSource:
    """A file on this machine, or a part of one.

    Attributes:
        path: of the file.
        address: by which FFmpeg opens it, or the part.
        size_bytes: of the part.
    """

    def __init__(
        self,
        path: str,
        *,
        start: int = 0,
        size_bytes: int | None = None,
        shown: str = "",
        cached: CachedFile | None = None,
    ) -> None:
        """Opens nothing yet.

        Args:
            path: of the file.
            start: first byte of the part.
            size_bytes: length of the part; None: to the end.
            shown: what messages call it; "": its path.
            cached: keeps the file from being removed until `close`.
        """
        self.path, self._start, self._shown, self._cached = path, start, shown or path, cached
        # Without "file:", FFmpeg takes a name such as "a:b.mp4" for a protocol.
        self.address = "file:" + path
        if size_bytes is None:
            size_bytes = os.path.getsize(path) - start
        else:
            self.address = f"subfile,,start,{start},end,{start + size_bytes},,:{self.address}"
        self.size_bytes = size_bytes

    def close(self) -> None:
        """Lets a file of the cache go; otherwise only containers hold the file open."""
        if self._cached is not None:
            self._cached.close()

    def open(self) -> av.container.InputContainer:
        return av.open(self.address, metadata_errors="ignore")  # broken metadata does no harm

    def open_bytes(self) -> BinaryIO:
        """Its bytes, from the start."""
        return cast(BinaryIO, io.BufferedReader(_Part(self.path, self._start, self.size_bytes)))

    def __str__(self) -> str:
        return self._shown


class RemoteSource:
    """A file on another machine that can be read from any position.

    While ``is_hollow``, reading gives zeros and fetches nothing: a container whose header is known then gives the times
    of all its packets without their data.
    """

    def __init__(self, path: str, file: BinaryIO, *, start: int = 0) -> None:
        """A file whose first ``start`` bytes do not belong to the video."""
        self.path = path
        self.file = file
        self.start = start
        self.size_bytes = file.seek(0, io.SEEK_END) - start
        self.is_hollow = False

    def open(self) -> av.container.InputContainer:
        return av.open(_View(self), "r", metadata_errors="ignore")

    def open_bytes(self) -> BinaryIO:
        """Its bytes, from the start. Closing them leaves the source open."""
        return cast(BinaryIO, _View(self))

    def close(self) -> None:
        """Closes the file."""
        self.file.close()

    def __str__(self) -> str:
        return self.path


class _Part(io.RawIOBase):
    """Some bytes of a local file as a file of their own."""

    def __init__(self, path: str, start: int, size_bytes: int) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  # closed by `close`
        self._start, self._size_bytes, self._position = start, size_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]  # typeshed's Buffer needs a newer Python
        count = max(min(len(buffer), self._size_bytes - self._position), 0)
        data = os.pread(self._file.fileno(), count, self._start + self._position) if count else b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        self._file.close()
        super().close()


class _View:
    """The position of one container in a remote file. Closing the container leaves the file open."""

    def __init__(self, source: RemoteSource) -> None:
        self._source = source
        self._position = 0

    def __enter__(self) -> _View:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, size: int = -1) -> bytes:
        left = max(self._source.size_bytes - self._position, 0)
        size = left if size < 0 else min(size, left)
        data = bytes(size) if self._source.is_hollow else self._fetch(size)
        self._position += len(data)
        return data

    def _fetch(self, size: int) -> bytes:
        def read() -> bytes:
            self._source.file.seek(self._source.start + self._position)
            return self._source.file.read(size)

        try:
            return try_again(read, self._source.path)
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


def find_source(path: str, cache: FileCache | None = None) -> LocalSource | RemoteSource:
    """Finds what a path names: a local file, a URL that fsspec or the project's path manager (iopath) opens, or a
    member of a tar file (``shard.tar#member``) at either place.

    If fsspec can seek in a remote file, the file is read where it is; otherwise the path manager fetches a copy.

    Args:
        path: the path.
        cache: keeps remote files, and members of remote tar files, on a local disk; they are read there.

    Raises:
        FileNotFoundError: there is no such file, or nothing here opens such a URL; the message names the path.
        ShardError: the tar file is damaged, cut off, or none.
        UnreachableError: the server does not answer, and the cache has nothing of the file.
    """
    try:
        member = find_member(path)
    except UnreachableError:
        kept = cache.find_any(path) if cache is not None else None
        if kept is None:
            raise
        return LocalSource(kept.path, shown=path, cached=kept)
    if member is not None:
        return _find_member_source(path, member, cache)
    if get_path_here(path) is None:
        cached = cache.fetch_file(path) if cache is not None else None
        if cached is not None:
            return LocalSource(cached.path, shown=path, cached=cached)
        file = open_remote(path)
        if file is not None:
            return RemoteSource(path, file)
    return LocalSource(fetch_file(path))


def find_local_source(path: str) -> LocalSource | None:
    """`find_source` of what is on this machine; None of what is elsewhere."""
    if get_path_here(path) is None:
        return None
    return cast(LocalSource, find_source(path))


def _find_member_source(path: str, member: Member, cache: FileCache | None) -> LocalSource | RemoteSource:
    if get_path_here(member.shard) is not None:
        return LocalSource(member.shard, start=member.start, size_bytes=member.size_bytes, shown=path)
    for is_stale in (False, True):
        if is_stale:
            member = find_member(path, is_stale=True) or member
        cached = cache.fetch_member(member) if cache is not None else None
        if cached is not None:
            return LocalSource(cached.path, shown=path, cached=cached)
        start = member.start - HEADER_BYTES
        file = cast(BinaryIO, RangeFile(member.shard, start=start, size_bytes=HEADER_BYTES + member.size_bytes))
        # The first block has the header and the beginning of the video, so looking at it costs no request of its own.
        if member.check_header(file.read(HEADER_BYTES)):
            return RemoteSource(path, file, start=HEADER_BYTES)
    raise ShardError(f"{path}: the tar file changes while it is read")

"""The index of a tar file: which members it has and where they lie.

It is an Arrow file, sorted by name and mapped into memory, so that any number of processes share one copy of it. It
lies beside the tar file (``shard.tar.index``); one that had to be made by a scan is kept in iopath's cache folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tarfile
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
from iopath.common.file_io import get_cache_dir

from hiera_video.utils.files import open_whole
from hiera_video.utils.logging import get_logger

INDEX_SUFFIX = ".index"
HEADER_BYTES = 512  # of a tar file's blocks
_KEY, _SIZE_KEY = b"hiera_video.shard_index", b"hiera_video.shard_size_bytes"
_SCHEMA = pa.schema(
    [("name", pa.binary()), ("start", pa.int64()), ("size_bytes", pa.int64()), ("header_crc32", pa.uint32())]
)
_GZIP = b"\x1f\x8b"
_NUM_LOCKS = 64
_logger = get_logger(__name__)


class ShardError(OSError):
    """A tar file that is damaged, cut off, or none. The message names it."""


class ShardIndex:
    """The members of a tar file, sorted by the bytes of their names.

    Args:
        table: as `from_members` makes it.
        source: where it came from, for messages.
        size_bytes: of the tar file; None takes what the table says.

    Raises:
        ValueError: the table is no index, or that of a file of another size.
    """

    def __init__(self, table: pa.Table, *, source: str, size_bytes: int | None = None) -> None:
        metadata = table.schema.metadata or {}
        if _KEY not in metadata or not table.schema.equals(_SCHEMA):
            raise ValueError(f"{source} is no index of a tar file")
        self.size_bytes = int(metadata[_SIZE_KEY])
        if size_bytes is not None and size_bytes != self.size_bytes:
            raise ValueError(
                f"{source} is not of this tar file of {size_bytes} bytes: it was made of one of {self.size_bytes}"
            )
        self._table = table.combine_chunks()  # copies nothing where there is one chunk, which is how we write it
        self._names, self._starts, self._sizes, self._headers = map(_join, self._table.columns)

    @classmethod
    def from_members(cls, members: Sequence[tuple[str, int, int, int]], *, size_bytes: int, source: str) -> ShardIndex:
        """An index of (name, start, size, CRC-32 of the header) of members; of equal names the last counts."""
        last = {name.encode("utf-8", "surrogateescape"): place for name, *place in members}
        rows = sorted(last.items())
        columns = [[name for name, _ in rows], *([place[i] for _, place in rows] for i in range(3))]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
        metadata = {_KEY: b"1", _SIZE_KEY: str(size_bytes).encode()}
        return cls(pa.Table.from_arrays(arrays, schema=_SCHEMA.with_metadata(metadata)), source=source)

    @classmethod
    def from_bytes(cls, data: bytes, *, source: str, size_bytes: int) -> ShardIndex:
        """An index as `write` wrote it. Raises ValueError if it is none, or of a tar file of another size."""
        return cls(_read_table(pa.BufferReader(data), source), source=source, size_bytes=size_bytes)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def names(self) -> Iterator[str]:
        """The members' names, sorted."""
        return (_decode(name.as_py()) for name in self._names)

    def find(self, name: str) -> tuple[int, int, int] | None:
        """Start, size and CRC-32 of the header of a member; None if there is none of this name."""
        wanted = name.encode("utf-8", "surrogateescape")
        row = self._bisect(wanted)
        if row == len(self) or self._get_name(row) != wanted:
            return None
        return self._starts[row].as_py(), self._sizes[row].as_py(), self._headers[row].as_py()

    def list_near(self, name: str, count: int) -> list[str]:
        """The neighbors of a name, on either side, in the order of names."""
        row = self._bisect(name.encode("utf-8", "surrogateescape"))
        return [_decode(found) for found in self._names[max(row - count, 0) : row + count].to_pylist()]

    def list_same_last(self, name: str, count: int) -> list[str]:
        """Members in other folders whose last part is that of this name."""
        ending = ("/" + name.rsplit("/", 1)[-1]).encode("utf-8", "surrogateescape")
        same = self._names.filter(pc.ends_with(self._names, ending))
        return [_decode(found) for found in same[:count].to_pylist()]

    def write(self, path: Path) -> None:
        """Writes it to a file, whole or not at all; several processes may do so at once."""
        own = path.with_name(f"{path.name}.{os.getpid()}")
        with open_whole(own) as file, pa.ipc.new_file(file, self._table.schema) as writer:
            writer.write_table(self._table)
        os.replace(own, path)

    def _bisect(self, wanted: bytes) -> int:
        return bisect_left(range(len(self)), wanted, key=self._get_name)

    def _get_name(self, row: int) -> bytes:
        return self._names[row].as_buffer().to_pybytes()


def _join(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def load_index(path: Path, *, size_bytes: int) -> ShardIndex:
    """Maps an index into memory.

    Args:
        path: what `ShardIndex.write` wrote.
        size_bytes: of its tar file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no index, or that of a tar file of another size.
    """
    return ShardIndex(_read_table(pa.memory_map(str(path)), str(path)), source=str(path), size_bytes=size_bytes)


def scan_shard(file: Any, size_bytes: int, source: str) -> ShardIndex:
    """Makes an index from the headers of the members, without reading what they hold.

    Args:
        file: the tar file, which can be read and sought.
        size_bytes: its length.
        source: its path, for messages.

    Raises:
        ShardError: it is damaged, cut off, or no tar file.
    """
    members: list[tuple[str, int, int, int]] = []
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # else they stay in memory, a kilobyte each
                end = archive.offset  # where the next header is
                if not info.isreg() or info.issparse():
                    continue
                if info.offset_data + info.size > size_bytes:
                    raise tarfile.ReadError(f"{info.name} would end at byte {info.offset_data + info.size}")
                header = _read_at(file, info.offset_data - HEADER_BYTES, HEADER_BYTES)
                members.append((info.name, info.offset_data, info.size, zlib.crc32(header)))
    except tarfile.TarError as error:
        raise ShardError(_explain(file, source, size_bytes, error)) from error
    mark = _read_at(file, end, HEADER_BYTES) if end < size_bytes else b""
    if mark.strip(b"\0"):
        raise ShardError(f"{source}: there is no header of a member at byte {end}: the tar file is damaged")
    if not mark:
        _logger.warning("%s has no end mark after its last member: it may be cut off", source)
    return ShardIndex.from_members(members, size_bytes=size_bytes, source=source)


def keep(index: ShardIndex, shard: str, version: str) -> ShardIndex:
    """Keeps an index in iopath's cache folder for this version of a shard; gives it mapped from there if that works."""
    path = _get_kept_path(shard, version)
    try:
        index.write(path)
        return load_index(path, size_bytes=index.size_bytes)
    except OSError as error:
        _logger.warning("the index of %s cannot be kept as %s, so each process makes its own: %s", shard, path, error)
        return index


def find_kept(shard: str, version: str, size_bytes: int) -> ShardIndex | None:
    """What `keep` has kept of a shard; None if there is nothing of this version."""
    path = _get_kept_path(shard, version)
    with contextlib.suppress(OSError, ValueError):
        return load_index(path, size_bytes=size_bytes)
    return None


@contextlib.contextmanager
def lock_kept(shard: str) -> Iterator[None]:
    """In this block no other process of this machine looks for this shard's index, where a file can be locked."""
    with contextlib.ExitStack() as stack:
        path = _get_kept_path(shard, "").parent / f".lock-{zlib.crc32(shard.encode()) % _NUM_LOCKS:02}"
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            file: IO[bytes] = stack.enter_context(open(path, "ab"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _get_kept_path(shard: str, version: str) -> Path:
    key = hashlib.blake2b(f"{shard}\n{version}".encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return Path(get_cache_dir()) / "shard_indexes" / (key + INDEX_SUFFIX)


def _read_table(source: Any, name: str) -> pa.Table:
    try:
        return pa.ipc.open_file(source).read_all()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{name} is no index of a tar file: {error}") from error


def _read_at(file: Any, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)


def _explain(file: Any, source: str, size_bytes: int, error: Exception) -> str:
    if size_bytes == 0:
        return f"{source}: the file is empty (0 bytes)"
    if _read_at(file, 0, 2) == _GZIP:
        return f"{source}: is compressed, so no member can be read by itself; unpack it to a plain .tar"
    if "end of data" in str(error) or "would end" in str(error):
        return f"{source}: the tar file is cut off at byte {size_bytes}: {error}; copy or pack it again"
    return f"{source}: is no tar file, or damaged: {error}"


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")

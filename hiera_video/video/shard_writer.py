"""Writes tar files that WebDataset reads too: members of one sample lie together and share their name up to a dot."""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from typing import BinaryIO

from hiera_video.video.remote import UnreachableError
from hiera_video.video.shard_index import HEADER_BYTES, ShardIndex

BLOCK_BYTES = tarfile.BLOCKSIZE
END_BYTES = tarfile.RECORDSIZE + BLOCK_BYTES  # at most so many follow the last member: two blocks, then whole records
_COPIED_AT_ONCE_BYTES = 4 << 20
_UNSAFE = re.compile(r"[^\w /+=@,()\-]")


class ReadError(OSError):
    """What was to become a member cannot be read, or ended before the length that it had."""


class ShardWriter:
    """A tar file as it grows. All times in it are 0, so equal samples give equal bytes.

    Args:
        file: opened to read and write at its start.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._members: list[tuple[str, int, int, int]] = []

    def __len__(self) -> int:
        return len(self._members)

    def add(self, name: str, source: BinaryIO, size_bytes: int) -> None:
        """Adds a member.

        Args:
            name: in the tar file.
            source: its bytes, read from where it stands.
            size_bytes: how many.

        Raises:
            ReadError: they cannot be read, or there are fewer. Then the tar file is as before.
            UnreachableError: the server that has them does not answer.
        """
        start = self._file.tell()
        info = tarfile.TarInfo(name)
        info.size = size_bytes
        header = info.tobuf(tarfile.PAX_FORMAT)
        self._file.write(header)
        left = size_bytes
        try:
            while left:
                data = _read(source, min(left, _COPIED_AT_ONCE_BYTES))
                if not data:
                    raise ReadError(f"it ended {left} bytes too early")
                self._file.write(data)
                left -= len(data)
        except BaseException:
            self._file.seek(start)
            self._file.truncate()
            raise
        self._file.write(bytes(-size_bytes % BLOCK_BYTES))
        self._members.append((name, start + len(header), size_bytes, zlib.crc32(header[-HEADER_BYTES:])))

    def add_bytes(self, name: str, data: bytes) -> None:
        """Adds a member of these bytes."""
        self.add(name, io.BytesIO(data), len(data))

    def finish(self, source: str) -> ShardIndex:
        """Writes the end of the tar file; returns its index, which calls itself ``source`` in messages."""
        self._file.write(bytes(2 * BLOCK_BYTES))
        self._file.write(bytes(-self._file.tell() % tarfile.RECORDSIZE))
        return ShardIndex.from_members(self._members, size_bytes=self._file.tell(), source=source)


def _read(source: BinaryIO, size_bytes: int) -> bytes:
    """Bytes of a source, whose errors are told apart from those of the disk that is written to."""
    try:
        return source.read(size_bytes)
    except UnreachableError:
        raise
    except OSError as error:
        raise ReadError(str(error)) from error


def count_tar_bytes(name: str, size_bytes: int) -> int:
    """What a member of this name and size takes in a tar file: its header, and whole blocks."""
    is_plain = name.isascii() and len(name) <= tarfile.LENGTH_NAME
    header_bytes = HEADER_BYTES if is_plain else len(tarfile.TarInfo(name).tobuf(tarfile.PAX_FORMAT))
    return header_bytes + size_bytes + -size_bytes % BLOCK_BYTES


def make_key(name: str) -> str:
    """A name without its suffix as a key of a sample: without dots in the last part, where WebDataset's keys end."""
    folder, slash, last = name.rpartition("/")
    parts = [part for part in folder.split("/") if part not in ("", ".", "..")]
    last = _UNSAFE.sub("_", last.replace(".", "_")) or "_"
    folder = _UNSAFE.sub("_", "/".join(parts).replace(".", "_"))
    return folder + slash * bool(folder) + last

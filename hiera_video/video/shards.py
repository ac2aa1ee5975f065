"""Members of tar files as paths of their own: ``shard.tar#folder/name.mp4``, here or at a URL.

The table of a shard's members (see `shard_index`) says where each lies, so one is opened without looking at the others.
A local file whose own name reads like this is that file.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hiera_video.utils.logging import get_logger
from hiera_video.utils.pathmgr import fetch_file, get_path_here, is_url
from hiera_video.video import remote
from hiera_video.video.shard_index import (
    HEADER_BYTES,
    INDEX_SUFFIX,
    ShardError,
    ShardIndex,
    find_kept,
    keep,
    load_index,
    lock_kept,
    scan_shard,
)

_MEMBER = re.compile(r"(?P<shard>.+?\.tar(?:\?[^#]*)?)#(?P<name>.+)", re.DOTALL)
_SCAN_BLOCK_BYTES = 4096  # of a remote shard: a header and little more
_ASK_AGAIN_SEC = 3600.0  # whether a remote shard has changed
_SHARDS_REMEMBERED = 4096
_NEAR = 20  # names on either side that are compared with one that is not there
_logger = get_logger(__name__)
_warned: set[str] = set()


@dataclass(frozen=True)
class Member:
    """Where a member's bytes are.

    Attributes:
        shard: path or URL of the tar file.
        name: in the tar file.
        start: of its first byte in the shard; its header lies before it.
        size_bytes: its length.
        header_crc32: of the 512 bytes before it.
        version: of the shard, as far as a server tells; "" of a local one.
    """

    shard: str
    name: str
    start: int
    size_bytes: int
    header_crc32: int
    version: str = ""

    def check_header(self, header: bytes) -> bool:
        """Whether these 512 bytes are the ones before the member, as the index knows them."""
        return zlib.crc32(header) == self.header_crc32


def split_member(path: str) -> tuple[str, str] | None:
    """Shard and member of a path such as ``shard.tar#a.mp4``; None for other paths, and where such a file exists."""
    if ".tar" not in path:
        return None
    match = _MEMBER.fullmatch(path)
    if match is None or "::" in match["shard"] or ("?" in match["shard"] and not is_url(path)):
        return None
    here = get_path_here(path)
    if here is not None and os.path.lexists(here):
        return None
    return match["shard"], match["name"]


def name_member(shard: str, name: str) -> str:
    """The path of a member."""
    return f"{shard}#{name}"


def find_member(path: str, *, is_stale: bool = False) -> Member | None:
    """Where the member is that a path names; None if the path names no member.

    Args:
        path: any path.
        is_stale: what an earlier call said was wrong, so the shard is scanned.

    Raises:
        FileNotFoundError: there is no such shard, or no such member in it; names the nearest.
        ShardError: the shard is damaged, cut off, or no tar file.
        UnreachableError: the server does not answer.
    """
    parts = split_member(path)
    if parts is None:
        return None
    shard, name = parts
    here = get_path_here(shard)
    if here is None:
        facts = _get_remote_facts(shard)
        if facts is not None:
            index = _load_remote_index(shard, facts, is_stale=is_stale)
            return _make_member(index, shard, name, version=facts.version)
        here = fetch_file(shard)
    member = _make_member(_load_local_index(here, is_stale=is_stale), here, name, version="", shown=shard)
    if member.check_header(_read_header(member)):
        return member
    if not is_stale:
        return find_member(path, is_stale=True)
    raise ShardError(f"{path}: the tar file changes while it is read")


def list_members(shard: str) -> Iterator[str]:
    """The names of a shard's members, sorted. Raises what `find_member` raises."""
    here = get_path_here(shard)
    facts = _get_remote_facts(shard) if here is None else None
    if facts is not None:
        yield from _load_remote_index(shard, facts).names
    else:
        yield from _load_local_index(here or fetch_file(shard)).names


def index_shard(shard: str) -> int:
    """Scans a local tar file and writes its index beside it; returns the number of members.

    Raises:
        FileNotFoundError: there is no such file.
        ShardError: it is damaged, cut off, or no tar file.
    """
    index = _scan_local(shard)
    index.write(Path(shard + INDEX_SUFFIX))
    return len(index)


def _make_member(index: ShardIndex, shard: str, name: str, *, version: str, shown: str = "") -> Member:
    place = index.find(name)
    if place is None:
        near = index.list_same_last(name, 1) or difflib.get_close_matches(name, index.list_near(name, _NEAR), n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {len(index):,} members"
        raise FileNotFoundError(f"{name_member(shown or shard, name)}: the tar file has no such member; {hint}")
    return Member(shard, name, *place, version=version)


def _read_header(member: Member) -> bytes:
    with open(member.shard, "rb", buffering=0) as file:
        return os.pread(file.fileno(), HEADER_BYTES, member.start - HEADER_BYTES)


def _load_local_index(shard: str, *, is_stale: bool = False) -> ShardIndex:
    try:
        facts = os.stat(shard)
    except OSError as error:
        raise FileNotFoundError(f"{shard}: there is no such tar file") from error
    version = f"{facts.st_size} {facts.st_mtime_ns}"
    if is_stale:
        _warn(f"{shard}{INDEX_SUFFIX} is not of this tar file, though of its size; it is scanned instead")
        _find_local_index.cache_clear()
        keep(_scan_local(shard), os.path.abspath(shard), version)
    return _find_local_index(os.path.abspath(shard), facts.st_size, version)


@functools.lru_cache(maxsize=_SHARDS_REMEMBERED)
def _find_local_index(shard: str, size_bytes: int, version: str) -> ShardIndex:
    """The index kept of this very file, or else the one beside it, or else a new one."""
    kept = find_kept(shard, version, size_bytes)
    if kept is not None:
        return kept
    beside = Path(shard + INDEX_SUFFIX)
    if beside.is_file():
        try:
            return load_index(beside, size_bytes=size_bytes)
        except ValueError as error:
            _warn(f"{error}; the tar file is scanned instead. `hiera-video pack --index {shard}` writes a new one")
    return keep(_scan_local(shard), shard, version)


def _scan_local(shard: str) -> ShardIndex:
    try:
        with open(shard, "rb") as file:
            return scan_shard(file, os.path.getsize(shard), shard)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(f"{shard}: there is no such tar file") from error


_remote_facts: dict[str, tuple[float, remote.RemoteFacts | None]] = {}


def _get_remote_facts(shard: str) -> remote.RemoteFacts | None:
    """Size and version of a remote shard, asked for at most once an hour; None where its parts cannot be fetched."""
    now = time.monotonic()
    asked_at, facts = _remote_facts.get(shard, (-_ASK_AGAIN_SEC, None))
    if now - asked_at >= _ASK_AGAIN_SEC:
        facts = remote.get_facts(shard)
        if len(_remote_facts) >= _SHARDS_REMEMBERED:
            _remote_facts.clear()
        _remote_facts[shard] = now, facts
    return facts


def _load_remote_index(shard: str, facts: remote.RemoteFacts, *, is_stale: bool = False) -> ShardIndex:
    if is_stale:
        _warn(f"{shard}{INDEX_SUFFIX} is not of this tar file; it is scanned instead")
        _remote_facts.pop(shard, None)
        _find_remote_index.cache_clear()
        facts = _get_remote_facts(shard) or facts
        keep(_scan_remote(shard, facts), shard, facts.version)
    return _find_remote_index(shard, facts.size_bytes, facts.version)


@functools.lru_cache(maxsize=_SHARDS_REMEMBERED)
def _find_remote_index(shard: str, size_bytes: int, version: str) -> ShardIndex:
    """The index kept here of this version, or else a copy of the one beside the shard, or else a new one."""
    with lock_kept(shard):  # of many processes that start together, one scans
        kept = find_kept(shard, version, size_bytes)
        if kept is not None:
            return kept
        address, mark, query = shard.partition("?")
        url = address + INDEX_SUFFIX + mark + query
        try:
            facts = remote.get_facts(url)
            data = None if facts is None else remote.read_range(url, 0, facts.size_bytes)
        except remote.UnreachableError:
            raise
        except OSError as error:
            _logger.debug("%s: %s", url, error)
            data = None
        if data is not None:
            try:
                return keep(ShardIndex.from_bytes(data, source=url, size_bytes=size_bytes), shard, version)
            except ValueError as error:
                _warn(f"{error}; the tar file is scanned instead")
        return keep(_scan_remote(shard, remote.RemoteFacts(size_bytes, version)), shard, version)


def _scan_remote(shard: str, facts: remote.RemoteFacts) -> ShardIndex:
    _logger.info("%s has no index: the headers of its members are read", shard)
    file = remote.RangeFile(shard, start=0, size_bytes=facts.size_bytes, block_bytes=_SCAN_BLOCK_BYTES)
    return scan_shard(file, facts.size_bytes, shard)


def _warn(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        _logger.warning("%s", message)

"""Remote files kept on a local disk, up to a size; what was used least recently goes first.

Any number of processes may share a folder. Each file that is kept, a whole remote file or one member of a remote tar
file, lies there under a name made of its address and its version. Three rules keep it right, whoever is killed when:

* A file being fetched is ``.partial`` and locked by its process. It has its full length from the start, so the sum of
  all lengths in the folder is what the cache takes or will take. One that nobody has locked is rubbish.
* Who reads a file has a shared lock on it; a file is removed only by who gets it for himself alone.
* The sum stands in the file ``lock``, and is changed only while that is locked: upwards before a file is made,
  downwards after one is gone. So it is never too small, and each removal, which goes through the folder, corrects it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fvcore.common.config import CfgNode

from hiera_video.utils.logging import get_logger
from hiera_video.video.remote import UnreachableError, get_facts, read_range
from hiera_video.video.shard_index import HEADER_BYTES
from hiera_video.video.shards import Member, name_member

_PARTIAL = ".partial"
_NAME = re.compile(r"[0-9a-f]{32}-[0-9a-f]{16}(\.partial)?")
_REQUEST_BYTES = 8 << 20
_POLL_SEC = 0.02
_KEPT_SHARE = 0.95  # of the allowed size, after removing: so that this, which goes through the folder, is rare
_ASK_AGAIN_SEC = 3600.0  # whether a file has changed there
_VERSIONS_REMEMBERED = 50_000
_SUM_DIGITS = 20
_BYTES_PER_GB = 10**9
_logger = get_logger(__name__)
_versions: dict[bytes, tuple[float, int, str]] = {}  # address (hashed) -> when asked, size, version
_warned: set[str] = set()


@dataclass
class CachedFile:
    """A file of the cache, which is not removed until it is closed."""

    path: str
    _lock: int

    def close(self) -> None:
        """Lets it go."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __del__(self) -> None:
        self.close()


@dataclass(frozen=True)
class FileCache:
    """Where remote files are kept.

    Attributes:
        folder: on a disk of this machine; it is made if it is missing.
        size_bytes: the files in it never take more.
    """

    folder: str
    size_bytes: int

    def fetch_file(self, url: str) -> CachedFile | None:
        """A remote file as a local one, fetched if it is not there yet or has changed since.

        Whether it has changed is asked at most once an hour in each process.

        Returns:
            None where the file has to be read remotely: it has no known length, does not fit, or the disk is full.

        Raises:
            FileNotFoundError: there is no such file.
            UnreachableError: the server does not answer, and nothing is kept of the file.
        """
        try:
            found = _ask_version(url)
        except UnreachableError:
            kept = self.find_any(url)
            if kept is None:
                raise
            return kept
        if found is None:
            return None
        size_bytes, version = found

        def write(file: int) -> bool:
            for start in range(0, size_bytes, _REQUEST_BYTES):
                _write(file, read_range(url, start, min(start + _REQUEST_BYTES, size_bytes)), start)
            return size_bytes <= _REQUEST_BYTES or _ask_version(url, again=True) == found

        return self._fetch(url, version, size_bytes, write)

    def fetch_member(self, member: Member) -> CachedFile | None:
        """A member of a remote tar file as a local file of its own; None where it has to be read remotely.

        Only the member is fetched: of a shard's thousand videos, a process that reads in random order wants one.

        Raises:
            FileNotFoundError: there is no such tar file.
            UnreachableError: the server does not answer.
        """
        url = name_member(member.shard, member.name)
        version = f"{member.version} {member.start} {member.size_bytes} {member.header_crc32}"
        first = member.start - HEADER_BYTES

        def write(file: int) -> bool:
            for start in range(0, HEADER_BYTES + member.size_bytes, _REQUEST_BYTES):
                end = min(start + _REQUEST_BYTES, HEADER_BYTES + member.size_bytes)
                data = read_range(member.shard, first + start, first + end)
                if start == 0:
                    if not member.check_header(data[:HEADER_BYTES]):
                        return False
                    data = data[HEADER_BYTES:]
                _write(file, data, max(start - HEADER_BYTES, 0))
            return True

        return self._fetch(url, version, member.size_bytes, write)

    def check(self) -> None:
        """Raises ValueError if files cannot be written to the folder."""
        try:
            with self._lock_sum() as file:
                self._write_sum(file, self._read_sum(file))
        except OSError as error:
            raise ValueError(f"DATA.CACHE_DIR = {self.folder}: files cannot be written there: {error}") from error

    def _fetch(self, url: str, version: str, size_bytes: int, write: Callable[[int], bool]) -> CachedFile | None:
        """The file of this version: as it is kept, or written by ``write``, which says whether it could."""
        path = self._get_path(url, version)
        kept = _open_kept(path)
        if kept is not None:
            return kept
        if size_bytes > self.size_bytes:
            self._warn(f"{url} has {size_bytes} bytes, more than the cache may take: read remotely")
            return None
        try:
            return self._make(path, size_bytes, write)
        except UnreachableError:
            raise
        except OSError as error:
            if isinstance(error, FileNotFoundError) and error.errno is None:  # ours, of the remote file
                raise
            self._warn(f"{url} cannot be kept in {self.folder}: {error}; such files are read remotely")
            return None

    def _make(self, path: Path, size_bytes: int, write: Callable[[int], bool]) -> CachedFile | None:
        partial = path.with_name(path.name + _PARTIAL)
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                kept = _lock_or_open(file, path)
                if kept is not None or _is_same(file, partial):
                    break
            except BaseException:
                os.close(file)
                raise
            os.close(file)  # it was removed, or has become the file itself and then been removed: once more
        try:
            if kept is not None:
                return kept
            if not self._reserve(file, partial, size_bytes):
                return None
            is_written = False
            try:
                is_written = write(file)
            finally:
                if not is_written:
                    self._remove(partial, size_bytes)
            if not is_written:
                return None
            os.fdatasync(file)  # a name that outlives a power failure must not have zeros behind it
            with self._lock_sum():  # nobody removes the file before it is locked for reading
                os.rename(partial, path)
                return _open_kept(path, own=file)
        finally:
            os.close(file)

    def _reserve(self, file: int, partial: Path, size_bytes: int) -> bool:
        """Makes room, and gives the file its full length; False, without the file, if there cannot be room."""
        with self._lock_sum() as lock:
            total = self._read_sum(lock) - os.fstat(file).st_size  # of a process that died at this very file
            if total + size_bytes > self.size_bytes:
                total = self._evict(size_bytes, but=partial)
            if total + size_bytes > self.size_bytes:
                self._warn(f"the {self.size_bytes} bytes of the cache {self.folder} are all being read: read remotely")
                partial.unlink()
                self._write_sum(lock, total)
                return False
            self._write_sum(lock, total + size_bytes)
            try:
                _allocate(file, size_bytes)
            except OSError:
                partial.unlink()
                self._write_sum(lock, total)
                raise
            return True

    def _evict(self, needed_bytes: int, *, but: Path) -> int:
        """Removes what was used least recently until there is room; returns how many bytes are left.

        Files with other names than the cache gives are somebody else's, and stay.
        """
        found = []
        for folder in filter(Path.is_dir, Path(self.folder).glob("[0-9a-f][0-9a-f]")):
            with os.scandir(folder) as entries:
                ours = [entry for entry in entries if _NAME.fullmatch(entry.name) and entry.path != str(but)]
                found += [(entry.stat(), entry.path) for entry in ours]
        total = sum(facts.st_size for facts, _ in found)
        allowed = max(self.size_bytes * _KEPT_SHARE, needed_bytes) - needed_bytes
        for facts, path in sorted(found, key=lambda item: (not item[1].endswith(_PARTIAL), item[0].st_mtime_ns)):
            if total <= allowed and not path.endswith(_PARTIAL):
                break
            if _remove_unused(path):
                total -= facts.st_size
        return total

    def _remove(self, partial: Path, size_bytes: int) -> None:
        with self._lock_sum() as lock:
            partial.unlink(missing_ok=True)
            self._write_sum(lock, max(self._read_sum(lock) - size_bytes, 0))

    def find_any(self, url: str) -> CachedFile | None:
        """What is kept of a file or member while its server does not answer: the version used last, or None."""
        path = self._get_path(url, "")
        name = path.name.split("-")[0]
        versions = [found for found in path.parent.glob(f"{name}-*") if found.suffix != _PARTIAL]
        kept = next(filter(None, map(_open_kept, sorted(versions, key=os.path.getmtime, reverse=True))), None)
        if kept is not None:
            self._warn(f"{url}: the server does not answer; what was kept of it is taken for unchanged")
        return kept

    def _get_path(self, url: str, version: str) -> Path:
        key, end = (hashlib.blake2b(text.encode("utf-8", "surrogateescape")).hexdigest() for text in (url, version))
        return Path(self.folder) / key[:2] / f"{key[2:34]}-{end[:16]}"

    @contextlib.contextmanager
    def _lock_sum(self) -> Iterator[int]:
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        file = os.open(Path(self.folder) / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)

    @staticmethod
    def _read_sum(file: int) -> int:
        text = os.pread(file, _SUM_DIGITS, 0)
        return int(text) if len(text) == _SUM_DIGITS else 0

    @staticmethod
    def _write_sum(file: int, total: int) -> None:
        os.pwrite(file, f"{total:0{_SUM_DIGITS}}".encode(), 0)

    def _warn(self, message: str) -> None:
        """Warns of the first file, and notes further ones at debug level: a whole data set may be like this."""
        if self.folder in _warned:
            _logger.debug("%s", message)
            return
        _warned.add(self.folder)
        _logger.warning("%s. What else does not go through the cache is not told", message)


def build_file_cache(cfg: CfgNode) -> FileCache | None:
    """The cache that DATA.CACHE_DIR names; None for none. Raises ValueError if it cannot be written to."""
    if not cfg.DATA.CACHE_DIR:
        return None
    cache = FileCache(os.path.abspath(cfg.DATA.CACHE_DIR), int(cfg.DATA.CACHE_SIZE_GB * _BYTES_PER_GB))
    cache.check()
    return cache


def _ask_version(url: str, *, again: bool = False) -> tuple[int, str] | None:
    key = hashlib.blake2b(url.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    now = time.monotonic()
    asked_at, size_bytes, version = _versions.get(key, (-_ASK_AGAIN_SEC, 0, ""))
    if not again and now - asked_at < _ASK_AGAIN_SEC:
        return size_bytes, version
    facts = get_facts(url)
    if facts is None:
        return None
    if len(_versions) >= _VERSIONS_REMEMBERED:
        _versions.clear()
    _versions[key] = now, facts.size_bytes, facts.version
    return facts.size_bytes, facts.version


def _allocate(file: int, size_bytes: int) -> None:
    """Gives an open file its length and, where the file system can, room on the disk."""
    os.ftruncate(file, 0)
    try:
        if size_bytes:
            os.posix_fallocate(file, 0, size_bytes)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        os.ftruncate(file, size_bytes)


def _write(file: int, data: bytes, start: int) -> None:
    while data:
        count = os.pwrite(file, data, start)
        data, start = data[count:], start + count


def _open_kept(path: Path, *, own: int | None = None) -> CachedFile | None:
    """A kept file, locked for reading and marked as just used; None if it is not there.

    Args:
        path: of the file.
        own: a descriptor of it through which this process has the file for itself; it is closed by who gave it.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if own is None else os.dup(own)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if _is_same(file, path):
            os.utime(file)
            return CachedFile(str(path), file)
    except BlockingIOError:  # it is just being removed
        pass
    except BaseException:
        os.close(file)
        raise
    os.close(file)
    return None


def _lock_or_open(file: int, path: Path) -> CachedFile | None:
    """Waits until another process has fetched a file, and opens it; None once this one has ``file`` for itself.

    It may not simply wait for the lock, which whoever fetched the file shares until it is read: two processes that each
    read what the other one wants would wait for ever.
    """
    while True:
        is_ours = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_ours = False
        kept = _open_kept(path)
        if kept is not None or is_ours:
            return kept
        time.sleep(_POLL_SEC)


def _is_same(file: int, path: Path) -> bool:
    """Whether a path still names this open file."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _remove_unused(path: str) -> bool:
    """Removes a file that nobody has locked; False if somebody has."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(file)

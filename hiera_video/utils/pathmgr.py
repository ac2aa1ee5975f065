"""The one iopath PathManager, which opens every path that a user names, and questions about paths.

Files of the web are kept in iopath's cache (FVCORE_CACHE, by default ~/.torch/iopath_cache).
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from iopath.common.file_io import HTTPURLHandler, PathManager, get_cache_dir

from hiera_video.utils.files import write_whole
from hiera_video.utils.logging import get_logger

_logger = get_logger(__name__)

_HASHED_AT_ONCE_BYTES = 2**20


class _WebHandler(HTTPURLHandler):
    """Keeps a downloaded file under its host's name, with its SHA-256 beside it.

    iopath's own handler takes two hosts' files of equal paths for the same.
    """

    def _get_local_path(self, path: str, force: bool = False, cache_dir: str | None = None, **kwargs: Any) -> str:
        local_path = super()._get_local_path(path, force=force, cache_dir=_get_host_dir(path, cache_dir), **kwargs)
        _remember_sha256(path, local_path)
        return local_path


pathmgr = PathManager()
pathmgr.register_handler(_WebHandler())

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_FILE_URL = "file://"


def is_url(path: str) -> bool:
    """Whether a path begins like ``s3://`` or ``https://``."""
    return _URL.match(path) is not None


def get_path_here(path: str) -> str | None:
    """The path on this machine that a path or a ``file://`` URL names; None for files elsewhere."""
    if path.startswith(_FILE_URL):
        return path[len(_FILE_URL) :]
    return None if is_url(path) else path


def fetch_file(path: str) -> str:
    """The local path of a file. A file elsewhere is copied first.

    Raises:
        FileNotFoundError: there is no such file, or nothing here can fetch it; the message begins with the path.
    """
    try:
        local_path = pathmgr.get_local_path(get_path_here(path) or path)
    except OSError as error:
        raise FileNotFoundError(f"{path}: cannot be fetched: {error}") from error
    if not os.path.isfile(local_path):
        raise FileNotFoundError(f"{path}: {_explain_missing(local_path)}")
    return local_path


def is_cached(url: str) -> bool:
    """Whether a file of the web has been fetched already."""
    return os.path.isfile(os.path.join(_get_host_dir(url), urlparse(url).path.lstrip("/")))


def compute_sha256(path: str) -> str:
    """SHA-256 of a file on this machine, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(_HASHED_AT_ONCE_BYTES):
            digest.update(part)
    return digest.hexdigest()


def _get_host_dir(url: str, cache_dir: str | None = None) -> str:
    return os.path.join(get_cache_dir(cache_dir), urlparse(url).netloc.replace(":", "_"))


def _remember_sha256(url: str, local_path: str) -> None:
    """Writes a download's SHA-256 and size down at the first time; later, looks whether the file is still that long."""
    record = Path(f"{local_path}.sha256")
    size = os.path.getsize(local_path)
    if not record.is_file():
        sha256 = compute_sha256(local_path)
        write_whole(record, f"{sha256} {size}\n".encode())
        _logger.info("%s is fetched: %d bytes, SHA-256 %s, kept as %s", url, size, sha256, local_path)
        return
    recorded = record.read_text().split()[-1]
    if recorded != str(size):
        raise OSError(f"{local_path} had {recorded} bytes when it was fetched, now {size}; remove it to fetch it again")


def _explain_missing(path: str) -> str:
    if os.path.exists(path):
        return "is not a file"
    if is_url(path):
        protocol = path.partition("://")[0]
        return f"nothing here opens {protocol}:// paths; pip install 'hiera_video[remote]' or fsspec's package for it"
    return "no such file"

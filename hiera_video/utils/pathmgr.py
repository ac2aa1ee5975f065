"""The one iopath PathManager, which opens every path that a user names, and questions about paths."""

from __future__ import annotations

import os
import re

from iopath.common.file_io import HTTPURLHandler, PathManager

pathmgr = PathManager()
pathmgr.register_handler(HTTPURLHandler())

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


def _explain_missing(path: str) -> str:
    if os.path.exists(path):
        return "is not a file"
    if is_url(path):
        protocol = path.partition("://")[0]
        return f"nothing here opens {protocol}:// paths; pip install 'hiera_video[remote]' or fsspec's package for it"
    return "no such file"

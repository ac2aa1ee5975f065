"""Finds the files of videos that lists name without the endings of their files."""

from __future__ import annotations

import os
from collections.abc import Iterable

import fsspec

from hiera_video.data.lists import VIDEO_SUFFIXES, join_prefix
from hiera_video.utils.pathmgr import get_path_here, is_url
from hiera_video.video import is_series
from hiera_video.video.image_backend import get_container


class VideoFolder:
    """A folder of videos, here or at a URL.

    Args:
        folder: where the videos lie.
        file_names: names of its files, where they are known; otherwise the folder is listed when it is first needed.
    """

    def __init__(self, folder: str, *, file_names: Iterable[str] = ()) -> None:
        self.folder = folder
        self._files = {"": _name_stems(file_names, folder)} if file_names else {}  # folder inside -> stem -> name

    def find(self, name: str) -> str:
        """The path of a video; one that nothing is known of gets the path that it would have.

        Args:
            name: path relative to the folder, absolute, or a URL, with or without the ending; or a folder of pictures.

        Raises:
            ValueError: several files have this name, or the folder is at a URL that cannot be listed.
        """
        path = join_prefix(self.folder, name)
        if name.lower().endswith(VIDEO_SUFFIXES) or is_series(path):
            return path
        here = get_path_here(path)
        if here is not None and os.path.exists(here):
            return path
        inner, stem = os.path.split(name)
        if inner not in self._files:
            folder = join_prefix(self.folder, inner) if inner else self.folder
            self._files[inner] = _name_stems(_list(folder), folder)
        file = self._files[inner].get(stem, stem)
        return join_prefix(self.folder, os.path.join(inner, file))


def is_there(path: str) -> bool:
    """Whether a local video exists; URLs are taken to."""
    here = get_path_here(path)
    return here is None or is_series(here) or os.path.exists(get_container(here)) or is_url(path)


def _list(folder: str) -> list[str]:
    here = get_path_here(folder)
    if here is not None:
        return os.listdir(here) if os.path.isdir(here) else []
    try:
        filesystem, root = fsspec.core.url_to_fs(folder)
        return [os.path.basename(path.rstrip("/")) for path in filesystem.ls(root, detail=False)]
    except Exception as error:  # of whatever library opens such URLs
        raise ValueError(
            f"{folder} cannot be listed ({str(error).strip()}), so the endings of its videos are not known: name "
            "videos with their endings, or put AVA's ava_file_names_trainval_v2.1.txt beside the lists"
        ) from error


def _name_stems(names: Iterable[str], folder: str) -> dict[str, str]:
    stems: dict[str, str] = {}
    for name in sorted(names):
        stem, ending = os.path.splitext(name)
        if ending.lower() not in VIDEO_SUFFIXES:
            continue
        if stem in stems:
            raise ValueError(f"{folder} holds both {stems[stem]} and {name}: name videos with their endings")
        stems[stem] = name
    return stems

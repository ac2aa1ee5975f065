"""Which videos to embed: a folder, a glob, a list of paths, a manifest, or the lists of the config."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fvcore.common.config import CfgNode

from hiera_video.data.build_lists import build_unchecked_video_list
from hiera_video.data.lists import UNLABELED, VIDEO_SUFFIXES, load_kinetics_csv
from hiera_video.utils.pathmgr import is_url, pathmgr
from hiera_video.video import is_series
from hiera_video.video.image_backend import IMAGE_SUFFIXES
from hiera_video.video.shards import list_members, name_member, split_member

SPLITS = ("train", "val", "test")
_SHARD_SUFFIX = ".tar"
_NO_TEXT = re.compile("[\ud800-\udfff]")  # how Python reads names whose bytes are not UTF-8
_KINDS = (
    "a folder, a glob such as 'videos/**/*.mp4', a list (.csv, .txt), a manifest (.parquet), a tar file, or a video"
)


@dataclass(frozen=True, eq=False)
class Collection:
    """Distinct videos, in the order in which they were found.

    Attributes:
        paths: str array (n,).
        labels: int64 (n,), -1 where unknown.
        splits: which list each video is from; None where there are no lists.
        root: folder that holds most of them, for short names; "" for none.
    """

    paths: np.ndarray
    labels: np.ndarray
    splits: np.ndarray | None = None
    root: str = ""

    def __len__(self) -> int:
        return len(self.paths)

    def make_ids(self, taken: Mapping[str, str] | None = None) -> list[str]:
        """A short unique name for each video: its path below the root, without its suffix where that is unique.

        Args:
            taken: names in use -> paths of their videos.
        """
        names = [_shorten(str(path), self.root) for path in self.paths]
        stems = [os.path.splitext(name)[0] for name in names]
        counts = Counter(stems)
        used, ids = dict(taken or {}), []
        for path, name, stem in zip(self.paths.tolist(), names, stems, strict=True):
            numbered = (f"{name}-{number}" for number in count(2))
            candidates = chain([stem] if counts[stem] == 1 else [], [name], numbered)
            ids.append(next(found for found in candidates if used.setdefault(found, path) == path))
        return ids


def collect_videos(source: str, *, separator: str = " ", path_prefix: str = "") -> Collection:
    """The videos that a text names.

    Args:
        source: a folder (with all below it), a glob, a list of paths with or without labels, a manifest, a tar file, or
            one video.
        separator: what stands between path and label in a list.
        path_prefix: what is put in front of relative paths of a list.

    Raises:
        FileNotFoundError: there is no such file, or nothing matches.
        ValueError: a list that cannot be read, or a file name that is not UTF-8.
    """
    is_here = not is_url(source)
    if is_here and any(letter in source for letter in "*?[") and not os.path.exists(source):
        return _make(_choose(glob.glob(source, recursive=True)), source, root=_find_glob_root(source))
    if is_here and os.path.isdir(source):
        below = [os.path.join(folder, name) for folder, _, names in os.walk(source) for name in names]
        return _make(_choose(below), source, root=source)
    if source.lower().endswith(".parquet"):
        return _read_manifest(source)
    if source.lower().endswith((".csv", ".txt")):
        videos = load_kinetics_csv(source, separator=separator, path_prefix=path_prefix, require_labels=False)
        return _make(videos.paths, source, labels=videos.labels, root=path_prefix)
    if source.lower().endswith(_SHARD_SUFFIX) and (not is_here or os.path.isfile(source)):
        return _make(_choose(_expand([source])), source, root=os.path.dirname(source))
    if not is_here or os.path.isfile(source) or is_series(source) or split_member(source) is not None:
        return _make([source], source, root=os.path.dirname(source))
    raise FileNotFoundError(f"{source}: there is no such file or folder; legal are {_KINDS}")


def collect_paths(sources: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Collection:
    """The videos that one text or several name, see `collect_videos`."""
    if isinstance(sources, str | os.PathLike):
        return collect_videos(os.fspath(sources))
    parts = [collect_videos(os.fspath(source)) for source in sources]
    if len(parts) == 1:
        return parts[0]
    if not parts:
        raise FileNotFoundError(f"no videos are named; legal are {_KINDS}")
    paths = np.concatenate([part.paths for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    return _make(paths, "the videos", labels=labels, root=_find_common_folder(paths))


def _choose(paths: list[str]) -> list[str]:
    """The videos, or where there is none, the pictures: beside videos, pictures are their thumbnails.

    Where there is neither, those in tar files.
    """
    found = sorted(filter(is_video_name, paths)) or sorted(
        path for path in paths if path.lower().endswith(IMAGE_SUFFIXES)
    )
    shards = [path for path in paths if path.lower().endswith(_SHARD_SUFFIX)]
    return found if found or not shards else _choose(_expand(shards))


def _expand(shards: list[str]) -> list[str]:
    """The paths of all members of tar files."""
    return [name_member(shard, name) for shard in shards for name in list_members(shard)]


def is_video_name(path: str) -> bool:
    """Whether a file's name ends like a video's."""
    return path.lower().endswith(VIDEO_SUFFIXES)


def _make(
    paths: Sequence[str] | np.ndarray,
    source: str,
    *,
    labels: np.ndarray | None = None,
    splits: np.ndarray | None = None,
    root: str = "",
) -> Collection:
    if len(paths) == 0:
        raise FileNotFoundError(f"{source}: no video there; files end in {', '.join(VIDEO_SUFFIXES + IMAGE_SUFFIXES)}")
    paths = np.array(paths, dtype=np.str_)
    if unnamed := next(filter(_NO_TEXT.search, paths.tolist()), None):
        raise ValueError(f"{source}: {unnamed!r} is not UTF-8, so no table can hold this name; rename the file")
    labels = np.full(len(paths), UNLABELED, dtype=np.int64) if labels is None else labels
    _, first = np.unique(paths, return_index=True)
    first.sort()
    return Collection(paths[first], labels[first], None if splits is None else splits[first], root)


def _read_manifest(source: str) -> Collection:
    try:
        with pathmgr.open(source, "rb") as file:
            table = pq.read_table(pa.PythonFile(file, mode="r"))
    except pa.ArrowException as error:
        raise ValueError(f"{source} is no Parquet file: {error}") from error
    if "path" not in table.column_names:
        raise ValueError(f"{source} has no column 'path'; it has {', '.join(table.column_names)}")
    paths = np.array(table["path"].to_pylist(), dtype=np.str_)
    labels = table["label"].fill_null(UNLABELED).to_numpy() if "label" in table.column_names else None
    return _make(paths, source, labels=labels, root=_find_common_folder(paths))


def _find_common_folder(paths: np.ndarray) -> str:
    """The deepest folder that holds all local paths; "" where some are URLs."""
    folders = {os.path.dirname(str(path)) for path in paths}
    if not folders or any(map(is_url, folders)):
        return ""
    return os.path.commonpath([os.path.abspath(folder) for folder in folders])


def _find_glob_root(pattern: str) -> str:
    """The folder in front of the first wildcard."""
    parts = pattern.split("/")
    fixed = next(i for i, part in enumerate(parts) if any(letter in part for letter in "*?["))
    return "/".join(parts[:fixed])


def _shorten(path: str, root: str) -> str:
    """A path without ``root`` in front; other paths stay whole. No name leads out of a folder."""
    root = root.rstrip("/") + "/" if root else ""
    for name, base in ((path, root), (os.path.abspath(path), os.path.abspath(root) + "/" if root else "")):
        if base and name.startswith(base):
            return _drop_dots(name[len(base) :])
    return _drop_dots(path.split("://", 1)[-1])


def _drop_dots(path: str) -> str:
    return "/".join(part for part in path.split("/") if part not in ("", ".", ".."))


def build_collection(cfg: CfgNode) -> Collection:
    """The videos that EXTRACT.VIDEOS names, or else the lists of DATA.FORMAT that EXTRACT.SPLIT names.

    Raises:
        FileNotFoundError: no such file, folder or list, or nothing there.
        ValueError: a list that cannot be read.
    """
    data, prefix = cfg.DATA, cfg.DATA.PATH_PREFIX or cfg.DATA.PATH_TO_DATA_DIR
    if cfg.EXTRACT.VIDEOS:
        return collect_videos(cfg.EXTRACT.VIDEOS, separator=data.PATH_LABEL_SEPARATOR, path_prefix=data.PATH_PREFIX)
    chosen = SPLITS if cfg.EXTRACT.SPLIT == "all" else (cfg.EXTRACT.SPLIT,)
    lists, missing = {}, []
    for split in chosen:
        try:
            lists[split], _ = build_unchecked_video_list(cfg, split, require_labels=False)
        except FileNotFoundError as error:  # with "all", data sets that come without a test list are legal
            missing.append(error)
    if not lists or (missing and len(chosen) == 1):
        raise missing[0]
    splits = np.concatenate([np.full(len(videos), split) for split, videos in lists.items()])
    paths = np.concatenate([videos.paths for videos in lists.values()])
    labels = np.concatenate([videos.labels for videos in lists.values()])
    return _make(paths, data.PATH_TO_DATA_DIR, labels=labels, splits=splits, root=prefix)

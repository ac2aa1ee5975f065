"""Parts of a list for cross-validation: as equal in classes as can be, and no group on both sides."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from hiera_video.data.lists import VideoList, read_text
from hiera_video.utils.logging import get_logger

logger = get_logger(__name__)

_HEADING = ("path", "group")


def find_strata(videos: VideoList) -> np.ndarray:
    """What each part of the list shall have its share of: a video's class; int64 (n,).

    Where videos have several, it is the rarest of them, since common classes come to every part anyway; a video
    without any gets K.
    """
    sets = videos.label_sets
    if sets is None:
        return np.asarray(videos.labels)
    counts = sets.count_videos()
    rows = (sets.get(index) for index in range(len(videos)))
    return np.array([row[counts[row].argmin()] if len(row) else sets.num_classes for row in rows], dtype=np.int64)


def divide(strata: np.ndarray, *, num_parts: int, seed: int, groups: Sequence[str] | None = None) -> np.ndarray:
    """In which part each video is: int64 (n,), in [0, num_parts).

    Follows: scikit-learn's `StratifiedKFold`, and with groups `StratifiedGroupKFold`, both shuffled.

    Args:
        strata: int64 (n,), see `find_strata`; those with fewer videos than parts are missing in some.
        num_parts: at least 2.
        seed: of the shuffling, 32 bits.
        groups: a name for each video; those of the same name come to the same part.

    Raises:
        ValueError: there are fewer videos, or groups, than parts.
    """
    units, what = (len(strata), "videos") if groups is None else (len(set(groups)), "groups of videos")
    if num_parts < 2 or units < num_parts:
        raise ValueError(f"{units} {what} cannot be divided into {num_parts} parts; at least 2, and at most {units}")
    if np.unique(strata, return_counts=True)[1].max() < num_parts:
        # All classes are so small that scikit-learn refuses: then without regard to classes.
        strata = np.zeros(len(strata), dtype=np.int64)
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    parts = np.full(len(strata), -1, dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of small classes, which the caller names
        split = kind(num_parts, shuffle=True, random_state=seed).split(np.zeros(len(strata)), strata, groups)
        for number, (_, chosen) in enumerate(split):
            parts[chosen] = number
    empty = sorted(set(range(num_parts)) - set(parts.tolist()))
    if empty:
        raise ValueError(f"{units} {what} are too unequal for {num_parts} parts: one would be empty; take fewer parts")
    return parts


def load_groups(csv_path: str, paths: Sequence[str]) -> list[str]:
    """The group of each video from a csv with the heading ``path,group``.

    Args:
        csv_path: its paths are those of the list, or their ends, such as ``class/video.mp4``.
        paths: of the list.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not of this form, or has no line for a video; names file and video.
    """
    reader = csv.DictReader(io.StringIO(read_text(csv_path)))
    absent = [column for column in _HEADING if column not in (reader.fieldnames or ())]
    if absent:
        raise ValueError(f"{csv_path} has no column {absent[0]}; its heading is {','.join(reader.fieldnames or ())!r}")
    group_of: dict[str, str] = {}
    for row in reader:
        path, group = (row[column] for column in _HEADING)
        if not path or not group:
            raise ValueError(f"{csv_path}:{reader.line_num}: expected a path and a group, got {list(row.values())}")
        if group_of.setdefault(path, group) != group:
            raise ValueError(f"{csv_path}:{reader.line_num}: {path} is in group {group!r} and in {group_of[path]!r}")

    def find(path: str) -> str | None:
        return next((group_of[end] for end in _list_ends(path) if end in group_of), None)

    return _collect(find, paths, f"{csv_path} has no line for")


def match_groups(pattern: str, paths: Sequence[str]) -> list[str]:
    """The group of each video: what a regular expression finds in its path, or its first parenthesis if it has any.

    Raises:
        ValueError: the pattern is not a regular expression, or it is not found in a path; names them.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error

    def find(path: str) -> str | None:
        found = expression.search(path)
        return found and found.group(min(expression.groups, 1))

    return _collect(find, paths, f"the pattern {pattern!r} finds nothing in")


def _list_ends(path: str) -> list[str]:
    """``a/b/c`` -> itself, ``b/c``, ``c``."""
    words = path.split("/")
    return ["/".join(words[start:]) for start in range(len(words))]


def _collect(find: Callable[[str], str | None], paths: Sequence[str], problem: str) -> list[str]:
    groups = [find(str(path)) for path in paths]
    lacking = [str(path) for path, group in zip(paths, groups, strict=True) if group is None]
    if lacking:
        raise ValueError(f"{problem} {len(lacking)} of {len(paths)} videos, such as {lacking[0]}")
    return [group for group in groups if group is not None]

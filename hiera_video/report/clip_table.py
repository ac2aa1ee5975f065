"""Tested clips as a page's script reads them, to list those of a cell of the confusion matrix."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from hiera_video.report.clips import find_scheme, make_url
from hiera_video.report.scored_clips import ScoredClips
from hiera_video.video import is_series
from hiera_video.video.shards import split_member


def make_clip_data(clips: ScoredClips, page_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """What ``report.js`` reads of all clips.

    Args:
        clips: of a test.
        page_dir: folder of the page.

    Returns:
        ``names`` of the classes; of each clip its ``labels``, ``predictions`` (-1: failed), ``confidences`` in percent,
        and ``paths``: relative to ``folder`` where they are local. ``url`` is that folder's address; ``closed`` are
        the positions of clips that no browser opens: members of tar files, and pictures.
    """
    paths, folder, url = shorten_paths(clips.paths, page_dir)
    return {
        "names": list(clips.class_names),
        "labels": clips.labels.tolist(),
        "predictions": clips.predictions.tolist(),
        "confidences": [None if value != value else round(100 * value, 1) for value in clips.confidences.tolist()],
        "paths": paths,
        "folder": folder,
        "closed": find_closed(clips.paths),
        "url": url,
    }


def find_closed(paths: Sequence[str]) -> list[int]:
    """Positions of the paths that no browser opens: members of tar files, and pictures."""
    return [i for i, path in enumerate(paths) if split_member(path) is not None or is_series(path)]


def shorten_paths(paths: Sequence[str], page_dir: str | os.PathLike[str]) -> tuple[list[str], str, str]:
    """Paths as scripts take them: local ones relative to the folder that holds them all.

    Returns:
        the paths, that folder ("" where none is local), and its address for a page in ``page_dir``.
    """
    is_local = [not find_scheme(path) for path in paths]
    local = [os.path.abspath(path) for path, here in zip(paths, is_local, strict=True) if here]
    folder = os.path.join(os.path.commonpath(set(map(os.path.dirname, local))), "") if local else ""
    shown = iter(local)
    short = [next(shown)[len(folder) :] if here else path for path, here in zip(paths, is_local, strict=True)]
    return short, folder, (make_url(folder, page_dir) or "").rstrip("/") + "/" if folder else ""

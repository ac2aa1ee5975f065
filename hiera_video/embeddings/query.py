"""From what somebody looks for to rows: which rows a query is made of, which rows may be found, one for each video."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from hiera_video.embeddings.faiss_index import FaissIndex, choose_index, measure_recall
from hiera_video.embeddings.reading import Embeddings
from hiera_video.embeddings.search import EXACT, Hits, Pairs, find_near_duplicates, search_exact, search_filtered

MAX_PAIRS = 100_000  # that are kept in memory
NUM_COMPARED = 20_000  # file names that a misspelled one is compared with
_RECALL_QUERIES = 200
_TIME_TOLERANCE_SEC = 0.005  # tables show times in hundredths of a second


@dataclass(frozen=True, eq=False)
class Query:
    """What somebody looks for.

    Attributes:
        vector: float32 (D,).
        path: of the video that it is taken from.
        start_sec: since the video's first frame; NaN where it is the video's start, or unknown.
        end_sec: likewise, for the end.
        label: the video's class; missing where unknown.
        rows: int64 (n,), the rows that the vector is the mean of; empty for a video that is not in the folder.
    """

    vector: torch.Tensor
    path: str
    start_sec: float
    end_sec: float
    label: Any
    rows: np.ndarray


def query_row(embeddings: Embeddings, row: int) -> Query:
    """A row as the query.

    Raises:
        ValueError: there is no such row.
    """
    if not 0 <= row < len(embeddings):
        raise ValueError(f"there is no row {row}; legal values: 0 to {len(embeddings) - 1}")
    return _query_entry(embeddings, row, np.array([row]))


def query_video(
    embeddings: Embeddings, name: str, *, start_sec: float | None = None, end_sec: float | None = None
) -> Query:
    """A video of the folder, or a time range of it, as the query: the mean of its rows.

    Args:
        embeddings: all rows.
        name: the video's path or video_id.
        start_sec: start of the range; None: of the video.
        end_sec: likewise, for the end.

    Raises:
        ValueError: there is no such video or time range.
    """
    rows = find_video(embeddings.table, name)
    if start_sec is not None or end_sec is not None:
        rows = find_range(embeddings.table, rows, start_sec, end_sec)
    return _query_entry(embeddings.take(rows).mean_by_video(), 0, rows)


def query_example(vector: torch.Tensor, path: str, *, start_sec: float | None, end_sec: float | None) -> Query:
    """The embedding of any video as the query."""
    start, end = (math.nan if value is None else value for value in (start_sec, end_sec))
    return Query(vector.float().cpu(), path, start, end, pd.NA, np.empty(0, np.int64))


def _query_entry(embeddings: Embeddings, position: int, rows: np.ndarray) -> Query:
    entry = embeddings.table.iloc[position]
    vector = embeddings.vectors[position]
    return Query(vector, entry["path"], entry["start_sec"], entry["end_sec"], entry["label"], rows)


def find_video(table: pd.DataFrame, name: str) -> np.ndarray:
    """Rows of the video with this path or video_id.

    Raises:
        ValueError: there is none; the message shows similar names.
    """
    paths = table["path"].drop_duplicates()
    for column, names in (("path", [name]), ("video_id", [name]), ("path", find_same_files(paths, name))):
        found = np.flatnonzero(table[column].isin(names))
        if len(found):
            return found
    raise ValueError(describe_unknown(paths, name))


def describe_unknown(paths: pd.Series, name: str) -> str:
    """Says that a video is not among these different ones, and names similar ones."""
    by_name = {os.path.basename(path): path for path in paths}
    wanted = os.path.basename(name)
    near = difflib.get_close_matches(wanted, list(by_name)[:NUM_COMPARED], n=3, cutoff=0.5)
    if wanted in by_name:
        near = [wanted]
    some = [by_name[match] for match in near] or paths[:3].tolist()
    return (
        f"{name!r} is none of the {len(paths):,} videos there; {'similar' if near else 'there are'}: "
        f"{', '.join(map(repr, some))}"
    )


def find_same_files(paths: Iterable[str], name: str) -> list[str]:
    """Those of the paths that name the same file."""
    wanted = os.path.abspath(name)
    return [path for path in paths if path == name or ("://" not in path and os.path.abspath(path) == wanted)]


def find_range(table: pd.DataFrame, rows: np.ndarray, start_sec: float | None, end_sec: float | None) -> np.ndarray:
    """Those of a video's rows that lie within a time range; if none does, the row that overlaps most with it.

    Raises:
        ValueError: no row overlaps with the range, or the times are unknown.
    """
    start = 0.0 if start_sec is None else start_sec
    end = math.inf if end_sec is None else end_sec
    starts, ends = (table[name].to_numpy()[rows] for name in ("start_sec", "end_sec"))
    if np.isnan(starts).any() or np.isnan(ends).any():
        raise ValueError("no times are known for this video's rows: take the whole video, or a row by its number")
    inside = (starts >= start - _TIME_TOLERANCE_SEC) & (ends <= end + _TIME_TOLERANCE_SEC)
    if inside.any():
        return rows[inside]
    shared = np.minimum(ends, end) - np.maximum(starts, start)
    if shared.max() <= 0:
        raise ValueError(
            f"no row of this video is within {start:g} to {end:g} s; its rows are of {starts.min():g} to "
            f"{ends.max():g} s"
        )
    distances = np.abs(starts + ends - start - min(end, ends.max()))  # of the middles: among rows that share the same
    return rows[np.lexsort((distances, -shared.round(3)))[:1]]


def search(
    embeddings: Embeddings,
    query: Query,
    *,
    top_k: int,
    index: str = "auto",
    exclude_same_video: bool = False,
    group_by_video: bool = False,
) -> tuple[Hits, dict[str, Any]]:
    """The rows most similar to a query, without the rows that it is made of.

    Args:
        embeddings: the rows.
        query: what to look for.
        top_k: how many rows are wanted.
        index: "exact", "faiss" (approximate), or "auto", which chooses by the number of rows.
        exclude_same_video: leave out all rows of the query's own video.
        group_by_video: only the best row of each video.

    Returns:
        Hits of shape (1, up to top_k); and how they were found: ``index`` and, for an approximate index, ``recall``,
        ``recall_at`` and ``recall_queries``.
    """
    vectors, queries = embeddings.vectors, query.vector[None]  # (N, D), (1, D)
    codes, paths = pd.factorize(embeddings.table["path"])
    allowed = np.ones(len(vectors), dtype=bool)
    allowed[query.rows] = False
    if exclude_same_video:
        allowed &= ~np.isin(codes, np.flatnonzero(paths.isin(find_same_files(paths, query.path))))
    is_allowed, groups = torch.from_numpy(allowed), torch.from_numpy(codes) if group_by_video else None
    kind = choose_index(len(vectors)) if index == "auto" else index
    if kind == EXACT:
        device = _pick_device()
        hits = search_filtered(
            lambda k: search_exact(queries, vectors, k, device=device), top_k, is_allowed=is_allowed, groups=groups
        )
        return hits, {"index": EXACT}
    made = FaissIndex(vectors, kind=None if kind == "faiss" else kind)
    hits = search_filtered(lambda k: made.search(queries, k), top_k, is_allowed=is_allowed, groups=groups)
    method: dict[str, Any] = {"index": made.kind}
    if len(vectors) > 1:
        recall = measure_recall(made, vectors, k=top_k, num_queries=_RECALL_QUERIES)
        method |= {"recall": recall, "recall_at": top_k, "recall_queries": min(_RECALL_QUERIES, len(vectors))}
    return hits, method


def find_pairs(
    embeddings: Embeddings,
    *,
    threshold: float,
    include_same_video: bool = False,
    group_by_video: bool = False,
    report_progress: Callable[[int], object] | None = None,
) -> Pairs:
    """Pairs of rows that are nearly the same, at most the best `MAX_PAIRS` of them.

    Args:
        embeddings: the rows.
        threshold: lowest cosine.
        include_same_video: also pairs within a video.
        group_by_video: only the best pair of each two videos.
        report_progress: called with the number of pairs compared since the last call.
    """
    codes = torch.from_numpy(pd.factorize(embeddings.table["path"])[0])
    pairs = find_near_duplicates(
        embeddings.vectors,
        threshold=threshold,
        groups=None if include_same_video else codes,
        max_pairs=MAX_PAIRS,
        device=_pick_device(),
        report_progress=report_progress,
    )
    if not group_by_video:
        return pairs
    videos = torch.stack([codes[pairs.first], codes[pairs.second]]).sort(dim=0).values  # (2, P)
    first = np.sort(np.unique(videos.numpy(), axis=1, return_index=True)[1])
    return Pairs(pairs.first[first], pairs.second[first], pairs.scores[first], pairs.num_found)


def _pick_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"

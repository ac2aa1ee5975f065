"""From what somebody looks for to rows, among shards that are not in memory as a whole."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import torch

from hiera_video.embeddings.disk_index import DiskIndex
from hiera_video.embeddings.query import NUM_COMPARED, Query, describe_unknown, find_same_files, query_video
from hiera_video.embeddings.reading import Embeddings
from hiera_video.embeddings.search import Hits
from hiera_video.embeddings.shard_rows import ShardRows


def query_shard_row(rows: ShardRows, row: int) -> Query:
    """A row as the query.

    Raises:
        ValueError: there is no such row.
    """
    if not 0 <= row < len(rows):
        raise ValueError(f"there is no row {row}; legal values: 0 to {len(rows) - 1}")
    entry = _load(rows, np.array([row]))
    first = entry.table.iloc[0]
    span = first["start_sec"], first["end_sec"]
    return Query(entry.vectors[0], first["path"], *span, first["label"], np.array([row]))


def query_shard_video(
    rows: ShardRows, name: str, *, start_sec: float | None = None, end_sec: float | None = None
) -> Query:
    """A video of the folder, or a time range of it, as the query; see `query.query_video`."""
    numbers = find_shard_video(rows, name)
    video = _load(rows, numbers)
    order = np.argsort(video.table["view"].to_numpy(), kind="stable")
    query = query_video(video.take(order), video.table["path"].iloc[0], start_sec=start_sec, end_sec=end_sec)
    return replace(query, rows=numbers[order][query.rows])


def find_shard_video(rows: ShardRows, name: str) -> np.ndarray:
    """Rows of the video with this path or video_id.

    Raises:
        ValueError: there is none; the message shows similar names.
    """
    for column in ("path", "video_id"):
        found = rows.find_rows([name], column)
        if len(found):
            return found
    found = rows.find_rows(find_same_files(rows.iterate_paths(), name))
    if len(found):
        return found
    some = pd.Series(list(islice(dict.fromkeys(rows.iterate_paths()), NUM_COMPARED)), dtype=object)
    raise ValueError(describe_unknown(some, name))


def search_shards(
    index: DiskIndex, query: Query, *, top_k: int, exclude_same_video: bool = False, group_by_video: bool = False
) -> tuple[Hits, pd.DataFrame, dict[str, Any]]:
    """The rows most similar to a query, without the rows that it is made of; see `query.search`.

    Returns:
        Hits of shape (1, up to top_k); the table of these rows, whose index holds their numbers; how they were found.
    """
    incomplete = index.content["incomplete"]
    wanted = min(top_k + len(query.rows), len(index.rows))
    while True:
        hits = index.search(query.vector[None], wanted)
        is_found = hits.rows[0] >= 0
        rows, scores = hits.rows[0][is_found], hits.scores[0][is_found]
        table = _make_table(index.rows, rows.numpy())
        is_wanted = ~np.isin(rows.numpy(), query.rows) & ~table["path"].isin(incomplete).to_numpy()
        if exclude_same_video:
            is_wanted &= ~table["path"].isin(find_same_files(table["path"], query.path)).to_numpy()
        if group_by_video:
            is_wanted &= ~table["path"].where(is_wanted, None).duplicated().to_numpy()
        if is_wanted.sum() >= top_k or wanted == len(index.rows) or not is_found.all():
            break
        wanted = min(4 * wanted, len(index.rows))
    chosen = torch.from_numpy(np.flatnonzero(is_wanted)[:top_k])
    method = {"index": f"ivf, {index.content['plan']['coding']} codes"}
    method |= {name: index.content[name] for name in ("recall", "recall_at", "recall_queries") if name in index.content}
    return Hits(rows[chosen][None], scores[chosen][None]), table.iloc[chosen.numpy()], method


def _load(rows: ShardRows, numbers: np.ndarray) -> Embeddings:
    table = _make_table(rows, numbers).reset_index(drop=True)
    return Embeddings(table, rows.read_vectors(numbers), rows.info)


def _make_table(rows: ShardRows, numbers: np.ndarray) -> pd.DataFrame:
    return rows.read_table(numbers).to_pandas().astype({"label": "Int64"}).set_index(numbers)

"""Embeddings from disk, as a table beside a tensor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from hiera_video.embeddings.store import load_side_car, read_shards


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings, and what each of them is of.

    Attributes:
        table: a row for each embedding, sorted by path and view: ``path``, ``video_id``, ``label`` (Int64, missing
            where unknown), ``split`` (missing where unknown), ``view`` (number within the video: in the order of time,
            the crops of a clip together), ``start_sec`` and ``end_sec`` (since the first frame; NaN where unknown).
        vectors: float32 (N, D), row by row.
        info: the side-car: ``settings``, ``shape`` (of one embedding, where it is a map (T', H', W', D)), versions ...
    """

    table: pd.DataFrame
    vectors: torch.Tensor
    info: dict[str, Any]

    def __len__(self) -> int:
        return len(self.table)

    def take(self, rows: Sequence[int] | np.ndarray) -> Embeddings:
        """Some rows, in the given order."""
        rows = np.asarray(rows, dtype=np.int64)
        return Embeddings(self.table.iloc[rows].reset_index(drop=True), self.vectors[torch.from_numpy(rows)], self.info)

    def mean_by_video(self) -> Embeddings:
        """One row for each video: the mean over its views. Its span is that of all views, its view 0."""
        codes, _ = pd.factorize(self.table["path"])
        groups = self.table.groupby(codes, sort=False)
        table = groups.first().assign(view=0, start_sec=groups["start_sec"].min(), end_sec=groups["end_sec"].max())
        sums = torch.zeros(len(table), self.vectors.shape[1], dtype=torch.float64)
        sums.index_add_(0, torch.from_numpy(codes), self.vectors.double())
        counts = torch.tensor(groups.size().tolist())[:, None]
        return Embeddings(table.reset_index(drop=True), (sums / counts).float(), self.info)

    def to_pandas(self) -> pd.DataFrame:
        """The table with a column ``embedding`` of arrays (D,)."""
        return self.table.assign(embedding=list(self.vectors.numpy()))


def read_embeddings(folder: str | os.PathLike[str]) -> Embeddings:
    """Reads what EXTRACT or `hiera_video.embed` wrote, of the videos that are complete.

    Raises:
        FileNotFoundError: the folder holds no embeddings.
        ValueError: its side-car is missing or damaged.
    """
    rows = read_shards(folder)
    info = load_side_car(folder)
    if info is None:
        raise ValueError(f"{folder} holds embeddings but no side-car that says what they are")
    column = rows["embedding"].combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    vectors = torch.from_numpy(values).view(len(rows), column.type.list_size)
    table = rows.drop_columns(["embedding"]).to_pandas()
    return Embeddings(table.astype({"label": "Int64"}), vectors, info)


def read_vectors(folder: str | os.PathLike[str]) -> Embeddings:
    """Reads embeddings as `read_embeddings` does, and makes sure that each row is one vector.

    Raises:
        FileNotFoundError: the folder holds no embeddings.
        ValueError: they are maps, there are no rows, or the side-car is missing or damaged.
    """
    embeddings = read_embeddings(folder)
    shape = embeddings.info.get("shape") or []
    if len(shape) > 1:
        raise ValueError(
            f"{folder} holds maps of shape {tuple(shape)}; one vector for each row is needed here, so extract pooled "
            "features"
        )
    if len(embeddings) == 0:
        raise ValueError(f"{folder} holds no rows")
    return embeddings


def check_finite(embeddings: Embeddings) -> None:
    """Raises ValueError, with the first path, where an embedding holds NaN or infinity."""
    finite = embeddings.vectors.isfinite().all(dim=1)
    if not finite.all():
        path = embeddings.table["path"].iloc[int((~finite).nonzero()[0, 0])]
        raise ValueError(f"{int((~finite).sum())} of {len(finite)} embeddings hold NaN or infinity, first of {path}")

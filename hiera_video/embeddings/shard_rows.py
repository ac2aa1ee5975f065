"""Rows of a folder of embeddings where they lie: numbered through all shards, and read when they are needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from hiera_video.embeddings.store import list_shards, load_side_car, read_complete

_PATHS_AT_ONCE = 65_536
_FOOTER_END = 8  # bytes: the footer's length (4) and Parquet's name


class ShardRows:
    """All rows of a folder, numbered in the order of the shards. None but those that are asked for are in memory.

    Differs: the numbers are not those of `read_embeddings`, which sorts all rows by path. Rows of videos that were not
        completed are among them; `find_incomplete` names those videos.

    Args:
        folder: of an extraction.
        names: the shards' files in the order of the numbers; None: sorted.

    Attributes:
        shards: their paths.
        starts: int64 (shards + 1,), the number of each shard's first row, and that of all rows.
        dim: values of an embedding.
        info: the side-car of the extraction.

    Raises:
        FileNotFoundError: the folder holds no embeddings, or a named shard is gone.
        ValueError: they are maps, there are no rows, or the side-car is missing or damaged.
    """

    def __init__(self, folder: str | os.PathLike[str], names: Sequence[str] | None = None) -> None:
        found = list_shards(folder)
        if not found:
            raise FileNotFoundError(f"{folder} holds no embeddings: there is no embeddings/*.parquet")
        info = load_side_car(folder)
        if info is None:
            raise ValueError(f"{folder} holds embeddings but no side-car that says what they are")
        if len(info.get("shape") or []) > 1:
            raise ValueError(
                f"{folder} holds maps of shape {tuple(info['shape'])}; one vector for each row is needed here, so "
                "extract pooled features"
            )
        self.folder, self.info = Path(folder), info
        self.shards = found if names is None else [found[0].parent / name for name in names]
        counts = [pq.read_metadata(shard).num_rows for shard in self.shards]
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.dim: int = pq.read_schema(self.shards[0]).field("embedding").type.list_size
        if len(self) == 0:
            raise ValueError(f"{folder} holds no rows")

    def __len__(self) -> int:
        return int(self.starts[-1])

    def iterate_vectors(self, block_rows: int, *, first_shard: int = 0) -> Iterator[tuple[int, torch.Tensor]]:
        """(number of the first row, float32 (up to block_rows, D)) of all rows in order, from a shard on."""
        for shard, start in zip(self.shards[first_shard:], self.starts[first_shard:].tolist(), strict=False):
            with pq.ParquetFile(shard) as file:
                for batch in file.iter_batches(block_rows, columns=["embedding"]):
                    yield start, self._to_vectors(batch.column(0))
                    start += batch.num_rows

    def read_vectors(self, rows: np.ndarray) -> torch.Tensor:
        """Some rows, float32 (n, D), in the given order. In memory are these and one row group of a shard."""
        vectors = torch.empty(len(rows), self.dim)
        for places, part in self._read_groups(rows, ["embedding"]):
            vectors[torch.from_numpy(places)] = self._to_vectors(part.column(0).combine_chunks())
        return vectors

    def read_table(self, rows: np.ndarray) -> pa.Table:
        """All columns but the embeddings of some rows, in the given order."""
        columns = [name for name in pq.read_schema(self.shards[0]).names if name != "embedding"]
        parts = list(self._read_groups(rows, columns))
        if not parts:
            return pq.read_schema(self.shards[0]).empty_table().select(columns).replace_schema_metadata(None)
        order = np.argsort(np.concatenate([places for places, _ in parts]), kind="stable")
        return pa.concat_tables(part.replace_schema_metadata(None) for _, part in parts).take(pa.array(order))

    def find_rows(self, names: Sequence[str], column: str = "path") -> np.ndarray:
        """Numbers of the rows whose path (or video_id) is one of these: int64 (n,), ascending."""
        wanted, found = pa.array(list(names), pa.string()), []
        for first, values in self._iterate_texts(column):
            found.append(first + np.flatnonzero(_is_in(values, wanted)))
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def iterate_paths(self) -> Iterator[str]:
        """The paths of the rows; each comes at least once, not necessarily only once."""
        for _, values in self._iterate_texts("path"):
            yield from values.unique().to_pylist()

    def find_incomplete(self) -> set[str]:
        """Paths of the videos that have rows, but that no shard completes."""
        is_open: set[str] = set()
        for number, shard in enumerate(self.shards):
            own = (values.unique().to_pylist() for _, values in self._iterate_texts("path", [number]))
            is_open |= {path for paths in own for path in paths} - read_complete(shard)
        for shard in self.shards if is_open else ():
            is_open -= read_complete(shard)
        return is_open

    def count_videos(self) -> int:
        """How many videos are complete."""
        return sum(len(read_complete(shard)) for shard in self.shards)

    def describe_shards(self) -> list[dict[str, Any]]:
        """What tells whether a shard is still the same: its name, rows, bytes, and the SHA-256 of its footer.

        The footer holds places, sizes and the lowest and highest values of all columns.
        """
        counts = np.diff(self.starts).tolist()
        return [
            {"name": shard.name, "rows": count, "bytes": shard.stat().st_size, "footer": _hash_footer(shard)}
            for shard, count in zip(self.shards, counts, strict=True)
        ]

    def _iterate_texts(self, column: str, numbers: Sequence[int] | None = None) -> Iterator[tuple[int, pa.Array]]:
        for number in range(len(self.shards)) if numbers is None else numbers:
            start = int(self.starts[number])
            with pq.ParquetFile(self.shards[number], read_dictionary=[column]) as file:
                for batch in file.iter_batches(_PATHS_AT_ONCE, columns=[column]):
                    yield start, batch.column(0)
                    start += batch.num_rows

    def _read_groups(self, rows: np.ndarray, columns: list[str]) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """(places among ``rows``, their part of the table), for each row group that holds some of them."""
        rows = np.asarray(rows, np.int64)
        order = np.argsort(rows, kind="stable")
        shard_of = np.searchsorted(self.starts, rows[order], side="right") - 1
        for number in np.unique(shard_of).tolist():
            places = order[shard_of == number]
            local = rows[places] - self.starts[number]
            with pq.ParquetFile(self.shards[number]) as file:
                sizes = [file.metadata.row_group(g).num_rows for g in range(file.metadata.num_row_groups)]
                begins = np.concatenate([[0], np.cumsum(sizes)])
                group_of = np.searchsorted(begins, local, side="right") - 1
                for group in np.unique(group_of).tolist():
                    chosen = group_of == group
                    table = file.read_row_group(group, columns=columns)
                    yield places[chosen], table.take(pa.array(local[chosen] - begins[group]))

    def _to_vectors(self, column: pa.Array) -> torch.Tensor:
        values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        return torch.from_numpy(values).view(len(column), self.dim)


def _is_in(values: pa.Array, wanted: pa.Array) -> np.ndarray:
    """Whether each text, of a dictionary, is one of these: only the dictionary's texts are compared."""
    known = pc.is_in(values.dictionary, value_set=wanted).to_numpy(zero_copy_only=False)
    codes = values.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return known[codes] & (codes >= 0) if len(known) else np.zeros(len(codes), bool)


def _hash_footer(shard: Path) -> str:
    with open(shard, "rb") as file:
        file.seek(-_FOOTER_END, os.SEEK_END)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-_FOOTER_END - length, os.SEEK_END)
        return hashlib.sha256(file.read(length)).hexdigest()

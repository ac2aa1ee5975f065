"""One file for each video, for code that reads such: .npy of (windows, D), or .safetensors."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import safetensors.numpy

from hiera_video.embeddings.store import SIDE_CAR, find_complete, list_shards, load_side_car, read_complete
from hiera_video.utils.files import write_whole


def write_npy_files(folder: str | os.PathLike[str]) -> None:
    """Writes ``npy/<video id>.npy``, (rows, D) or (rows, T', H', W', D), of each complete video that has none yet."""
    _write_files(folder, "npy", _to_npy)


def write_safetensors_files(folder: str | os.PathLike[str]) -> None:
    """Writes ``safetensors/<video id>.safetensors`` with ``embeddings``, as in `write_npy_files`, and ``spans_sec``."""
    _write_files(folder, "safetensors", _to_safetensors)


def _write_files(
    folder: str | os.PathLike[str], kind: str, serialize: Callable[[np.ndarray, np.ndarray], bytes]
) -> None:
    info = load_side_car(folder)
    if info is None:
        raise FileNotFoundError(f"{folder} holds no embeddings: it has no {SIDE_CAR}")
    shape = info["shape"]
    for video_id, rows in _iterate_videos(folder):
        path = Path(folder) / kind / f"{video_id}.{kind}"
        if path.exists():
            continue
        column = rows["embedding"].combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), *shape)
        spans_sec = np.stack([rows[name].to_numpy() for name in ("start_sec", "end_sec")], axis=1)
        write_whole(path, serialize(values, spans_sec))


def _iterate_videos(folder: str | os.PathLike[str]) -> Iterator[tuple[str, pa.Table]]:
    """Each complete video's id and rows in order; one shard is in memory, and the rows of a video that runs over it."""
    shards = list_shards(folder)
    complete = pa.array(sorted(find_complete(shards)), pa.string())
    begun: dict[str, list[pa.Table]] = {}
    for shard in shards:
        table = pq.read_table(shard)
        for path, rows in _split_by_path(table.filter(pc.is_in(table["path"], value_set=complete))):
            begun.setdefault(path, []).append(rows)
        for path in sorted(read_complete(shard) & set(begun)):
            rows = pa.concat_tables(begun.pop(path))
            yield rows["video_id"][0].as_py(), rows


def _split_by_path(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Each path with its rows, in the order of the views."""
    table = table.sort_by([("path", "ascending"), ("view", "ascending")])
    paths = table["path"].to_numpy()
    starts = np.flatnonzero(np.append(True, paths[1:] != paths[:-1]))[: len(paths)].tolist()
    for start, end in pairwise([*starts, len(paths)]):
        yield paths[start], table.slice(start, end - start)


def _to_npy(values: np.ndarray, spans_sec: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def _to_safetensors(values: np.ndarray, spans_sec: np.ndarray) -> bytes:
    return safetensors.numpy.save({"embeddings": np.ascontiguousarray(values), "spans_sec": spans_sec})

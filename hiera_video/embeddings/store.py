"""How embeddings lie in a folder, so that an interrupted extraction loses little and never leaves half a file.

```
extraction.json            the side-car: everything that the embeddings depend on
embeddings/*.parquet       shards, a row for each embedding
failures.parquet           the videos without embeddings, with the reason
```

A shard names the videos that it completes. Rows of a video that no shard completes are from an extraction that was
interrupted; `prepare_folder` removes them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import simplejson

from hiera_video.utils.files import write_whole

SIDE_CAR = "extraction.json"
FAILURES = "failures.parquet"
_SHARDS = "embeddings"
_COMPLETE = b"complete"
_COLUMNS = [
    pa.field("path", pa.string()),
    pa.field("video_id", pa.string()),
    pa.field("label", pa.int64()),
    pa.field("split", pa.string()),
    pa.field("view", pa.int32()),
    pa.field("start_sec", pa.float64()),
    pa.field("end_sec", pa.float64()),
]
_FAILURE_COLUMNS = pa.schema([("path", pa.string()), ("reason", pa.string())])
_ARROW_TYPES = {"float32": pa.float32(), "float16": pa.float16()}


@dataclass(frozen=True)
class VideoInfo:
    """What the rows of a video have in common.

    Attributes:
        path: as given.
        video_id: a name that is unique among the videos.
        label: None where unknown.
        split: the list that it is from; None where there is none.
    """

    path: str
    video_id: str
    label: int | None = None
    split: str | None = None


def load_side_car(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The content of the side-car; None where the folder has none.

    Raises:
        ValueError: it is not JSON.
    """
    path = Path(folder) / SIDE_CAR
    if not path.is_file():
        return None
    try:
        return simplejson.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error


def check_settings(folder: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
    """Raises ValueError, naming the differences, where the folder holds embeddings with other settings."""
    side_car = load_side_car(folder)
    if side_car is None:
        if list_shards(folder):
            raise ValueError(f"{folder} has embeddings but no {SIDE_CAR}, so nothing tells their settings")
        return
    old, new = side_car["settings"], simplejson.loads(simplejson.dumps(dict(settings)))
    changed = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    if changed:
        told = "; ".join(f"{name}: {old.get(name)!r} there, {new.get(name)!r} now" for name in changed)
        raise ValueError(f"{folder} holds embeddings with other settings ({told}); take another OUTPUT_DIR")


def write_side_car(folder: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Writes the side-car, whole or not at all."""
    write_whole(Path(folder) / SIDE_CAR, (simplejson.dumps(content, indent=2, ignore_nan=True) + "\n").encode())


def list_shards(folder: str | os.PathLike[str]) -> list[Path]:
    """The shards of a folder, sorted by name."""
    return sorted((Path(folder) / _SHARDS).glob("*.parquet"))


def find_complete(folder: str | os.PathLike[str]) -> set[str]:
    """Paths of the videos of which all rows are there."""
    return {path for shard in list_shards(folder) for path in read_complete(shard)}


def prepare_folder(folder: str | os.PathLike[str]) -> set[str]:
    """Makes the folder ready for more shards: drops rows of videos that were not completed, and unfinished files.

    Returns:
        paths of the videos that are complete.
    """
    shards_dir = Path(folder) / _SHARDS
    shards_dir.mkdir(parents=True, exist_ok=True)
    for unfinished in shards_dir.glob("*.partial"):
        unfinished.unlink()
    complete = find_complete(folder)
    for shard in list_shards(folder):
        paths = set(pq.read_table(shard, columns=["path"])["path"].to_pylist())
        if paths - complete:
            drop_videos(shard, paths - complete)
    return complete


def drop_videos(shard: Path, paths: Iterable[str]) -> None:
    """Rewrites a shard without the rows of some videos; removes it where nothing is left."""
    unwanted = set(paths)
    table = pq.read_table(shard)
    table = table.filter(pa.array([path not in unwanted for path in table["path"].to_pylist()], pa.bool_()))
    if len(table) == 0 and not read_complete(shard) - unwanted:
        shard.unlink()
    else:
        _write_table(shard, table)


class ShardWriter:
    """Writes one process's embeddings. Rows of a video come in order; `complete` follows the last of them.

    A shard is written when the completed videos' rows exceed ``shard_bytes`` or are older than ``flush_sec``, and also
    when the rows of videos that are not complete exceed ``shard_bytes``: a video of hours does not fill the memory.

    Args:
        folder: made ready by `prepare_folder`.
        dim: values of an embedding.
        dtype: "float32" or "float16".
        rank: number of this process; no two write at the same time with the same.
        shard_bytes: size of a shard in memory.
        flush_sec: age.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        dim: int,
        dtype: str = "float32",
        rank: int = 0,
        shard_bytes: int = 64 * 2**20,
        flush_sec: float = 60.0,
    ) -> None:
        self._folder, self._rank = Path(folder) / _SHARDS, rank
        self._dim, self._dtype = dim, np.dtype(dtype)
        self._schema = pa.schema([*_COLUMNS, pa.field("embedding", pa.list_(_ARROW_TYPES[dtype], dim))])
        self._shard_bytes, self._flush_sec = shard_bytes, flush_sec
        self._open: dict[str, list[pa.Table]] = {}  # path -> rows of a video that is not complete
        self._spilled: dict[str, list[Path]] = {}  # path -> shards that hold rows of such a video already
        self._done: list[pa.Table] = []
        self._complete: list[str] = []
        self._last_flush = time.monotonic()

    def add(self, video: VideoInfo, *, first_view: int, spans_sec: np.ndarray, embeddings: np.ndarray) -> None:
        """Takes rows of a video: spans (n, 2), NaN where no time is known, and embeddings (n, dim)."""
        num_rows = len(embeddings)
        values = np.ascontiguousarray(embeddings, dtype=self._dtype).reshape(-1)
        columns = [
            pa.array([video.path] * num_rows, pa.string()),
            pa.array([video.video_id] * num_rows, pa.string()),
            pa.array([video.label] * num_rows, pa.int64()),
            pa.array([video.split] * num_rows, pa.string()),
            pa.array(np.arange(first_view, first_view + num_rows), pa.int32()),
            pa.array(np.ascontiguousarray(spans_sec[:, 0]), pa.float64(), from_pandas=True),
            pa.array(np.ascontiguousarray(spans_sec[:, 1]), pa.float64(), from_pandas=True),
            pa.FixedSizeListArray.from_arrays(pa.array(values), self._dim),
        ]
        self._open.setdefault(video.path, []).append(pa.Table.from_arrays(columns, schema=self._schema))
        if self._count_bytes(table for tables in self._open.values() for table in tables) > self._shard_bytes:
            self.flush(with_open=True)

    def complete(self, path: str) -> None:
        """All rows of a video have been added."""
        self._done += self._open.pop(path, [])
        self._complete.append(path)
        self._spilled.pop(path, None)
        is_late = time.monotonic() - self._last_flush > self._flush_sec
        if is_late or self._count_bytes(self._done) > self._shard_bytes:
            self.flush()

    def discard(self, path: str) -> None:
        """Forgets the rows of a video that is not complete, also those in shards."""
        self._open.pop(path, None)
        for shard in self._spilled.pop(path, []):
            if shard.exists():
                drop_videos(shard, [path])

    def flush(self, *, with_open: bool = False) -> None:
        """Writes what has come since the last shard, `with_open` also the rows of videos that are not complete."""
        tables = list(self._done)
        shard = self._next_name()
        if with_open:
            for path, parts in self._open.items():
                tables += parts
                self._spilled.setdefault(path, []).append(shard)
                self._open[path] = []
        if tables or self._complete:
            table = pa.concat_tables(tables) if tables else self._schema.empty_table()
            metadata = {_COMPLETE: simplejson.dumps(self._complete).encode()}
            _write_table(shard, table.replace_schema_metadata(metadata))
        self._done, self._complete = [], []
        self._last_flush = time.monotonic()

    def _next_name(self) -> Path:
        taken = [int(path.stem.split("-")[-1]) for path in self._folder.glob(f"shard-{self._rank:05d}-*.parquet")]
        return self._folder / f"shard-{self._rank:05d}-{max(taken, default=-1) + 1:06d}.parquet"

    @staticmethod
    def _count_bytes(tables: Iterable[pa.Table]) -> int:
        return sum(table.nbytes for table in tables)


def write_failures(folder: str | os.PathLike[str], failures: Mapping[str, str]) -> None:
    """Writes ``failures.parquet``: path and reason of each video without embeddings."""
    rows = [{"path": path, "reason": reason} for path, reason in sorted(failures.items())]
    _write_table(Path(folder) / FAILURES, pa.Table.from_pylist(rows, schema=_FAILURE_COLUMNS))


def read_shards(folder: str | os.PathLike[str], columns: Iterable[str] | None = None) -> pa.Table:
    """Rows of all complete videos, sorted by path and view.

    Raises:
        FileNotFoundError: the folder holds no embeddings.
    """
    shards = list_shards(folder)
    if not shards:
        raise FileNotFoundError(f"{folder} holds no embeddings: there is no {_SHARDS}/*.parquet")
    complete = pa.array(sorted(find_complete(folder)), pa.string())
    needed = None if columns is None else [*dict.fromkeys([*columns, "path", "view"])]
    table = pa.concat_tables(pq.read_table(shard, columns=needed).replace_schema_metadata(None) for shard in shards)
    table = table.filter(pc.is_in(table["path"], value_set=complete))
    return table.take(pc.sort_indices(table, [("path", "ascending"), ("view", "ascending")]))


def read_complete(shard: Path) -> set[str]:
    """Paths of the videos whose last row is in this shard."""
    metadata = pq.read_schema(shard).metadata or {}
    return set(simplejson.loads(metadata.get(_COMPLETE, b"[]")))


def _write_table(path: Path, table: pa.Table) -> None:
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer)
    write_whole(path, buffer.getvalue())

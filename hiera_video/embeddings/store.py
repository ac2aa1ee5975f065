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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import simplejson

from hiera_video.utils.files import write_parquet, write_whole
from hiera_video.utils.side_car import describe_changes

SIDE_CAR = "extraction.json"
FAILURES = "failures.parquet"
_SHARDS = "embeddings"
_COMPLETE = b"complete"
_GROUP_ROWS = 2048  # what is read for the sake of one row; numbers do not repeat, so they get no dictionary
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
            raise ValueError(f"{folder} has embeddings but no {SIDE_CAR}, so their settings are unknown")
        return
    if changes := describe_changes(side_car["settings"], settings):
        raise ValueError(f"{folder} holds embeddings with other settings ({changes}); take another OUTPUT_DIR")


def write_side_car(folder: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Writes the side-car, whole or not at all."""
    write_whole(Path(folder) / SIDE_CAR, (simplejson.dumps(content, indent=2, ignore_nan=True) + "\n").encode())


def list_shards(folder: str | os.PathLike[str]) -> list[Path]:
    """The shards of a folder, sorted by name."""
    return sorted((Path(folder) / _SHARDS).glob("*.parquet"))


def find_complete(shards: Iterable[Path]) -> set[str]:
    """Paths of the videos whose rows are all in these shards."""
    return {path for shard in shards for path in read_complete(shard)}


def prepare_folder(folder: str | os.PathLike[str]) -> set[str]:
    """Makes the folder ready for more shards: drops rows of videos that were not completed, and unfinished files.

    Returns:
        paths of the videos that are complete.
    """
    shards_dir = Path(folder) / _SHARDS
    shards_dir.mkdir(parents=True, exist_ok=True)
    for unfinished in shards_dir.glob("*.partial"):
        unfinished.unlink()
    complete = find_complete(list_shards(folder))
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


class _Rows:
    """Rows of embeddings in two arrays that grow by doubling.

    Not a list of small arrays: these would lie among the large and short-lived blocks of a model on the CPU, whose
    places could then not be used again, and memory would grow with the length of a video.
    """

    def __init__(self, dim: int, dtype: np.dtype, capacity: int = 64) -> None:
        self.parts: list[tuple[VideoInfo, int, int]] = []  # video, first view, number of rows
        self._spans_sec = np.empty((capacity, 2))
        self._embeddings = np.empty((capacity, dim), dtype)
        self._length = 0

    @property
    def nbytes(self) -> int:
        return self._length * self._embeddings.shape[1] * self._embeddings.itemsize

    def append(self, video: VideoInfo, first_view: int, spans_sec: np.ndarray, embeddings: np.ndarray) -> None:
        begin, end = self._length, self._length + len(embeddings)
        if end > len(self._embeddings):
            capacity = max(end, 2 * len(self._embeddings))
            self._spans_sec, self._embeddings = (_enlarge(x, capacity) for x in (self._spans_sec, self._embeddings))
        self._spans_sec[begin:end], self._embeddings[begin:end] = spans_sec, embeddings
        self._length = end
        self.parts.append((video, first_view, len(embeddings)))

    def extend(self, other: _Rows) -> None:
        begin = 0
        for video, first_view, count in other.parts:
            rows = slice(begin, begin + count)
            self.append(video, first_view, other._spans_sec[rows], other._embeddings[rows])
            begin += count

    def clear(self) -> None:
        self.parts, self._length = [], 0

    def to_table(self, schema: pa.Schema) -> pa.Table:
        def repeat(get: Callable[[VideoInfo], object], kind: pa.DataType) -> pa.Array:
            return pa.array([get(video) for video, _, count in self.parts for _ in range(count)], kind)

        views = [first + i for _, first, count in self.parts for i in range(count)]
        starts, ends = self._spans_sec[: self._length].T
        columns = [
            repeat(lambda video: video.path, pa.string()),
            repeat(lambda video: video.video_id, pa.string()),
            repeat(lambda video: video.label, pa.int64()),
            repeat(lambda video: video.split, pa.string()),
            pa.array(views, pa.int32()),
            pa.array(starts, pa.float64(), from_pandas=True),
            pa.array(ends, pa.float64(), from_pandas=True),
            pa.FixedSizeListArray.from_arrays(
                pa.array(self._embeddings[: self._length].reshape(-1)), type=schema.field("embedding").type
            ),
        ]
        return pa.Table.from_arrays(columns, schema=schema)


def _enlarge(array: np.ndarray, capacity: int) -> np.ndarray:
    larger = np.empty((capacity, *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger


class ShardWriter:
    """Writes one process's embeddings. Rows of a video come in order; `complete` follows the last of them.

    A shard is written when the completed videos' rows exceed ``shard_bytes`` or are older than ``flush_sec``, and also
    when the rows of videos that are not complete exceed ``shard_bytes``: a video of hours does not fill the memory.

    Args:
        folder: made ready by `prepare_folder`.
        dim: values of an embedding.
        dtype: "float32" or "float16".
        rank: number of this process; no two write at the same time with the same.
        shard_bytes: size of a shard's embeddings in memory.
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
        self._open: dict[str, _Rows] = {}  # path -> rows of a video that is not complete
        self._spilled: dict[str, list[Path]] = {}  # path -> shards that hold rows of such a video already
        self._done = _Rows(dim, self._dtype)
        self._complete: list[str] = []
        self._last_flush = time.monotonic()

    def add(self, video: VideoInfo, *, first_view: int, spans_sec: np.ndarray, embeddings: np.ndarray) -> None:
        """Takes rows of a video: spans (n, 2), NaN where no time is known, and embeddings (n, dim)."""
        if video.path not in self._open:
            self._open[video.path] = _Rows(self._dim, self._dtype, capacity=len(embeddings))
        self._open[video.path].append(video, first_view, spans_sec, embeddings)
        if sum(rows.nbytes for rows in self._open.values()) > self._shard_bytes:
            self.flush(with_open=True)

    def complete(self, path: str) -> None:
        """All rows of a video have been added."""
        if path in self._open:
            self._done.extend(self._open.pop(path))
        self._complete.append(path)
        self._spilled.pop(path, None)
        is_late = time.monotonic() - self._last_flush > self._flush_sec
        if is_late or self._done.nbytes > self._shard_bytes:
            self.flush()

    def discard(self, path: str) -> None:
        """Forgets the rows of a video that is not complete, also those in shards."""
        self._open.pop(path, None)
        for shard in self._spilled.pop(path, []):
            if shard.exists():
                drop_videos(shard, [path])

    def flush(self, *, with_open: bool = False) -> None:
        """Writes the rows since the last shard; with `with_open` also those of videos that are not complete."""
        shard = self._next_name()
        if with_open:
            for path, rows in self._open.items():
                self._done.extend(rows)
                self._spilled.setdefault(path, []).append(shard)
            self._open.clear()
        if self._done.parts or self._complete:
            metadata = {_COMPLETE: simplejson.dumps(self._complete).encode()}
            _write_table(shard, self._done.to_table(self._schema).replace_schema_metadata(metadata))
        self._done.clear()
        self._complete = []
        self._last_flush = time.monotonic()

    def _next_name(self) -> Path:
        taken = [int(path.stem.split("-")[-1]) for path in self._folder.glob(f"shard-{self._rank:05d}-*.parquet")]
        return self._folder / f"shard-{self._rank:05d}-{max(taken, default=-1) + 1:06d}.parquet"


def read_ids(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Names of the videos that have rows -> their paths."""
    shards = list_shards(folder)
    tables = [pq.read_table(shard, columns=["video_id", "path"]).replace_schema_metadata(None) for shard in shards]
    pairs = [table.group_by(["video_id", "path"]).aggregate([]) for table in tables]
    return {row["video_id"]: row["path"] for table in pairs for row in table.to_pylist()}


def write_failures(folder: str | os.PathLike[str], failures: Mapping[str, str]) -> None:
    """Writes ``failures.parquet``: path and reason of each video without embeddings, also of earlier extractions."""
    path = Path(folder) / FAILURES
    earlier = pq.read_table(path).to_pylist() if path.is_file() else []
    complete = find_complete(list_shards(folder))
    failures = {row["path"]: row["reason"] for row in earlier if row["path"] not in complete} | dict(failures)
    rows = [{"path": path, "reason": reason} for path, reason in sorted(failures.items())]
    _write_table(path, pa.Table.from_pylist(rows, schema=_FAILURE_COLUMNS))


def read_shards(folder: str | os.PathLike[str], columns: Iterable[str] | None = None) -> pa.Table:
    """Rows of all complete videos, sorted by path and view.

    Raises:
        FileNotFoundError: the folder holds no embeddings.
    """
    shards = list_shards(folder)
    if not shards:
        raise FileNotFoundError(f"{folder} holds no embeddings: there is no {_SHARDS}/*.parquet")
    complete = pa.array(sorted(find_complete(shards)), pa.string())
    needed = None if columns is None else [*dict.fromkeys([*columns, "path", "view"])]
    table = pa.concat_tables(pq.read_table(shard, columns=needed).replace_schema_metadata(None) for shard in shards)
    table = table.filter(pc.is_in(table["path"], value_set=complete))
    return table.take(pc.sort_indices(table, [("path", "ascending"), ("view", "ascending")]))


def read_complete(shard: Path) -> set[str]:
    """Paths of the videos whose last row is in this shard."""
    metadata = pq.read_schema(shard).metadata or {}
    return set(simplejson.loads(metadata.get(_COMPLETE, b"[]")))


def _write_table(path: Path, table: pa.Table) -> None:
    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    write_parquet(path, table, row_group_size=_GROUP_ROWS, use_dictionary=texts)

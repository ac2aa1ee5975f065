"""What `tools/check_dataset.py` found out about each video, so that training opens it without scanning it again."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hiera_video.utils.files import write_parquet
from hiera_video.utils.logging import get_logger
from hiera_video.utils.pathmgr import get_path_here, pathmgr
from hiera_video.video import FrameIndex, VideoDecodeError, VideoReader
from hiera_video.video.index import KeyFrame
from hiera_video.video.shards import find_member

# Status of a video -> what it means. A broken video gives no frame at all; impaired ones are read as they are.
BROKEN = {
    "missing": "there is no such file",
    "empty": "the file has no bytes",
    "unreadable": "not a video, or nothing in it decodes",
    "crashed": "the decoder took its process down",
    "stuck": "the decoder did not come to an end",
}
IMPAIRED = {
    "truncated": "the file ends before what its container promises",
    "damaged": "something inside does not decode",
}
OK = "ok"

_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("splits", pa.list_(pa.string())),
        ("label", pa.int64()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("frames", pa.int64()),
        ("fps", pa.float64()),
        ("duration_sec", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("codec", pa.string()),
        ("size_bytes", pa.int64()),
        ("mtime_sec", pa.float64()),
        ("content_hash", pa.string()),
        ("time_base_num", pa.int64()),
        ("time_base_den", pa.int64()),
        ("pts_start", pa.int64()),  # start and step of evenly spaced frames
        ("pts_step", pa.int64()),
        ("pts", pa.list_(pa.int64())),  # of all others; both are missing if the time stamps cannot be trusted
        ("key_positions", pa.list_(pa.int64())),
        ("key_pts", pa.list_(pa.int64())),
        ("key_seek_timestamps", pa.list_(pa.int64())),
        ("is_seek_safe", pa.bool_()),
    ],
    metadata={"hiera_video.manifest": "1"},
)
_RELATIVE = b"hiera_video.relative"  # in the metadata of a manifest whose videos lie beside it
_logger = get_logger(__name__)


@dataclass(frozen=True)
class VideoRecord:
    """What is known of one video; None stands for what a broken one does not show.

    Attributes:
        status: "ok", or a key of `BROKEN` or `IMPAIRED`.
        reason: why it is not "ok"; empty if it is.
        index: its frames.
        width: px, after rotation.
        height: px, after rotation.
        codec: FFmpeg's name of it.
        size_bytes: of a local file; None for a remote one.
        mtime_sec: time of the last change, in seconds since 1970.
        content_hash: see `inspection.inspect_video.compute_content_hash`.
    """

    status: str
    reason: str = ""
    index: FrameIndex | None = None
    width: int | None = None
    height: int | None = None
    codec: str | None = None
    size_bytes: int | None = None
    mtime_sec: float | None = None
    content_hash: str | None = None

    @property
    def is_broken(self) -> bool:
        """Whether it gives no frame at all."""
        return self.status in BROKEN


class Manifest:
    """The records of a data set, by path.

    They are kept as Arrow columns, sorted by path. Reading these changes no reference counts, so worker processes keep
    sharing one copy in memory.

    Args:
        table: as `load_manifest` reads it.
        source: where it came from, for messages.

    Attributes:
        num_changed: how many files this process found changed since the check.
    """

    def __init__(self, table: pa.Table, *, source: str) -> None:
        missing = [name for name in _SCHEMA.names if name not in table.column_names]
        if missing:
            raise ValueError(f"{source} is no manifest of tools/check_dataset.py: it has no column {missing}")
        table = table.select(_SCHEMA.names).cast(_SCHEMA).sort_by("path").combine_chunks()
        self._columns = {name: _join(table.column(name)) for name in _SCHEMA.names}
        self._source = source
        self.num_changed = 0

    def __len__(self) -> int:
        return len(self._columns["path"])

    def get_entry(self, path: str) -> VideoRecord | None:
        """What the check found out about a video; None if it was not checked, or if its size has changed since."""
        row = self._find_row(path)
        if row is None:
            return None
        size_bytes = self._columns["size_bytes"][row].as_py()
        status = self._columns["status"][row].as_py()
        local_path = get_path_here(path)
        if local_path is not None and get_size_bytes(local_path) != size_bytes:
            self._note_change(path, size_bytes, status)
            return None
        return self._read_row(row, status, size_bytes)

    def find_broken(self, paths: np.ndarray) -> dict[int, VideoRecord]:
        """The broken videos of a list: position -> record."""
        is_broken = pc.is_in(self._columns["status"], value_set=pa.array(list(BROKEN)))
        candidates = pc.is_in(pa.array(paths), value_set=self._columns["path"].filter(is_broken))
        records = {int(i): self.get_entry(str(paths[i])) for i in np.flatnonzero(candidates.to_numpy(False))}
        return {position: record for position, record in records.items() if record is not None}

    def count_known(self, paths: np.ndarray) -> int:
        """How many of these paths were checked."""
        return pc.sum(pc.is_in(pa.array(paths), value_set=self._columns["path"])).as_py() or 0

    def _find_row(self, path: str) -> int | None:
        paths = self._columns["path"]
        wanted = path.encode()
        row = bisect_left(range(len(paths)), wanted, key=lambda i: paths[i].as_buffer().to_pybytes())
        return row if row < len(paths) and paths[row].as_buffer().to_pybytes() == wanted else None

    def _note_change(self, path: str, size_bytes: int | None, status: str) -> None:
        self.num_changed += 1
        message = "%s: not the file that was checked for %s (then %s bytes, %s); it is scanned again"
        if self.num_changed == 1:
            message += ". Further changed files are only counted: run tools/check_dataset.py again"
        log = _logger.warning if self.num_changed == 1 else _logger.debug
        log(message, path, self._source, "no" if size_bytes is None else size_bytes, status)

    def _read_row(self, row: int, status: str, size_bytes: int | None) -> VideoRecord:
        names = ("frames", "reason", "width", "height", "codec", "mtime_sec", "content_hash")
        facts: dict[str, Any] = {name: self._columns[name][row].as_py() for name in names}
        index = None if facts.pop("frames") is None else self._read_index(row)
        return VideoRecord(status=status, size_bytes=size_bytes, index=index, **facts)

    def _read_index(self, row: int) -> FrameIndex:
        get = {name: self._columns[name][row].as_py() for name in _SCHEMA.names[5:8] + _SCHEMA.names[14:]}
        start, step, pts = get["pts_start"], get["pts_step"], get["pts"]
        if step is not None:
            pts = range(start, start + get["frames"] * step, step)
        return FrameIndex(
            num_frames=get["frames"],
            pts=tuple(pts) if isinstance(pts, list) else pts,
            time_base=Fraction(get["time_base_num"], get["time_base_den"]),
            duration_sec=get["duration_sec"],
            fps=get["fps"],
            keys=tuple(map(KeyFrame, get["key_positions"], get["key_pts"], get["key_seek_timestamps"])),
            is_seek_safe=get["is_seek_safe"],
        )


def load_manifest(path: str) -> Manifest:
    """Reads what `write_manifest` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no manifest.
    """
    try:
        with pathmgr.open(path, "rb") as file:
            return Manifest(_place(pq.read_table(pa.PythonFile(file, mode="r")), path), source=path)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(
            f"DATA.MANIFEST = {path}: there is no such file; tools/check_dataset.py writes it"
        ) from error
    except pa.ArrowException as error:
        raise ValueError(f"DATA.MANIFEST = {path} is no Parquet file: {error}") from error


def read_rows(rows: Sequence[Mapping[str, Any]], *, source: str) -> Manifest:
    """A manifest of what `make_row` gave; ``source`` says where the rows were kept, for messages."""
    return Manifest(pa.Table.from_pylist(list(rows), schema=_SCHEMA), source=source)


def open_video(path: str, manifest: Manifest | None = None, **options: Any) -> VideoReader:
    """Opens a video: without a scan if the manifest lists it, and not at all if the manifest calls it broken.

    Args:
        path: of the video.
        manifest: None for none.
        **options: of `VideoReader`.

    Raises:
        VideoDecodeError: the manifest says that it is broken, or see `VideoReader`.
        FileNotFoundError: no such file.
    """
    known = None if manifest is None else manifest.get_entry(path)
    if known is None:
        return VideoReader(path, **options)
    if known.is_broken:
        raise VideoDecodeError(f"{path}: {known.status} when the data set was checked ({known.reason}); not opened")
    return VideoReader(path, **options, index=known.index)


def write_manifest(
    path: str | os.PathLike[str],
    records: Mapping[str, VideoRecord],
    *,
    splits: Mapping[str, Iterable[str]],
    labels: Mapping[str, int],
    is_relative: bool = False,
) -> None:
    """Writes one row per video. A crash leaves no partial file.

    Args:
        path: the Parquet file.
        records: video's path -> what is known of it.
        splits: video's path -> the lists that it is in.
        labels: video's path -> its label in the first of these lists.
        is_relative: paths that are neither absolute nor URLs are below the manifest's own folder, wherever it is moved.
    """
    rows = (make_row(video, records[video], list(splits[video]), labels[video]) for video in sorted(records))
    schema = _SCHEMA.with_metadata({**(_SCHEMA.metadata or {}), **({_RELATIVE: b"1"} if is_relative else {})})
    write_parquet(Path(path), pa.Table.from_pylist(list(rows), schema=schema))


def get_size_bytes(local_path: str) -> int | None:
    """Size of a file or a member of a tar file; None if there is none, or if it is a folder of frames."""
    try:
        member = find_member(local_path)
        if member is not None:
            return member.size_bytes
        return os.path.getsize(local_path) if not os.path.isdir(local_path) else None
    except OSError:
        return None


def _place(table: pa.Table, path: str) -> pa.Table:
    """A manifest's table with the paths of videos that lie beside it joined to its own folder."""
    if _RELATIVE not in (table.schema.metadata or {}):
        return table
    paths, folder = table["path"], os.path.join(os.path.dirname(path), "")
    is_whole = pc.or_(pc.starts_with(paths, "/"), pc.match_substring(paths, "://"))
    placed = pc.if_else(is_whole, paths, pc.binary_join_element_wise(folder, paths, ""))
    return table.set_column(table.schema.get_field_index("path"), "path", placed)


def _join(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks else pa.array([], column.type)


def make_row(path: str, record: VideoRecord, splits: Sequence[str] = (), label: int | None = None) -> dict[str, Any]:
    """A video's row of the manifest, of types that JSON has too; `read_rows` reads it."""
    names = ("status", "reason", "width", "height", "codec", "size_bytes", "mtime_sec", "content_hash")
    row = {"path": path, "splits": list(splits), "label": label, **{name: getattr(record, name) for name in names}}
    index = record.index
    if index is None:
        return row
    even = index.pts if isinstance(index.pts, range) else None
    return {
        **row,
        "frames": index.num_frames,
        "fps": index.fps,
        "duration_sec": index.duration_sec,
        "time_base_num": index.time_base.numerator,
        "time_base_den": index.time_base.denominator,
        "pts_start": None if even is None else even.start,
        "pts_step": None if even is None else even.step,
        "pts": None if even is not None or index.pts is None else list(index.pts),
        "key_positions": [key.position for key in index.keys],
        "key_pts": [key.pts for key in index.keys],
        "key_seek_timestamps": [key.seek_timestamp for key in index.keys],
        "is_seek_safe": index.is_seek_safe,
    }

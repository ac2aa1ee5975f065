"""A FAISS index of a folder of embeddings that was made, and is asked, within a limit of memory, and kept on disk.

```
search_index/index.json    the side-car: of which shards, in which order, with which settings, and the measured recall
search_index/*.faiss       the index;  *.ivfdata  its lists, where they are more than fits into the memory
```

Rows lie, as short codes, in lists by their nearest of many centers (IVF). A query looks into the nearest lists, and the
best candidates are compared again with the rows of the shards themselves.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejson
import torch

from hiera_video.embeddings.faiss_index import compute_recall, import_faiss
from hiera_video.embeddings.search import BestRows, Hits, check_search, normalize, rank_exactly
from hiera_video.embeddings.shard_rows import ShardRows
from hiera_video.utils.files import write_whole
from hiera_video.utils.logging import get_logger

FOLDER, SIDE_CAR = "search_index", "index.json"
FLOAT16, INT8, PQ = "float16", "int8", "pq"

_FORMAT = 1
_LISTS_PER_ROOT = 2  # lists for each square root of the number of rows; finding each row's takes most of the time
_POINTS_PER_LIST = 64  # rows that a center is computed from
_MIN_POINTS = 39  # FAISS warns below
_SHARE_PROBED = 1 / 32  # of the lists, and at least
_MIN_PROBES = 8
_PQ_ENTRIES = 256  # of a code book, so that a code is a byte
_PQ_PARTS = (4, 8)  # values that share a byte
_ID_BYTES = 8  # beside each code
_CODES_SHARE = 0.25  # of the memory: lists that grow take up to twice what is in them
_TRAINING_SHARE = 0.1  # FAISS makes copies of the rows
_BLOCK_SHARE = 0.1  # with its copies
_BLOCK_COPIES = 4
_MAX_BLOCK_ROWS = 65_536
_LOADED_SHARE = 0.5  # a saved index up to this share is read into the memory
_MIN_MEMORY = 128 * 2**20  # beside what the process takes anyway
_CANDIDATES, _MIN_CANDIDATES = 10, 100  # for each row that is wanted, that are compared exactly
_MAX_GROWTH = 0.5  # of the rows that the centers were computed from: with more new ones the index is made anew
_RECALL_QUERIES, _RECALL_AT = 100, 10
_logger = get_logger(__name__)


@dataclass(frozen=True)
class IndexPlan:
    """How an index is made.

    Attributes:
        coding: of a row: FLOAT16, INT8, or PQ (a byte for each few values).
        code_bytes: of a row.
        num_lists: centers.
        num_probes: lists that a query looks into.
        num_training: rows that the centers are computed from.
        block_rows: rows that are read at once.
        part_rows: rows whose codes are in memory at once while the index is made; where these are not all, the lists
            are on disk.
    """

    coding: str
    code_bytes: int
    num_lists: int
    num_probes: int
    num_training: int
    block_rows: int
    part_rows: int


def plan_index(num_rows: int, dim: int, memory_bytes: int) -> IndexPlan:
    """The most precise codes that fit; where none do, the shortest, with lists on disk.

    Args:
        num_rows: N.
        dim: D.
        memory_bytes: for all of it, beside what the process takes already.

    Raises:
        ValueError: too little memory.
    """
    if memory_bytes < _MIN_MEMORY:
        raise ValueError(
            f"{memory_bytes / 2**30:.2f} GB of memory are left for the search; it needs {_MIN_MEMORY / 2**30:.2f} GB "
            "beside what the process takes anyway: raise --memory-gb"
        )
    row_bytes = 4 * dim
    max_training = int(memory_bytes * _TRAINING_SHARE) // row_bytes
    num_lists = int(min(_LISTS_PER_ROOT * math.sqrt(num_rows), num_rows // _MIN_POINTS, max_training // _MIN_POINTS))
    num_lists = max(num_lists, 1)
    codings = [(FLOAT16, 2 * dim), (INT8, dim)]
    if min(num_rows, max_training) >= _MIN_POINTS * _PQ_ENTRIES:  # code books need as many rows
        codings += [(PQ, dim // part) for part in _PQ_PARTS if dim % part == 0]
    max_codes = int(memory_bytes * _CODES_SHARE)
    fits = [(name, size) for name, size in codings if num_rows * (size + _ID_BYTES) <= max_codes]
    coding, code_bytes = fits[0] if fits else codings[-1]
    block_rows = int(memory_bytes * _BLOCK_SHARE) // (row_bytes * _BLOCK_COPIES)
    return IndexPlan(
        coding=coding,
        code_bytes=code_bytes,
        num_lists=num_lists,
        num_probes=min(max(round(num_lists * _SHARE_PROBED), _MIN_PROBES), num_lists),
        num_training=min(num_rows, max(_POINTS_PER_LIST * num_lists, _MIN_POINTS * _PQ_ENTRIES), max_training),
        block_rows=min(max(block_rows, 256), _MAX_BLOCK_ROWS),
        part_rows=num_rows if fits else max(max_codes // (code_bytes + _ID_BYTES), 1),
    )


class DiskIndex:
    """An index that `open_index` has made or read.

    Args:
        rows: the shards, in the order of the side-car.
        index: FAISS's.
        content: of the side-car.
    """

    def __init__(self, rows: ShardRows, index: Any, content: dict[str, Any]) -> None:
        self.rows, self.content = rows, content
        self._index = index
        index.nprobe = content["plan"]["num_probes"]

    def search(self, queries: torch.Tensor, k: int) -> Hits:
        """The rows (Q, k) most similar to queries (Q, D), best first; -1 where fewer were found.

        Candidates are found by their codes; order and scores are those of the rows themselves.

        Raises:
            ValueError: as `search_exact` does.
        """
        check_search(queries, (len(self.rows), self.rows.dim), k)
        count = min(max(_CANDIDATES * k, _MIN_CANDIDATES), len(self.rows))
        _, found = self._index.search(normalize(queries, "queries").numpy(), count)
        distinct, places = np.unique(found, return_inverse=True)
        is_row = distinct >= 0
        vectors = torch.zeros(len(distinct), self.rows.dim)
        vectors[torch.from_numpy(is_row)] = self.rows.read_vectors(distinct[is_row])
        # Numbers among the distinct rows ascend with the rows' own, so that ties come in the same order. What was not
        # found is the first of them, and must not stand before a row with a negative cosine.
        hits = rank_exactly(queries, vectors, torch.from_numpy(places.reshape(found.shape)), count)
        rows = torch.from_numpy(distinct)[hits.rows]
        order = (rows < 0).to(torch.uint8).argsort(dim=1, stable=True)[:, :k]
        rows, scores = rows.gather(1, order), hits.scores.gather(1, order)
        return Hits(rows, scores.masked_fill(rows < 0, -math.inf))

    def measure_recall(self, num_queries: int = _RECALL_QUERIES, k: int = _RECALL_AT) -> dict[str, Any]:
        """Compares with an exact search for rows spread over all shards; reads all of them, block by block.

        Returns:
            ``recall`` as `faiss_index.measure_recall` defines it, ``recall_at``, ``recall_queries``.
        """
        own = _spread_rows(len(self.rows), num_queries, seed=1)
        k = min(k, len(self.rows) - 1)
        queries = self.rows.read_vectors(own)
        best = BestRows(queries, k + 1)
        for start, block in self.rows.iterate_vectors(self.content["plan"]["block_rows"]):
            best.add(block, start)
        recall = compute_recall(self.search(queries, k + 1), best.get(), torch.from_numpy(own))
        return {"recall": recall, "recall_at": k, "recall_queries": len(own)}


def open_index(
    folder: str | os.PathLike[str],
    *,
    memory_bytes: int,
    report_progress: Callable[[str, int], object] = lambda stage, rows: None,
    lock: contextlib.AbstractContextManager | None = None,
) -> DiskIndex:
    """The index of a folder: the saved one if it is of the same shards, with new shards added; otherwise a new one.

    Args:
        folder: of an extraction.
        memory_bytes: that reading and asking it may take, beside what the process takes already.
        report_progress: called with what is being done, and how many rows have been dealt with.
        lock: is entered while the index is written, which only one process may do at a time; None: there is no other.

    Raises:
        FileNotFoundError: the folder holds no embeddings.
        ImportError: FAISS is not installed.
        ValueError: too little memory, or rows that are no vectors, or numbers that are not finite.
    """
    faiss = import_faiss()
    place, rows = Path(folder) / FOLDER, ShardRows(folder)
    plan_index(len(rows), rows.dim, memory_bytes)  # too little memory is told before anything is read
    saved = _load_side_car(place)
    now = {shard["name"]: shard for shard in rows.describe_shards()}
    if saved is not None:
        file_bytes = (place / saved["index_file"]).stat().st_size
        reason, new = _compare(saved, now, fits=file_bytes <= memory_bytes * _LOADED_SHARE)
        if not reason:
            rows = ShardRows(folder, [shard["name"] for shard in saved["shards"]] + new)
            index = _read_index(faiss, place / saved["index_file"], memory_bytes)
            if not new:
                return DiskIndex(rows, index, saved)
            _logger.info("%d new shards are added to the index in %s", len(new), place)
            first = len(saved["shards"])
            with lock or contextlib.nullcontext():
                _add_rows(index, rows, saved["plan"]["block_rows"], report_progress, first_shard=first)
                return _finish(faiss, rows, index, saved["plan"], place, report_progress, saved["trained_on"])
        _logger.warning("the index in %s is made anew: %s", place, reason)
    plan = plan_index(len(rows), rows.dim, memory_bytes)
    place.mkdir(parents=True, exist_ok=True)
    with lock or contextlib.nullcontext():
        index = _train(faiss, rows, plan, report_progress)
        if plan.part_rows >= len(rows):
            _add_rows(index, rows, plan.block_rows, report_progress)
        else:
            index = _fill_on_disk(faiss, index, rows, plan, place, report_progress)
        return _finish(faiss, rows, index, asdict(plan), place, report_progress, len(rows))


def _compare(saved: dict[str, Any], now: dict[str, dict[str, Any]], *, fits: bool) -> tuple[str, list[str]]:
    """Why a saved index cannot be used, empty if it can; and the names of the shards that it lacks.

    Args:
        saved: the side-car.
        now: the shards that are there, by name.
        fits: whether the index can be loaded: to one that stays on disk nothing can be added.
    """
    if saved.get("format") != _FORMAT:
        return "it is of another version", []
    changed = [shard["name"] for shard in saved["shards"] if now.get(shard["name"]) != shard]
    if changed:
        return f"{len(changed)} shards have changed or are gone, such as {changed[0]}", []
    new = sorted(set(now) - {shard["name"] for shard in saved["shards"]})
    num_rows = sum(shard["rows"] for shard in now.values())
    if new and num_rows - saved["trained_on"] > _MAX_GROWTH * saved["trained_on"]:
        return f"there are {num_rows:,} rows now, and it was made for {saved['trained_on']:,}", []
    if new and saved["plan"]["part_rows"] < saved["trained_on"]:
        return f"there are {len(new)} new shards, and its lists are on disk", []
    if new and not fits:
        return f"there are {len(new)} new shards, and it was made with more memory than there is now", []
    return "", new


def _make_index(faiss: Any, dim: int, plan: IndexPlan) -> Any:
    quantizer = faiss.IndexFlatIP(dim)
    if plan.coding == PQ:
        index = faiss.IndexIVFPQ(quantizer, dim, plan.num_lists, plan.code_bytes, 8, faiss.METRIC_INNER_PRODUCT)
    else:
        kind = faiss.ScalarQuantizer.QT_fp16 if plan.coding == FLOAT16 else faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexIVFScalarQuantizer(quantizer, dim, plan.num_lists, kind, faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical = True  # centers of length 1, as all rows are
    index.cp.max_points_per_centroid = _POINTS_PER_LIST
    return index


def _train(faiss: Any, rows: ShardRows, plan: IndexPlan, report: Callable[[str, int], object]) -> Any:
    report("centers", 0)
    sample = normalize(rows.read_vectors(_spread_rows(len(rows), plan.num_training, seed=0)), "vectors")
    index = _make_index(faiss, rows.dim, plan)
    index.train(sample.numpy())
    report("centers", len(sample))
    return index


def _add_rows(
    index: Any, rows: ShardRows, block_rows: int, report: Callable[[str, int], object], *, first_shard: int = 0
) -> None:
    for start, block in rows.iterate_vectors(block_rows, first_shard=first_shard):
        index.add_with_ids(normalize(block, "vectors", start).numpy(), np.arange(start, start + len(block)))
        report("rows", len(block))


def _fill_on_disk(
    faiss: Any, index: Any, rows: ShardRows, plan: IndexPlan, place: Path, report: Callable[[str, int], object]
) -> Any:
    """Adds all rows. One part of the codes is in memory, and written when it is full; at last the parts are joined."""
    from faiss.contrib.ondisk import merge_ondisk

    parts: list[Path] = []

    def write_part() -> None:
        parts.append(place / f"part-{os.getpid()}-{len(parts):05d}.partial")
        faiss.write_index(index, str(parts[-1]))
        index.reset()

    for start, block in rows.iterate_vectors(min(plan.block_rows, plan.part_rows)):
        if index.ntotal and index.ntotal + len(block) > plan.part_rows:
            write_part()
        index.add_with_ids(normalize(block, "vectors", start).numpy(), np.arange(start, start + len(block)))
        report("rows", len(block))
    write_part()
    lists = _name_next(place, ".ivfdata")
    merge_ondisk(index, [str(part) for part in parts], str(lists))
    for part in parts:
        part.unlink()
    return index


def _finish(
    faiss: Any,
    rows: ShardRows,
    index: Any,
    plan: dict[str, Any],
    place: Path,
    report: Callable[[str, int], object],
    trained_on: int,
) -> DiskIndex:
    """Writes the index, measures its recall, writes the side-car, and removes what no longer counts."""
    path = _name_next(place, ".faiss")
    partial = path.with_name(path.name + ".partial")
    faiss.write_index(index, str(partial))
    os.replace(partial, path)
    incomplete = sorted(rows.find_incomplete())
    content: dict[str, Any] = {
        "format": _FORMAT,
        "index_file": path.name,
        "plan": plan,
        "rows": len(rows),
        "videos": rows.count_videos(),
        "trained_on": trained_on,
        "shards": rows.describe_shards(),
        "incomplete": incomplete,
    }
    made = DiskIndex(rows, index, content)
    report("recall", 0)
    content |= made.measure_recall() if len(rows) > 1 else {}
    report("recall", len(rows))
    write_whole(place / SIDE_CAR, (simplejson.dumps(content, indent=1) + "\n").encode())
    for other in place.iterdir():
        is_ours = other.stem == path.stem or other.name == SIDE_CAR
        if not is_ours and other.suffix in (".faiss", ".ivfdata", ".partial"):
            other.unlink(missing_ok=True)
    return made


def _read_index(faiss: Any, path: Path, memory_bytes: int) -> Any:
    """Into the memory where that is allowed to hold it; otherwise what a query asks for is read when it does."""
    flags = faiss.IO_FLAG_ONDISK_SAME_DIR
    if path.stat().st_size > memory_bytes * _LOADED_SHARE:
        flags |= faiss.IO_FLAG_MMAP
    return faiss.read_index(str(path), flags)


def _load_side_car(place: Path) -> dict[str, Any] | None:
    """None where there is no index, or only an unfinished one."""
    path = place / SIDE_CAR
    try:
        content = simplejson.loads(path.read_text()) if path.is_file() else None
    except ValueError:
        _logger.warning("%s is no JSON file; the index is made anew", path)
        return None
    return content if content and (place / content["index_file"]).is_file() else None


def _name_next(place: Path, suffix: str) -> Path:
    """A number that no finished index has; the two files of an index get the same."""
    taken = [int(path.stem.split("-")[-1]) for path in place.glob("index-*.faiss")]
    return place / f"index-{max(taken, default=-1) + 1:06d}{suffix}"


def _spread_rows(num_rows: int, count: int, *, seed: int) -> np.ndarray:
    """Different rows, one at random from each of as many equal stretches: int64 (up to count,), ascending."""
    count = min(count, num_rows)
    edges = np.arange(count + 1) * num_rows // count
    return np.random.default_rng(seed).integers(edges[:-1], edges[1:])

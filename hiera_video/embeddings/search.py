"""Search among embeddings by cosine: exact, approximate with FAISS, and pairs that are nearly the same.

Candidates are found with float32 products of matrices, whose last digits depend on a row's place in its block. What
is returned is computed again in float64, row by row, so that equal vectors have equal cosines; ties are ordered by row
number. The cosine of a zero vector with anything is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

EXACT, HNSW, IVF = "exact", "hnsw", "ivf"

_STEPS = 2**20  # float32 cosines are rounded to multiples of 1 / _STEPS: their sums are no more precise
_FINE_STEPS = 2**40  # likewise, float64
_MORE_CANDIDATES = 32  # than are wanted, as float32 may have the wrong order among nearly equal ones
_VALUES_AT_ONCE = 2**22  # in float64
_FEW = 8  # up to 1/8 of a block are picked by their float32 scores before integers are made of them
_ROW_MASK = 2**32 - 1
_LOWEST = -(2**62)  # below every key
_QUERIES_AT_ONCE = 256
_MIN_NORM = 1e-12
_MAX_HNSW_ROWS = 500_000
_NEIGHBORS, _BUILD_CANDIDATES, _SEARCH_CANDIDATES = 32, 80, 128  # of a row in HNSW's graph; looked at when it is made
_POINTS_PER_LIST = 64  # of IVF, that its lists' centers are computed from
_SHARE_PROBED = 1 / 32  # of IVF's lists
_MAX_EXACT_QUERIES = 10_000  # as many together take as long as building an index


@dataclass(frozen=True, eq=False)
class Hits:
    """The rows that are most similar to each query, the best first.

    Attributes:
        rows: int64 (Q, k) on the CPU; -1 where an approximate search found fewer than k.
        scores: float32 (Q, k), cosines; -inf where there is no row.
    """

    rows: torch.Tensor
    scores: torch.Tensor


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of rows, the most similar first, ties by row numbers.

    Attributes:
        first: int64 (P,).
        second: int64 (P,), each above ``first``.
        scores: float32 (P,), cosines.
        num_found: how many pairs reach the threshold; more than P where the number of pairs was limited.
    """

    first: torch.Tensor
    second: torch.Tensor
    scores: torch.Tensor
    num_found: int

    def __len__(self) -> int:
        return len(self.first)


def search_exact(
    queries: torch.Tensor,
    vectors: torch.Tensor,
    k: int,
    *,
    device: torch.device | str | None = None,
    block_rows: int = 32768,
) -> Hits:
    """Compares each query with every row.

    Memory beside the vectors: a block of rows on ``device``, and its cosines with 256 queries.

    Args:
        queries: (Q, D), of any length and float type.
        vectors: (N, D), N < 2^32.
        k: how many rows are wanted; fewer come out where N is less.
        device: that computes; None: the vectors' own.
        block_rows: rows at once.

    Raises:
        ValueError: k below 1, shapes that do not fit, or numbers that are not finite.
    """
    _check_search(queries, vectors.shape, k)
    device = torch.device(device or vectors.device)
    units = _normalize(queries, "queries").to(device)
    num_candidates = min(k + _MORE_CANDIDATES, len(vectors))
    best = torch.full((len(queries), num_candidates), _LOWEST, device=device)
    for start in range(0, len(vectors), block_rows):
        block = vectors[start : start + block_rows].to(device).float()
        scale = _compute_inverse_norms(block, "vectors", start)
        rows = torch.arange(start, start + len(block), device=device)
        for at in range(0, len(queries), _QUERIES_AT_ONCE):
            part = slice(at, at + _QUERIES_AT_ONCE)
            keys = _make_candidates((units[part] @ block.T) * scale, rows, floor=best[part, -1:])
            best[part] = torch.cat([best[part], keys], dim=1).topk(num_candidates).values
    return _rank_exactly(queries, vectors, _read_keys(best).rows, k)


def search_filtered(
    search: Callable[[int], Hits], k: int, *, is_allowed: torch.Tensor, groups: torch.Tensor | None = None
) -> Hits:
    """The best allowed rows of one query, on request only the best one of each group.

    Args:
        search: gives the best rows for one query, as many as it is asked for.
        k: how many rows are wanted; fewer come out where not enough are left.
        is_allowed: bool (N,).
        groups: int64 (N,), such as the number of each row's video.

    Returns:
        Hits of shape (1, up to k).
    """
    num_rows = len(is_allowed)
    left = int(is_allowed.sum()) if groups is None else len(torch.unique(groups[is_allowed]))
    k = min(k, left)
    wanted = min(k + num_rows - int(is_allowed.sum()), num_rows)
    while True:
        hits = search(max(wanted, 1))
        rows, scores = hits.rows[0], hits.scores[0]
        kept = (rows >= 0) & is_allowed[rows]
        rows, scores = rows[kept], scores[kept]
        if groups is not None:
            first = np.sort(np.unique(groups[rows].numpy(), return_index=True)[1])
            rows, scores = rows[first], scores[first]
        if len(rows) >= k or wanted >= num_rows:
            return Hits(rows[None, :k], scores[None, :k])
        wanted = min(4 * wanted, num_rows)


def choose_index(num_rows: int, num_queries: int = 1) -> str:
    """The kind of index that answers soonest: EXACT, HNSW or IVF.

    An index has to be asked often before it is worth building. On one core, rows of 256 values, 200 thousand and a
    million of them: a query costs exactly 22 and 103 ms (2 and 15 ms each of many together); HNSW took 41 and 356 s to
    build and IVF 13 and 93 s. So search is exact up to ten thousand queries.

    Args:
        num_rows: N.
        num_queries: how many will be asked altogether.
    """
    if num_queries <= _MAX_EXACT_QUERIES or not is_faiss_installed():
        return EXACT
    return choose_approximate(num_rows)


def choose_approximate(num_rows: int) -> str:
    """HNSW up to half a million rows, IVF above.

    HNSW answers in a tenth of IVF's time (0.3 to 2.7 ms at a million rows) but costs 256 bytes more a row, its build
    takes ever longer, and it finds less the more rows there are: of a million, 96 % of the ten nearest; IVF all.
    """
    return HNSW if num_rows <= _MAX_HNSW_ROWS else IVF


def is_faiss_installed() -> bool:
    """Whether approximate search is possible."""
    try:
        _import_faiss()
    except ImportError:
        return False
    return True


class FaissIndex:
    """Approximate search by cosine.

    HNSW: a graph in which each row knows 32 similar ones. IVF: rows lie in about 4 * sqrt(N) lists by their nearest of
    as many centers, and a query looks into the nearest 1/32 of the lists. Both hold a copy of the vectors.

    Follows: FAISS's guidelines for choosing an index (the number of lists; HNSW where memory allows).

    Args:
        vectors: (N, D).
        kind: HNSW, IVF, or None to choose by size.

    Raises:
        ImportError: FAISS is not installed.
        ValueError: an unknown kind, no rows, or numbers that are not finite.
    """

    def __init__(self, vectors: torch.Tensor, *, kind: str | None = None, block_rows: int = 65536) -> None:
        if kind not in (None, HNSW, IVF):
            raise ValueError(f"kind is {kind!r}; legal values: {HNSW!r}, {IVF!r}, None")
        if len(vectors) == 0:
            raise ValueError("there are no vectors to index")
        self.kind = kind or choose_approximate(len(vectors))
        self._shape = tuple(vectors.shape)
        self._faiss = _import_faiss()
        self._index = self._make_graph() if self.kind == HNSW else self._make_lists(vectors)
        for start in range(0, len(vectors), block_rows):
            block = vectors[start : start + block_rows]
            self._index.add(_normalize(block, "vectors", start).cpu().numpy())

    def __len__(self) -> int:
        return self._shape[0]

    def search(self, queries: torch.Tensor, k: int) -> Hits:
        """Rows for each query (Q, D), in the order of `search_exact`; their scores are true cosines.

        Raises:
            ValueError: as `search_exact` does.
        """
        _check_search(queries, self._shape, k)
        k = min(k, len(self))
        if self.kind == HNSW:
            self._index.hnsw.efSearch = max(_SEARCH_CANDIDATES, 2 * k)
        scores, rows = self._index.search(_normalize(queries, "queries").cpu().numpy(), k)
        rows = torch.from_numpy(rows)
        keys = _make_keys(torch.from_numpy(scores), rows).masked_fill_(rows < 0, _LOWEST)
        return _read_keys(keys.sort(dim=1, descending=True).values)

    def _make_graph(self) -> Any:
        index = self._faiss.IndexHNSWFlat(self._shape[1], _NEIGHBORS, self._faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _BUILD_CANDIDATES
        return index

    def _make_lists(self, vectors: torch.Tensor) -> Any:
        num_rows, dim = self._shape
        # FAISS wants 39 points for each center at least
        num_lists = max(min(int(4 * math.sqrt(num_rows)), num_rows // 39), 1)
        index = self._faiss.IndexIVFFlat(self._faiss.IndexFlatIP(dim), dim, num_lists, self._faiss.METRIC_INNER_PRODUCT)
        index.nprobe = max(round(num_lists * _SHARE_PROBED), min(8, num_lists))
        sample = _draw_rows(num_rows, _POINTS_PER_LIST * num_lists)
        index.train(_normalize(vectors[sample], "vectors").cpu().numpy())
        return index


def measure_recall(index: FaissIndex, vectors: torch.Tensor, *, k: int = 10, num_queries: int = 200) -> float:
    """Share of the k nearest rows that an index finds, mean over rows drawn as queries (seeded); a row's own is not
    counted.

    A found row is right if its cosine is not below that of the k-th row of an exact search, so it does not matter
    which of several equal rows is found.

    Args:
        index: of ``vectors``.
        vectors: (N, D), N at least 2.
        k: as in a search.
        num_queries: rows that are drawn; all where there are fewer.
    """
    if len(vectors) < 2:
        raise ValueError(f"vectors has {len(vectors)} rows; recall needs at least 2")
    k = min(k, len(vectors) - 1)
    drawn = _draw_rows(len(vectors), num_queries)
    queries = vectors[drawn]
    found, exact = index.search(queries, k + 1), search_exact(queries, vectors, k + 1)
    is_right = (found.scores >= exact.scores[:, -1:] - 1.5 / _STEPS) & (found.rows != drawn[:, None])  # (Q, k + 1)
    return (is_right.sum(dim=1).clamp(max=k) / k).mean().item()


def find_near_duplicates(
    vectors: torch.Tensor,
    *,
    threshold: float,
    groups: torch.Tensor | None = None,
    max_pairs: int = 10_000,
    device: torch.device | str | None = None,
    block_rows: int = 2048,
    report_progress: Callable[[int], object] | None = None,
) -> Pairs:
    """All pairs of rows whose cosine is at least ``threshold``: compares every row with every other, block by block.

    Args:
        vectors: (N, D).
        threshold: in (0, 1].
        groups: int64 (N,), such as the number of each row's video: pairs within a group are left out.
        max_pairs: where there are more, the most similar ones are kept; ``num_found`` says how many there are.
        device: that computes; None: the vectors' own.
        block_rows: rows at once.
        report_progress: gets the number of comparisons made since its last call.

    Raises:
        ValueError: an argument out of range, or numbers that are not finite.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; legal values: above 0, up to 1")
    if max_pairs < 1:
        raise ValueError(f"max_pairs is {max_pairs}; it must be at least 1")
    device = torch.device(device or vectors.device)
    kept, num_found = torch.empty(3, 0, dtype=torch.int64), 0  # steps of the score, first, second
    for start in range(0, len(vectors), block_rows):
        block = _normalize(vectors[start : start + block_rows].to(device), "vectors", start)
        for other_start in range(start, len(vectors), block_rows):
            other = _normalize(vectors[other_start : other_start + block_rows].to(device), "vectors", other_start)
            scores = block @ other.T
            is_pair = scores >= threshold - 1 / _STEPS
            if start == other_start:
                is_pair = is_pair.triu(1)
            if groups is not None:
                own = groups[start : start + len(block)].to(device)
                is_pair &= own[:, None] != groups[other_start : other_start + len(other)].to(device)
            i, j = is_pair.nonzero(as_tuple=True)
            num_found += len(i)
            kept = torch.cat([kept, torch.stack([_round(scores[i, j]), i + start, j + other_start]).cpu()], dim=1)
            if kept.shape[1] > 2 * max_pairs:
                kept = _keep_best(kept, max_pairs)
            if report_progress:
                report_progress(is_pair.numel())
    _, first, second = kept
    kept[0] = _round(_compute_cosines(vectors, first, vectors, second), _FINE_STEPS)
    is_pair = kept[0] >= math.floor(threshold * _FINE_STEPS)
    steps, first, second = _keep_best(kept[:, is_pair], max_pairs)
    return Pairs(first, second, (steps / _FINE_STEPS).float(), num_found - int((~is_pair).sum()))


def _keep_best(pairs: torch.Tensor, max_pairs: int) -> torch.Tensor:
    """Steps, first, second (3, P): sorted, cut."""
    steps, first, second = pairs.numpy()
    return pairs[:, torch.from_numpy(np.lexsort((second, first, -steps))[:max_pairs])]


def _rank_exactly(queries: torch.Tensor, vectors: torch.Tensor, rows: torch.Tensor, k: int) -> Hits:
    """The best k of candidates (Q, c) for each query."""
    numbers = torch.arange(len(rows))[:, None].expand_as(rows)  # (Q, c)
    cosines = _compute_cosines(queries, numbers.reshape(-1), vectors, rows.reshape(-1))
    steps = _round(cosines, _FINE_STEPS).view(rows.shape)  # (Q * c,) -> (Q, c)
    order = torch.from_numpy(np.lexsort((rows.numpy(), -steps.numpy()), axis=1)[:, :k])
    return Hits(rows.gather(1, order), (steps.gather(1, order) / _FINE_STEPS).float())


def _compute_cosines(a: torch.Tensor, i: torch.Tensor, b: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    """Cosine of rows a[i] and b[j] for each of P pairs: float64 (P,), on the CPU."""
    parts = []
    count = max(_VALUES_AT_ONCE // max(a.shape[1], 1), 1)
    for part_i, part_j in zip(i.split(count), j.split(count), strict=True):
        x, y = a[part_i.to(a.device)].double(), b[part_j.to(b.device)].double().to(a.device)
        norm_x, norm_y = torch.linalg.vector_norm(x, dim=1), torch.linalg.vector_norm(y, dim=1)
        is_zero = torch.minimum(norm_x, norm_y) < _MIN_NORM
        parts.append(torch.where(is_zero, 0.0, (x * y).sum(dim=1) / (norm_x * norm_y)).cpu())
    return torch.cat(parts)


def _round(scores: torch.Tensor, num_steps: int = _STEPS) -> torch.Tensor:
    return (scores * num_steps).round_().long()


def _make_keys(scores: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Cosines and their rows as one integer each: a higher score is higher, and of two equal ones the lower row."""
    return (_round(scores) << 32) + (_ROW_MASK - rows)


def _make_candidates(scores: torch.Tensor, rows: torch.Tensor, *, floor: torch.Tensor) -> torch.Tensor:
    """Keys (Q, c) of all rows of a block whose scores (Q, n) may reach keys (Q, 1), and of some that do not."""
    lowest = (floor >> 32).float() / _STEPS - 1 / _STEPS
    count = int((scores >= lowest).sum(dim=1).max())
    if count > len(rows) // _FEW:
        return _make_keys(scores, rows)
    scores, places = scores.topk(count)
    return _make_keys(scores, rows[places])


def _read_keys(keys: torch.Tensor) -> Hits:
    keys = keys.cpu()
    is_row = keys > _LOWEST
    scores = ((keys >> 32).float() / _STEPS).masked_fill_(~is_row, -math.inf)
    return Hits((_ROW_MASK - (keys & _ROW_MASK)).masked_fill_(~is_row, -1), scores)


def _compute_inverse_norms(vectors: torch.Tensor, name: str, first_row: int = 0) -> torch.Tensor:
    """1 / length of each row (n,), 0 for a zero vector."""
    norms = torch.linalg.vector_norm(vectors, dim=1)
    is_bad = ~norms.isfinite()
    if is_bad.any():
        row = first_row + int(is_bad.nonzero()[0])
        raise ValueError(f"{name}: row {row} holds numbers that are not finite, or are too large for float32")
    return torch.where(norms < _MIN_NORM, 0.0, 1 / norms)


def _normalize(vectors: torch.Tensor, name: str, first_row: int = 0) -> torch.Tensor:
    """Rows of length 1, or 0 where they are zero: float32 (n, D)."""
    vectors = vectors.float()
    return vectors * _compute_inverse_norms(vectors, name, first_row)[:, None]


def _draw_rows(num_rows: int, count: int) -> torch.Tensor:
    """Different rows in random order, always the same: int64 (up to count,)."""
    generator = np.random.default_rng(0)
    return torch.from_numpy(generator.choice(num_rows, min(count, num_rows), replace=False))


def _check_search(queries: torch.Tensor, shape: tuple[int, ...], k: int) -> None:
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    if queries.ndim != 2 or len(shape) != 2 or queries.shape[1] != shape[1]:
        raise ValueError(
            f"queries {tuple(queries.shape)} do not fit vectors {tuple(shape)}; legal are (Q, D) and (N, D)"
        )


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("approximate search needs FAISS: pip install 'hiera_video[faiss]', or faiss-cpu") from error
    return faiss

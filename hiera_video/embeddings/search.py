"""Search among embeddings by cosine, exactly, and pairs that are nearly the same.

Candidates are found with float32 products of matrices, whose last digits depend on a row's place in its block. What
is returned is computed again in float64, row by row, so that equal vectors have equal cosines; ties are ordered by row
number. The cosine of a zero vector with anything is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

EXACT = "exact"

STEPS = 2**20  # float32 cosines are rounded to multiples of 1 / STEPS: their sums are no more precise
_FINE_STEPS = 2**40  # likewise, float64
_MORE_CANDIDATES = 32  # than are wanted, as float32 may have the wrong order among nearly equal ones
_VALUES_AT_ONCE = 2**22  # in float64
_FEW = 8  # up to 1/8 of a block are picked by their float32 scores before integers are made of them
_ROW_MASK = 2**32 - 1
LOWEST_KEY = -(2**62)  # below every key
_QUERIES_AT_ONCE = 256
_MIN_NORM = 1e-12


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


class BestRows:
    """The rows most similar to each query, of blocks that are shown one after the other.

    Args:
        queries: (Q, D), of any length and float type.
        count: rows that are kept for each query.
        device: that compares.
    """

    def __init__(self, queries: torch.Tensor, count: int, device: torch.device | str = "cpu") -> None:
        self._units = normalize(queries, "queries").to(device)
        self._keys = torch.full((len(queries), count), LOWEST_KEY, device=device)

    def add(self, block: torch.Tensor, first_row: int) -> None:
        """Compares a block (n, D) of rows with all queries. Raises ValueError where numbers are not finite."""
        best, num_kept = self._keys, self._keys.shape[1]
        block = block.to(best.device).float()
        scale = _compute_inverse_norms(block, "vectors", first_row)
        rows = torch.arange(first_row, first_row + len(block), device=best.device)
        for at in range(0, len(self._units), _QUERIES_AT_ONCE):
            part = slice(at, at + _QUERIES_AT_ONCE)
            keys = _make_candidates((self._units[part] @ block.T) * scale, rows, floor=best[part, -1:])
            best[part] = torch.cat([best[part], keys], dim=1).topk(num_kept).values

    def get(self) -> Hits:
        """What has been found, (Q, count); the scores are rounded to multiples of 1 / `STEPS`."""
        return read_keys(self._keys)


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
    check_search(queries, vectors.shape, k)
    best = BestRows(queries, min(k + _MORE_CANDIDATES, len(vectors)), device or vectors.device)
    for start in range(0, len(vectors), block_rows):
        best.add(vectors[start : start + block_rows], start)
    return rank_exactly(queries, vectors, best.get().rows, k)


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
        block = normalize(vectors[start : start + block_rows].to(device), "vectors", start)
        for other_start in range(start, len(vectors), block_rows):
            other = normalize(vectors[other_start : other_start + block_rows].to(device), "vectors", other_start)
            scores = block @ other.T
            is_pair = scores >= threshold - 1 / STEPS
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


def rank_exactly(queries: torch.Tensor, vectors: torch.Tensor, rows: torch.Tensor, k: int) -> Hits:
    """The best k of candidates (Q, c), rows of (N, D), for each query."""
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


def _round(scores: torch.Tensor, num_steps: int = STEPS) -> torch.Tensor:
    return (scores * num_steps).round_().long()


def make_keys(scores: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Cosines and their rows as one integer each: a higher score is higher, and of two equal ones the lower row."""
    return (_round(scores) << 32) + (_ROW_MASK - rows)


def _make_candidates(scores: torch.Tensor, rows: torch.Tensor, *, floor: torch.Tensor) -> torch.Tensor:
    """Keys (Q, c) of all rows of a block whose scores (Q, n) may reach keys (Q, 1), and of some that do not."""
    lowest = (floor >> 32).float() / STEPS - 1 / STEPS
    count = int((scores >= lowest).sum(dim=1).max())
    if count > len(rows) // _FEW:
        return make_keys(scores, rows)
    scores, places = scores.topk(count)
    return make_keys(scores, rows[places])


def read_keys(keys: torch.Tensor) -> Hits:
    """What `make_keys` made; `LOWEST_KEY` is no row."""
    keys = keys.cpu()
    is_row = keys > LOWEST_KEY
    scores = ((keys >> 32).float() / STEPS).masked_fill_(~is_row, -math.inf)
    return Hits((_ROW_MASK - (keys & _ROW_MASK)).masked_fill_(~is_row, -1), scores)


def _compute_inverse_norms(vectors: torch.Tensor, name: str, first_row: int = 0) -> torch.Tensor:
    """1 / length of each row (n,), 0 for a zero vector."""
    norms = torch.linalg.vector_norm(vectors, dim=1)
    is_bad = ~norms.isfinite()
    if is_bad.any():
        row = first_row + int(is_bad.nonzero()[0])
        raise ValueError(f"{name}: row {row} holds numbers that are not finite, or are too large for float32")
    return torch.where(norms < _MIN_NORM, 0.0, 1 / norms)


def normalize(vectors: torch.Tensor, name: str, first_row: int = 0) -> torch.Tensor:
    """Rows of length 1, or 0 where they are zero: float32 (n, D)."""
    vectors = vectors.float()
    return vectors * _compute_inverse_norms(vectors, name, first_row)[:, None]


def draw_rows(num_rows: int, count: int) -> torch.Tensor:
    """Different rows in random order, always the same: int64 (up to count,)."""
    generator = np.random.default_rng(0)
    return torch.from_numpy(generator.choice(num_rows, min(count, num_rows), replace=False))


def check_search(queries: torch.Tensor, shape: tuple[int, ...], k: int) -> None:
    """Raises ValueError where k or the shapes cannot be meant."""
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    if queries.ndim != 2 or len(shape) != 2 or queries.shape[1] != shape[1]:
        raise ValueError(
            f"queries {tuple(queries.shape)} do not fit vectors {tuple(shape)}; legal are (Q, D) and (N, D)"
        )

"""Approximate search by cosine with FAISS, among vectors that are in memory."""

from __future__ import annotations

import math
from typing import Any

import torch

from hiera_video.embeddings.search import (
    EXACT,
    LOWEST_KEY,
    STEPS,
    Hits,
    check_search,
    draw_rows,
    make_keys,
    normalize,
    read_keys,
    search_exact,
)

HNSW, IVF = "hnsw", "ivf"

_MAX_HNSW_ROWS = 500_000
_NEIGHBORS, _BUILD_CANDIDATES, _SEARCH_CANDIDATES = 32, 80, 128  # of a row in HNSW's graph; looked at when it is made
_POINTS_PER_LIST = 64  # of IVF, that its lists' centers are computed from
_SHARE_PROBED = 1 / 32  # of IVF's lists
_MAX_EXACT_QUERIES = 10_000  # as many together take as long as building an index


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
        import_faiss()
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
        self._faiss = import_faiss()
        self._index = self._make_graph() if self.kind == HNSW else self._make_lists(vectors)
        for start in range(0, len(vectors), block_rows):
            block = vectors[start : start + block_rows]
            self._index.add(normalize(block, "vectors", start).cpu().numpy())

    def __len__(self) -> int:
        return self._shape[0]

    def search(self, queries: torch.Tensor, k: int) -> Hits:
        """Rows for each query (Q, D), in the order of `search_exact`; their scores are true cosines.

        Raises:
            ValueError: as `search_exact` does.
        """
        check_search(queries, self._shape, k)
        k = min(k, len(self))
        if self.kind == HNSW:
            self._index.hnsw.efSearch = max(_SEARCH_CANDIDATES, 2 * k)
        scores, rows = self._index.search(normalize(queries, "queries").cpu().numpy(), k)
        rows = torch.from_numpy(rows)
        keys = make_keys(torch.from_numpy(scores), rows).masked_fill_(rows < 0, LOWEST_KEY)
        return read_keys(keys.sort(dim=1, descending=True).values)

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
        sample = draw_rows(num_rows, _POINTS_PER_LIST * num_lists)
        index.train(normalize(vectors[sample], "vectors").cpu().numpy())
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
    drawn = draw_rows(len(vectors), num_queries)
    queries = vectors[drawn]
    return compute_recall(index.search(queries, k + 1), search_exact(queries, vectors, k + 1), drawn)


def compute_recall(found: Hits, exact: Hits, own: torch.Tensor) -> float:
    """Share of the nearest rows that were found, see `measure_recall`.

    Args:
        found: (Q, k + 1), by an index.
        exact: (Q, k + 1), by an exact search.
        own: int64 (Q,), the row that each query is.
    """
    k = exact.rows.shape[1] - 1
    is_right = (found.scores >= exact.scores[:, -1:] - 1.5 / STEPS) & (found.rows != own[:, None])  # (Q, k + 1)
    return (is_right.sum(dim=1).clamp(max=k) / k).mean().item()


def import_faiss() -> Any:
    """The package. Raises ImportError that says what to install."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError("approximate search needs FAISS: pip install 'hiera_video[faiss]', or faiss-cpu") from error
    return faiss

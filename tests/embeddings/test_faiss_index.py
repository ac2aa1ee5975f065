"""Approximate search in memory, against exact search."""

import numpy as np
import pytest
import torch
from vector_factory import FLOAT32, compute_cosines, draw, draw_clusters, rank_plainly

from hiera_video.embeddings.faiss_index import (
    HNSW,
    IVF,
    FaissIndex,
    choose_approximate,
    choose_index,
    measure_recall,
)
from hiera_video.embeddings.search import EXACT, Hits, search_exact


class TestFaiss:
    """Approximate search."""

    @pytest.fixture(autouse=True)
    def faiss(self):
        return pytest.importorskip("faiss")

    @pytest.mark.parametrize("kind", [HNSW, IVF])
    def test_it_finds_nearly_what_exact_search_does(self, kind):
        vectors = draw_clusters(4000)
        index = FaissIndex(vectors, kind=kind, block_rows=1500)
        recall = measure_recall(index, vectors, k=10)
        assert 0.9 < recall <= 1
        exact, found = search_exact(vectors[:100], vectors, 11), index.search(vectors[:100], 11)
        others = (found.rows != torch.arange(100)[:, None]) & (found.scores >= exact.scores[:, -1:])
        assert others.float().sum(dim=1).clamp(max=10).mean() > 9
        is_same = found.rows == exact.rows
        assert is_same.float().mean() > 0.8
        assert (found.scores - exact.scores)[is_same].abs().max() <= FLOAT32

    def test_lower_recall_is_told(self):
        vectors = draw_clusters(4000)
        index = FaissIndex(vectors, kind=IVF)
        before = measure_recall(index, vectors)
        index._index.nprobe = 1
        assert measure_recall(index, vectors) < before - 0.1

    def test_recall_is_that_of_a_plain_count(self):
        vectors = draw_clusters(500)

        class HalfIndex:
            """Knows even rows alone."""

            def search(self, queries, k):
                hits = search_exact(queries, vectors[::2], k)
                return Hits(2 * hits.rows, hits.scores)

        cosines = compute_cosines(vectors, vectors)
        np.fill_diagonal(cosines, -1)
        expected = np.mean(rank_plainly(cosines, 6) % 2 == 0)
        assert measure_recall(HalfIndex(), vectors, k=6, num_queries=500) == pytest.approx(expected, abs=1e-6)

    def test_equal_rows_do_not_lower_recall(self):
        vectors = draw(1).repeat(300, 1)
        assert measure_recall(FaissIndex(vectors, kind=IVF), vectors, k=10) > 0.99

    @pytest.mark.parametrize("kind", [HNSW, IVF])
    def test_zero_vectors_and_few_rows(self, kind):
        vectors = torch.cat([torch.zeros(1, 8), draw(4, 8)])
        hits = FaissIndex(vectors, kind=kind).search(torch.cat([vectors[1:2], torch.zeros(1, 8)]), 9)
        assert hits.rows[0].tolist() == search_exact(vectors[1:2], vectors, 9).rows[0].tolist()
        assert sorted(hits.rows[1].tolist()) == [0, 1, 2, 3, 4] and (hits.scores[1] == 0).all()

    def test_rows_that_are_not_found_are_marked(self):
        vectors = draw_clusters(4000)
        index = FaissIndex(vectors, kind=IVF)
        index._index.nprobe = 1
        hits = index.search(vectors[:2], 2000)
        missing = hits.rows < 0
        assert missing.any() and (hits.scores[missing] == -torch.inf).all()
        assert (missing.int().diff(dim=1) >= 0).all(), "they are last"
        assert (hits.scores[~missing] >= -1).all()

    def test_wrong_arguments_are_named(self):
        with pytest.raises(ValueError, match="kind is 'exact'"):
            FaissIndex(draw(3), kind=EXACT)
        with pytest.raises(ValueError, match="no vectors"):
            FaissIndex(draw(0))
        with pytest.raises(ValueError, match="k is 0"):
            FaissIndex(draw(3)).search(draw(1), 0)
        with pytest.raises(ValueError, match="do not fit"):
            FaissIndex(draw(3)).search(draw(1, 8), 1)
        with pytest.raises(ValueError, match="at least 2"):
            measure_recall(FaissIndex(draw(1)), draw(1))

    def test_the_kind_is_chosen_by_size(self):
        assert FaissIndex(draw(3)).kind == HNSW
        assert choose_approximate(500_000) == HNSW and choose_approximate(500_001) == IVF
        assert choose_index(10**7) == choose_index(10**7, 1000) == EXACT
        assert choose_index(10**5, 20_000) == HNSW and choose_index(10**7, 20_000) == IVF


def test_without_faiss_search_is_exact(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    assert choose_index(10**7, 10**6) == EXACT
    with pytest.raises(ImportError, match="pip install"):
        FaissIndex(draw(3))

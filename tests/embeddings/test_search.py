"""Search against the whole matrix of cosines, computed plainly in float64."""

import numpy as np
import pytest
import torch

from hiera_video.embeddings import search as module
from hiera_video.embeddings.search import (
    EXACT,
    HNSW,
    IVF,
    FaissIndex,
    choose_approximate,
    choose_index,
    find_near_duplicates,
    measure_recall,
    search_exact,
    search_filtered,
)

STEP = 2.0**-40  # cosines nearer than this are ties
FLOAT32 = 1e-6


def draw(num_rows, dim=16, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(num_rows, dim)).astype(np.float32))


def compute_cosines(queries, vectors):
    """(Q, N), 0 for zero vectors."""
    a, b = queries.double().numpy(), vectors.double().numpy()
    lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    return np.divide(a @ b.T, lengths, out=np.zeros_like(lengths), where=lengths > 0)


def rank_plainly(cosines, k):
    """Rows by cosine, then by number: (Q, k)."""
    steps = np.round(cosines / STEP)
    return np.stack([np.lexsort((np.arange(len(row)), -row))[:k] for row in steps])


def draw_with_ties(num_rows=90, dim=16):
    """Rows of which many are equal (some but for their length), and zero vectors."""
    rows = draw(num_rows // 3, dim)[np.random.default_rng(1).integers(0, num_rows // 3, num_rows)]
    rows *= torch.from_numpy(2.0 ** np.random.default_rng(2).integers(-3, 4, num_rows)).float()[:, None]
    rows[[5, 40, 41]] = 0
    return rows


@pytest.mark.parametrize("block_rows", [1, 7, 32, 90, 1000])
@pytest.mark.parametrize("k", [1, 10, 90])
def test_exact_search_is_the_whole_matrix_sorted(block_rows, k):
    vectors, queries = draw_with_ties(), torch.cat([draw(4, seed=3), torch.zeros(1, 16), draw_with_ties()[:3]])
    hits = search_exact(queries, vectors, k, block_rows=block_rows)
    cosines = compute_cosines(queries, vectors)
    assert hits.rows.tolist() == rank_plainly(cosines, k).tolist()
    np.testing.assert_allclose(hits.scores, np.take_along_axis(cosines, hits.rows.numpy(), axis=1), atol=FLOAT32)


def test_more_queries_than_fit_at_once():
    vectors = draw(50)
    queries = draw(600, seed=4)
    hits = search_exact(queries, vectors, 5, block_rows=20)
    assert hits.rows.tolist() == rank_plainly(compute_cosines(queries, vectors), 5).tolist()


def test_rows_that_get_better_and_better():
    vectors, queries = draw(3000), draw(3, seed=4)
    for sign in (1, -1):
        order = torch.from_numpy(sign * compute_cosines(queries[:1], vectors)[0]).argsort()
        hits = search_exact(queries, vectors[order], 7, block_rows=100)
        assert hits.rows.tolist() == rank_plainly(compute_cosines(queries, vectors[order]), 7).tolist()


def test_equal_rows_come_in_the_order_of_their_numbers():
    vectors = draw(1, 768).repeat(1000, 1)
    for num_queries in (1, 3):
        hits = search_exact(vectors[:num_queries], vectors, 40, block_rows=333)
        assert hits.rows.tolist() == [list(range(40))] * num_queries
        assert (hits.scores == 1).all()


def test_zero_vectors_are_similar_to_nothing():
    vectors = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [1.0, 1.0]])
    hits = search_exact(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), vectors, 3)
    assert hits.rows.tolist() == [[0, 1, 2], [2, 0, 1]]
    assert hits.scores[0].tolist() == [0, 0, 0]
    np.testing.assert_allclose(hits.scores[1], [0.5**0.5, 0, -1], atol=FLOAT32)


def test_fewer_rows_than_wanted():
    assert search_exact(draw(2), draw(3), 10).rows.shape == (2, 3)
    assert search_exact(draw(2), draw(0), 10).rows.shape == (2, 0)
    assert search_exact(draw(0), draw(3), 2).rows.shape == (0, 2)


def test_half_precision_is_taken():
    vectors = draw(30)
    hits = search_exact(vectors[:5].half(), vectors.half(), 4)
    assert hits.rows.tolist() == rank_plainly(compute_cosines(vectors[:5].half(), vectors.half()), 4).tolist()


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, 3e38])
def test_numbers_that_are_not_finite_are_named(wrong):
    vectors = draw(30)
    vectors[17, 3:5] = wrong
    for call in (
        lambda: search_exact(draw(1), vectors, 2, block_rows=10),
        lambda: find_near_duplicates(vectors, threshold=0.9, block_rows=10),
    ):
        with pytest.raises(ValueError, match="vectors: row 17 holds numbers that are not finite"):
            call()
    with pytest.raises(ValueError, match="queries: row 17"):
        search_exact(vectors, draw(3), 2)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="k is 0"):
        search_exact(draw(1), draw(3), 0)
    with pytest.raises(ValueError, match=r"queries \(1, 8\) do not fit vectors \(3, 16\)"):
        search_exact(draw(1, 8), draw(3), 1)
    with pytest.raises(ValueError, match=r"queries \(16,\)"):
        search_exact(draw(1)[0], draw(3), 1)
    for threshold in (0, 1.01, float("nan")):
        with pytest.raises(ValueError, match="threshold is"):
            find_near_duplicates(draw(3), threshold=threshold)
    with pytest.raises(ValueError, match="max_pairs is 0"):
        find_near_duplicates(draw(3), threshold=0.5, max_pairs=0)


class TestFilter:
    """search_filtered over a ranking that is known."""

    @staticmethod
    def run(k, *, forbidden=(), groups=None, num_rows=20):
        asked = []

        def search(count):
            asked.append(count)
            return module.Hits(torch.arange(count)[None], -torch.arange(float(count))[None])

        is_allowed = torch.ones(num_rows, dtype=torch.bool)
        is_allowed[list(forbidden)] = False
        groups = None if groups is None else torch.tensor(groups)
        hits = search_filtered(search, k, is_allowed=is_allowed, groups=groups)
        assert hits.scores.tolist() == (-hits.rows.float()).tolist()
        return hits.rows[0].tolist(), asked

    def test_forbidden_rows_are_replaced_by_the_next(self):
        assert self.run(3, forbidden=[0, 2]) == ([1, 3, 4], [5])

    def test_one_row_of_each_group(self):
        rows, asked = self.run(3, forbidden=[0], groups=[0] * 6 + [1] * 6 + [2] * 8)
        assert rows == [1, 6, 12] and asked == [4, 16]

    def test_it_ends_where_nothing_is_left(self):
        assert self.run(30, forbidden=[19])[0] == list(range(19))
        assert self.run(5, groups=[0] * 10 + [1] * 10)[0] == [0, 10]
        assert self.run(5, forbidden=range(20))[0] == []

    def test_rows_that_an_index_did_not_find_are_passed_over(self):
        def search(count):
            return module.Hits(torch.tensor([[2, -1, -1]])[:, :count], torch.zeros(1, min(count, 3)))

        assert search_filtered(search, 3, is_allowed=torch.ones(3, dtype=torch.bool)).rows.tolist() == [[2]]


def find_pairs_plainly(vectors, threshold, groups=None):
    """(score in steps, first, second), sorted."""
    steps = np.round(compute_cosines(vectors, vectors) / STEP).astype(int)
    pairs = [
        (-steps[i, j], i, j)
        for i in range(len(vectors))
        for j in range(i + 1, len(vectors))
        if steps[i, j] * STEP >= threshold and (groups is None or groups[i] != groups[j])
    ]
    return sorted(pairs)


@pytest.mark.parametrize("block_rows", [1, 7, 45, 90, 1000])
@pytest.mark.parametrize("with_groups", [False, True])
@pytest.mark.parametrize("threshold", [0.4, 1.0])
def test_near_duplicates_are_all_pairs_above_the_threshold(block_rows, with_groups, threshold):
    vectors = draw_with_ties()
    groups = torch.arange(90) // 10 if with_groups else None
    pairs = find_near_duplicates(vectors, threshold=threshold, groups=groups, block_rows=block_rows)
    expected = find_pairs_plainly(vectors, threshold, groups)
    assert len(expected) > 20
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [pair[1:] for pair in expected]
    np.testing.assert_allclose(pairs.scores, [-pair[0] * STEP for pair in expected], atol=FLOAT32)
    assert pairs.num_found == len(expected)


def test_the_threshold_is_as_sharp_as_double_precision():
    vectors = draw(2, 64)
    cosine = compute_cosines(vectors, vectors)[0, 1]
    vectors = vectors if cosine > 0 else vectors * torch.tensor([[1.0], [-1.0]])
    for difference, num_pairs in ((-1e-9, 1), (1e-9, 0)):
        pairs = find_near_duplicates(vectors, threshold=abs(cosine) + difference)
        assert len(pairs) == pairs.num_found == num_pairs


@pytest.mark.parametrize("block_rows", [3, 1000])
def test_the_most_similar_pairs_are_kept_where_there_are_too_many(block_rows):
    vectors = draw_with_ties()
    everything = find_near_duplicates(vectors, threshold=0.2)
    pairs = find_near_duplicates(vectors, threshold=0.2, max_pairs=25, block_rows=block_rows)
    assert len(pairs) == 25 and pairs.num_found == everything.num_found > 100
    assert pairs.first.tolist() == everything.first[:25].tolist()
    assert pairs.second.tolist() == everything.second[:25].tolist()


def test_progress_counts_comparisons():
    done = []
    find_near_duplicates(draw(10), threshold=0.9, block_rows=4, report_progress=done.append)
    assert done == [16, 16, 8, 16, 8, 4]


def test_no_rows_make_no_pairs():
    assert len(find_near_duplicates(draw(0), threshold=0.9)) == 0
    assert len(find_near_duplicates(torch.zeros(4, 8), threshold=0.01)) == 0


def draw_clusters(num_rows, dim=32):
    centers = draw(40, dim, seed=5)
    return centers[torch.arange(num_rows) % 40] + 0.7 * draw(num_rows, dim, seed=6)


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
                return module.Hits(2 * hits.rows, hits.scores)

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

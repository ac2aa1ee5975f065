"""Search against the whole matrix of cosines, computed plainly in float64."""

import numpy as np
import pytest
import torch
from vector_factory import FLOAT32, STEP, compute_cosines, draw, rank_plainly

from hiera_video.embeddings import search as module
from hiera_video.embeddings.search import find_near_duplicates, search_exact, search_filtered


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

"""Clusters: found again, numbered by size, the same each time, and named by their labels."""

import numpy as np
import pandas as pd
import pytest

from hiera_video.embeddings import clusters as module
from hiera_video.embeddings.clusters import Group, choose_num_clusters, cluster, describe_clusters

SIZES = (5, 30, 15)


@pytest.fixture
def rows():
    groups = np.repeat(np.arange(3), SIZES)
    return np.eye(4)[groups] * 10 + np.random.default_rng(0).normal(0, 0.3, (50, 4))


@pytest.mark.parametrize("max_exact", [10_000, 10])
def test_groups_are_found_and_the_largest_is_the_first(rows, max_exact, monkeypatch):
    monkeypatch.setattr(module, "_MAX_EXACT_ROWS", max_exact)
    codes = cluster(rows, 3, seed=1)
    np.testing.assert_array_equal(codes, np.repeat([2, 0, 1], SIZES))
    np.testing.assert_array_equal(codes, cluster(rows, 3, seed=1))


def test_rows_that_repeat_are_one_cluster():
    assert cluster(np.ones((4, 2)), 3).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("count", [0, 51])
def test_the_number_must_fit(rows, count):
    with pytest.raises(ValueError, match=f"the number of clusters is {count}; it must be 1 to 50"):
        cluster(rows, count)


def test_a_cluster_is_named_by_most_of_its_labels():
    labels = pd.Series([3, 3, 1, 2, 1, None, None], dtype="Int64")
    found = describe_clusters(np.array([0, 0, 0, 1, 1, 1, 2]), labels)
    assert found == [Group(3, 3, 2 / 3), Group(3, 1, 0.5), Group(1, None, 0.0)]  # of equally frequent ones the first
    assert describe_clusters(np.empty(0, np.int64), labels) == []


@pytest.mark.parametrize(("rows", "classes", "count"), [(100, 8, 8), (100, 0, 7), (9000, 1, 20), (3, 0, 2), (5, 9, 5)])
def test_as_many_as_classes_or_a_few(rows, classes, count):
    assert choose_num_clusters(rows, classes) == count

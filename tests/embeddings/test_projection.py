"""Maps of rows: PCA against a plain singular value decomposition, neighbors kept, the same points each time."""

import sys

import numpy as np
import pytest

from hiera_video.embeddings.projection import choose_rows, project, scale_rows


def make_groups(num_groups=3, size=20, dim=8, seed=0):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(num_groups), size)
    return 10 * np.eye(dim)[groups] + rng.normal(0, 0.5, (len(groups), dim)), groups


@pytest.mark.parametrize("shape", [(40, 6), (7, 30)])
def test_pca_is_the_singular_value_decomposition(shape):
    rows = np.random.default_rng(1).normal(size=shape) * np.linspace(3, 1, shape[1]) + 5
    found = project(rows.astype(np.float32))
    centered = rows - rows.mean(axis=0)
    left, values, _ = np.linalg.svd(centered, full_matrices=False)
    wanted = left[:, :2] * values[:2]
    wanted *= np.sign((found.points * wanted).sum(axis=0))  # an axis may point either way
    np.testing.assert_allclose(found.points, wanted, atol=1e-4)
    shares = 100 * values[:2] ** 2 / (values**2).sum()
    assert found.fact == f"PCA: the two axes hold {shares[0]:.1f} % and {shares[1]:.1f} % of the variance"


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_the_same_rows_give_the_same_points_and_groups_stay_apart(method):
    rows, groups = make_groups()
    points = project(rows, method=method, seed=3).points
    assert points.shape == (60, 2) and points.dtype == np.float32
    np.testing.assert_array_equal(points, project(rows, method=method, seed=3).points)
    distances = np.linalg.norm(points[:, None] - points, axis=2) + np.diag(np.full(60, np.inf))
    assert (groups[distances.argmin(axis=1)] == groups).all()


def test_umap_where_it_is_installed():
    pytest.importorskip("umap")
    rows, groups = make_groups()
    points = project(rows, method="umap").points
    distances = np.linalg.norm(points[:, None] - points, axis=2) + np.diag(np.full(60, np.inf))
    assert (groups[distances.argmin(axis=1)] == groups).mean() > 0.95


def test_umap_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match=r'pip install "hiera_video\[umap\]"'):
        project(make_groups()[0], method="umap")


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_few_or_equal_rows_have_a_map(method):
    assert (project(np.ones((5, 4)), method=method).points == 0).all()
    on_a_line = np.outer(np.repeat([1.0, 2.0, 3.0], 5), np.ones(4))
    assert np.isfinite(project(on_a_line, method=method).points).all()
    assert project(np.eye(3), method=method).points.shape == (3, 2)


@pytest.mark.parametrize(
    ("rows", "method", "message"),
    [
        (np.ones((2, 4)), "pca", "there are 2 rows of 4 values"),
        (np.ones((9, 1)), "pca", "there are 9 rows of 1 values"),
        (np.ones((9, 4)), "mds", "method is 'mds'; it must be one of pca, tsne, umap"),
    ],
)
def test_what_cannot_be_drawn(rows, method, message):
    with pytest.raises(ValueError, match=message):
        project(rows, method=method)


def test_rows_are_drawn_without_repeats_and_keep_their_order():
    rows = choose_rows(1000, 100, seed=2)
    assert len(set(rows.tolist())) == 100 and (np.diff(rows) > 0).all() and rows.max() < 1000
    assert rows.mean() == pytest.approx(500, abs=100)  # from everywhere
    np.testing.assert_array_equal(rows, choose_rows(1000, 100, seed=2))
    assert not np.array_equal(rows, choose_rows(1000, 100, seed=3))
    np.testing.assert_array_equal(choose_rows(5, 9), np.arange(5))


def test_rows_get_length_one_and_zeros_stay():
    np.testing.assert_allclose(scale_rows(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]])

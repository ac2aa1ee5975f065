"""Embeddings in two dimensions, for maps that people look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

METHODS = ("pca", "tsne", "umap")
_PERPLEXITY = 30.0
_REDUCED_DIM = 50  # that t-SNE and UMAP start from
_MIN_ROWS = 3
_MIN_SPECTRAL_ROWS = 10  # with fewer umap-learn's own start fails


@dataclass(frozen=True, eq=False)
class Projection:
    """Rows as points of a plane.

    Attributes:
        points: float32 (N, 2).
        fact: one line about how well they stand for the rows.
    """

    points: np.ndarray
    fact: str


def choose_rows(num_rows: int, max_rows: int, *, seed: int = 0) -> np.ndarray:
    """Rows drawn at random without repeats, int64 (min(num_rows, max_rows),), in rising order."""
    if num_rows <= max_rows:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(seed).permutation(num_rows)[:max_rows])


def scale_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32 (N, D), so that their distances are those of cosines; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def project(vectors: np.ndarray, *, method: str = "pca", seed: int = 0) -> Projection:
    """Puts rows into a plane; the same rows and seed give the same points.

    Args:
        vectors: float (N, D), finite, N and D at least 3 and 2.
        method: "pca": the plane in which the rows vary most. "tsne": who is near stays near, while distances between
            groups mean little (scikit-learn's, perplexity 30 or a third of fewer rows). "umap": similar, and faster for
            many rows; needs the package umap-learn.
        seed: of what is drawn at random.

    Raises:
        ImportError: "umap" where umap-learn is not installed.
        ValueError: an unknown method, or too few rows or columns.

    Follows: van der Maaten and Hinton (2008), McInnes et al. (arXiv 1802.03426); both start from 50 principal
    components, as van der Maaten and Hinton do.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; it must be one of {', '.join(METHODS)}")
    num_rows, dim = vectors.shape
    if num_rows < _MIN_ROWS or dim < 2:
        raise ValueError(f"there are {num_rows} rows of {dim} values; a map needs at least {_MIN_ROWS} rows of 2")
    if (vectors == vectors[0]).all():  # t-SNE would divide by their spread, and crash
        return Projection(np.zeros((num_rows, 2), np.float32), "all rows are equal")
    if method == "umap":
        return _project_umap(vectors, seed)
    if method == "tsne":
        return _project_tsne(vectors, seed)
    model = PCA(2, svd_solver="full" if num_rows < dim else "covariance_eigh")
    points = model.fit_transform(vectors.astype(np.float64))
    shares = 100 * np.nan_to_num(model.explained_variance_ratio_)
    fact = f"PCA: the two axes hold {shares[0]:.1f} % and {shares[1]:.1f} % of the variance"
    return Projection(points.astype(np.float32), fact)


def _project_tsne(vectors: np.ndarray, seed: int) -> Projection:
    perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)
    model = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    points = model.fit_transform(_reduce(vectors, seed))
    fact = f"t-SNE with perplexity {perplexity:.0f}: neighbors stay near, distances between groups mean little"
    return Projection(points.astype(np.float32), fact)


def _project_umap(vectors: np.ndarray, seed: int) -> Projection:
    try:
        from umap import UMAP
    except ImportError as error:
        raise ImportError('the method umap needs the package umap-learn: pip install "hiera_video[umap]"') from error
    num_neighbors = min(15, len(vectors) - 1)
    init = "spectral" if len(vectors) >= _MIN_SPECTRAL_ROWS else "random"
    model = UMAP(n_components=2, n_neighbors=num_neighbors, init=init, random_state=seed, n_jobs=1)
    points = model.fit_transform(_reduce(vectors, seed))
    fact = f"UMAP with {num_neighbors} neighbors: neighbors stay near, distances between groups mean little"
    return Projection(np.asarray(points, np.float32), fact)


def _reduce(vectors: np.ndarray, seed: int) -> np.ndarray:
    dim = min(_REDUCED_DIM, *vectors.shape)
    return PCA(dim, svd_solver="randomized", random_state=seed).fit_transform(vectors).astype(np.float32)

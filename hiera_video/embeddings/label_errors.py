"""Which labels are probably wrong: clips whose neighbors, or a classifier that has not seen them, disagree."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hiera_video.embeddings.probes.neighbors import find_neighbors, weigh_votes
from hiera_video.embeddings.splits import match_paths

CROSSVAL = "crossval_predictions.parquet"
_MAX_STEPS = 500
_STRENGTH = 0.1  # C of the logistic regression; on the motion data 0.001 to 1 rank alike


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of each clip without its own label.

    Attributes:
        neighbor_shares: float64 (n, K), the weighted share of its neighbors that have each class.
        neighbors: int64 (n, k), the neighbors, the nearest first.
        cosines: float32 (n, k), how similar they are.
        predicted: float64 (n, K), probabilities of a classifier that was fitted without the clip.
    """

    neighbor_shares: np.ndarray
    neighbors: np.ndarray
    cosines: np.ndarray
    predicted: np.ndarray

    def combine(self) -> np.ndarray:
        """The mean of both, float64 (n, K)."""
        return (self.neighbor_shares + self.predicted) / 2


@dataclass(frozen=True, eq=False)
class Suspects:
    """Clips whose label is probably wrong, the worst first.

    Attributes:
        rows: int64 (m,).
        suggested: int64 (m,), the likeliest other class.
        margins: float64 (m,), probability of the label minus that of the suggested class: from -1, surely wrong, to 0.
        is_confident: bool (m,), also wrong by confident learning's count.
    """

    rows: np.ndarray
    suggested: np.ndarray
    margins: np.ndarray
    is_confident: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, count: int) -> Suspects:
        """The worst ones."""
        parts = (self.rows, self.suggested, self.margins, self.is_confident)
        return Suspects(*(part[:count] for part in parts))


def gather_evidence(
    vectors: torch.Tensor,
    labels: np.ndarray,
    *,
    num_classes: int,
    predicted: np.ndarray | None = None,
    num_neighbors: int = 20,
    num_folds: int = 5,
    seed: int = 0,
) -> Evidence:
    """What the neighbors of each clip, and a classifier fitted to others, say about it.

    Args:
        vectors: float32 (n, D), finite, one row for each video.
        labels: int64 (n,), in [0, K), at least two videos of each class.
        num_classes: K, at least 2.
        predicted: float (n, K), probabilities from elsewhere, such as cross-validation of the whole model; None: those
            of `predict_out_of_fold`. Where a row has none (NaN, or all 0), the neighbors speak alone.
        num_neighbors: how many vote; all others, where there are fewer.
        num_folds: of the logistic regression.
        seed: of its folds.
    """
    cosines, rows = find_neighbors(vectors, num_neighbors)
    targets = torch.nn.functional.one_hot(torch.from_numpy(labels), num_classes).double()  # (n, K)
    shares = weigh_votes(cosines, targets[rows]).numpy()
    if predicted is None:
        predicted = predict_out_of_fold(vectors.numpy(), labels, num_classes, num_folds=num_folds, seed=seed)
    predicted = np.asarray(predicted, np.float64)
    is_known = np.isfinite(predicted).all(axis=1) & (predicted.sum(axis=1) > 0)
    return Evidence(shares, rows.numpy(), cosines.numpy(), np.where(is_known[:, None], predicted, shares))


def predict_out_of_fold(
    features: np.ndarray, labels: np.ndarray, num_classes: int, *, num_folds: int = 5, seed: int = 0
) -> np.ndarray:
    """Probabilities of each clip by a logistic regression on standardized features that was fitted to other folds.

    Args:
        features: float (n, D).
        labels: int64 (n,), in [0, K), at least two of each class.
        num_classes: K.
        num_folds: at most; fewer where a class has fewer clips. Each has the same share of each class.
        seed: of the folds.

    Returns:
        float64 (n, K).
    """
    num_folds = min(num_folds, int(np.bincount(labels, minlength=num_classes).min()))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=_STRENGTH, max_iter=_MAX_STEPS))
    folds = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return cross_val_predict(model, features, labels, cv=folds, method="predict_proba")


def rank_suspects(probabilities: np.ndarray, labels: np.ndarray) -> Suspects:
    """The clips for which another class is likelier than their label, by falling doubt.

    Doubt is the normalized margin: the probability of the label minus that of the likeliest other class. A clip is
    counted as confidently wrong where a class other than its label reaches that class's threshold, the mean probability
    of the class among the clips that have it as their label; of several such classes the likeliest counts.

    Args:
        probabilities: float64 (n, K), not influenced by a clip's own label.
        labels: int64 (n,), in [0, K).

    Follows: confident learning (Northcutt et al., arXiv 1911.00068): thresholds and confident joint of section 3.1, the
    ranking by normalized margin of section 3.2.
    Differs: lists each clip with a negative margin, not only the confidently wrong ones: somebody looks at them.
    """
    every = np.arange(len(labels))
    given = probabilities[every, labels]
    others = probabilities.copy()
    others[every, labels] = -np.inf
    suggested = others.argmax(axis=1)
    margins = given - others[every, suggested]
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    sums = np.bincount(labels, weights=given, minlength=probabilities.shape[1])
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)  # (K,)
    reached = np.where(probabilities >= thresholds, probabilities, -np.inf)
    is_confident = np.isfinite(reached).any(axis=1) & (reached.argmax(axis=1) != labels)
    found = np.flatnonzero(margins < 0)
    order = found[np.argsort(margins[found], kind="stable")]
    return Suspects(order, suggested[order], margins[order], is_confident[order])


def load_crossval(folder: str | os.PathLike[str], paths: list[str], labels: np.ndarray, classes: list) -> np.ndarray:
    """Probabilities of a cross-validation of the whole model, float64 (n, K).

    Args:
        folder: of ``hiera-video crossval``, or the file itself.
        paths: of the n videos.
        labels: int64 (n,), positions among the classes.
        classes: the K labels; numbers of classes.

    Raises:
        FileNotFoundError: it has no predictions.
        ValueError: a video is not among them, or with another label; or the classes do not fit.
    """
    path = Path(folder)
    path = path / CROSSVAL if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; `hiera-video crossval` writes it")
    table = pd.read_parquet(path)
    missing = {"path", "label", "probs"} - set(table)
    if missing:
        raise ValueError(f"{path} has no column {', '.join(sorted(missing))}; it has {', '.join(map(str, table))}")
    table = table.drop_duplicates("path").set_index("path")
    found = match_paths(paths, table.index.tolist())
    absent = [name for name in paths if name not in found]
    if absent:
        raise ValueError(f"{path}: {len(absent)} of {len(paths)} embedded videos are not there, first {absent[0]}")
    own = table.loc[[found[name] for name in paths]]
    probabilities = np.stack(own["probs"].to_numpy()).astype(np.float64)
    if not all(isinstance(label, int) and 0 <= label < probabilities.shape[1] for label in classes):
        raise ValueError(f"{path} has probabilities of {probabilities.shape[1]} classes, the labels here are {classes}")
    differing = own["label"].to_numpy() != np.asarray(classes)[labels]
    if differing.any():
        name = paths[int(differing.argmax())]
        raise ValueError(f"{path}: {differing.sum()} videos have other labels than the embeddings, first {name}")
    return probabilities[:, classes]

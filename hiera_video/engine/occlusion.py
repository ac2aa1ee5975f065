"""What is left of a classifier's evidence without some mask units, shared out among them; and Grad-CAM."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from hiera_video.engine.views import count_at_once
from hiera_video.models.hiera import Hiera
from hiera_video.utils.rng import compute_seed

_NUM_PIECES = (2, 4, 8)  # into how many pieces the units are cut, in turn
_MAX_BITS = 30  # of a mask as a number
_PENALTIES = np.logspace(-6, 3, 37)  # tried for the fit, as shares of the mean of the squared singular values


def draw_deletions(grid: Sequence[int], *, num_masks: int, seed: int) -> np.ndarray:
    """Which mask units each of many masks leaves out.

    The grid is cut in half along a random direction, each half again along another, and so on; a mask leaves out one
    piece, and another mask everything but this piece. So neighbors in space and time are left out together, which
    matters, as most of what a unit shows its neighbors show too: a model that is sure of its class does not miss a
    few units. All masks of a cut together leave out each unit equally often. Large and small pieces take turns.
    Where there are so few units that each of their sets can be tried, each is.

    Args:
        grid: mask units per side, (ut, uh, uw).
        num_masks: at least 1.
        seed: of the directions.

    Returns:
        bool (M, U), True = left out; no mask leaves out all. At most num_masks, as none comes twice.

    Raises:
        ValueError: the grid has only one unit, or num_masks is below 1.
    """
    if math.prod(grid) < 2:
        raise ValueError("the model's input is a single mask unit, so nothing can be left out: it needs a larger input")
    if num_masks < 1:
        raise ValueError(f"num_masks is {num_masks}; it must be at least 1")
    num_units = math.prod(grid)
    if num_units < _MAX_BITS and 2**num_units - 1 <= num_masks:
        return (np.arange(2**num_units - 1)[:, None] >> np.arange(num_units) & 1).astype(bool)
    rng = np.random.default_rng(compute_seed(seed))
    axes = [(np.arange(size) + 0.5) / size for size in grid]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(num_units, len(grid))  # in [0, 1]
    deleted = np.zeros((num_masks, num_units), dtype=bool)
    for row, piece in zip(deleted, _cut_again_and_again(rng, places), strict=False):
        row[piece] = True
    _, first = np.unique(deleted, axis=0, return_index=True)
    return deleted[np.sort(first)]


def _cut_again_and_again(rng: np.random.Generator, places: np.ndarray) -> Iterator[np.ndarray]:
    """What to leave out, without an end."""
    every = np.arange(len(places))
    while True:
        for count in _NUM_PIECES:
            pieces = [every]
            while len(pieces) < min(count, len(places)):
                pieces = [half for piece in pieces for half in _cut(rng, places, piece) if len(half)]
            for piece in pieces:
                yield piece
                if len(pieces) > 2:  # of two, each is the rest of the other
                    yield np.setdiff1d(every, piece)


def _cut(rng: np.random.Generator, places: np.ndarray, piece: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two halves of a piece, at a plane with a random direction."""
    order = piece[np.argsort(places[piece] @ rng.standard_normal(places.shape[1]))]
    return order[: len(order) // 2], order[len(order) // 2 :]


def fit_scores(deleted: np.ndarray, evidence: np.ndarray) -> tuple[np.ndarray, float]:
    """Shares out evidence among the mask units that are visible, by ridge regression with an intercept.

    The penalty is the one with the least squared error on masks that are left out of the fit one by one, for which
    there is a formula.

    Args:
        deleted: bool (M, U), what each mask leaves out.
        evidence: (M,), what speaks for the class with each mask.

    Returns:
        The score of each unit, float64 (U,): how much evidence it adds where it is visible. And the share of the
        evidence's variance that the scores predict for masks that they were not fitted to, at most 1; NaN where it
        does not vary.

    Follows: additive explanations of masked inputs, as LIME (arXiv 1602.04938) and SHAP (arXiv 1705.07874) fit them.
    Differs: masks are neither drawn independently nor weighted, see `draw_deletions`.
    """
    visible = (~deleted).astype(np.float64)
    left, sizes, right = np.linalg.svd(visible - visible.mean(axis=0), full_matrices=False)  # (M, R), (R,), (R, U)
    is_used = sizes > 1e-9 * max(float(sizes[0]), 1.0)
    left, sizes, right = left[:, is_used], sizes[is_used], right[is_used]
    target = evidence - evidence.mean()
    variance = float(target @ target)
    if not len(sizes) or variance <= 1e-12 * max(1.0, float(evidence @ evidence)):
        return np.zeros(deleted.shape[1]), math.nan
    projected = left.T @ target  # (R,)
    best, scores = math.inf, np.zeros(deleted.shape[1])
    for penalty in _PENALTIES * np.mean(sizes**2):
        shrink = sizes**2 / (sizes**2 + penalty)  # (R,)
        leverage = 1 / len(left) + np.einsum("mr,r,mr->m", left, shrink, left)  # (M,), the intercept's first
        errors = (target - left @ (shrink * projected)) / np.maximum(1 - leverage, 1e-9)
        if float(errors @ errors) < best:
            best, scores = float(errors @ errors), right.T @ (shrink * projected / sizes)
    return scores, 1 - best / variance


def compute_evidence(logits: torch.Tensor, label: int, *, is_multilabel: bool) -> torch.Tensor:
    """What speaks for a class, (N, K) -> (N,): its logit, or its log-odds where just one class is right."""
    if is_multilabel or logits.shape[1] == 1:
        return logits[:, label]
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=1)
    return logits[:, label] - others.logsumexp(dim=1)


@torch.inference_mode()
def compute_left(
    model: Hiera, clip: torch.Tensor, deleted: np.ndarray, label: int, *, is_multilabel: bool, batch_size: int
) -> tuple[float, np.ndarray]:
    """How much evidence for a class is left where mask units are left out.

    Args:
        model: in eval mode.
        clip: (C, T, H, W) float, normalized, on the model's device.
        deleted: bool (M, U).
        label: of the class.
        is_multilabel: see `compute_evidence`.
        batch_size: masks in a forward pass, at most; they leave out equally many units.

    Returns:
        The evidence with nothing left out, and with each mask, float64 (M,).
    """
    video = clip[None]
    whole = float(compute_evidence(model(video), label, is_multilabel=is_multilabel))
    at_once = count_at_once(clip.device, clip[0].numel(), at_most=batch_size)
    counts, left = deleted.sum(axis=1), np.empty(len(deleted))
    for count in np.unique(counts):
        rows = np.flatnonzero(counts == count)
        for part in np.split(rows, range(at_once, len(rows), at_once)):
            visible = torch.from_numpy(np.nonzero(~deleted[part])[1].reshape(len(part), -1)).to(clip.device)
            logits = model.classify_units(video.expand(len(part), *clip.shape), visible)
            left[part] = compute_evidence(logits.double(), label, is_multilabel=is_multilabel).cpu()
    return whole, left


def compute_grad_cam(model: Hiera, clip: torch.Tensor, label: int) -> np.ndarray:
    """Grad-CAM of the last stage's map.

    Args:
        model: in eval mode.
        clip: (C, T, H, W) float, normalized, on the model's device.
        label: of the class.

    Returns:
        float32 (T', H', W'), 0 and above, in the units of the logit.

    Follows: Selvaraju et al. (arXiv 1610.02391): the map's channels weighted by the mean of the logit's gradient over
        all places, what is below 0 left out. The map lies before the last norm.
    """
    with torch.no_grad():
        features = model.forward_maps(clip[None])[-1]  # (1, T', H', W', D), of images (1, H', W', D)
    features = features.float().requires_grad_()
    logit = model.classify_tokens(features.flatten(1, -2))[0, label]
    (gradient,) = torch.autograd.grad(logit, features)
    weights = gradient.flatten(1, -2).mean(dim=1)  # (1, D)
    cam = (features.detach() @ weights[0]).relu()[0]
    return cam.reshape(-1, *cam.shape[-2:]).cpu().numpy()  # (T', H', W')

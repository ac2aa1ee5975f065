"""Classes of unequal size: how often their videos are drawn in training, and what they weigh in the loss."""

from __future__ import annotations

import numpy as np

from hiera_video.utils.rng import compute_seed


class BalancedOrder:
    """Orders of a list in which videos of small classes come more often, and those of large ones less often.

    A pass has as many videos as the list. A class's share of it goes with its size to the power of 1 - ``strength``.
    Its videos come in one permutation after the other, over all passes: none comes again before each has come.

    Args:
        labels: int64 (N,), in [0, K).
        strength: in (0, 1]. 1: all classes equally often; 0.5: by the square roots of their sizes.
        seed: of all permutations.
    """

    def __init__(self, labels: np.ndarray, *, strength: float, seed: int) -> None:
        self._seed = seed
        self._classes, sizes = np.unique(labels, return_counts=True)
        members = np.argsort(labels, kind="stable")
        self._members = np.split(members, np.cumsum(sizes)[:-1])  # of each class, its positions in the list
        self._slots = divide_slots(sizes, strength=strength)

    def draw(self, number: int) -> np.ndarray:
        """The positions of pass ``number``, counted from 0: int64 (N,)."""
        parts = [self._draw_class(i, number) for i in range(len(self._classes))]
        together = np.concatenate(parts)
        return together[np.random.default_rng(compute_seed(self._seed, number)).permutation(len(together))]

    def _draw_class(self, i: int, number: int) -> np.ndarray:
        members, slots = self._members[i], int(self._slots[i])
        places = np.arange(number * slots, (number + 1) * slots)  # in the endless row of this class's permutations
        rounds, within = np.divmod(places, len(members))
        drawn = np.empty(slots, dtype=np.int64)
        for turn in np.unique(rounds):
            order = np.random.default_rng(compute_seed(self._seed, int(self._classes[i]), int(turn)))
            is_now = rounds == turn
            drawn[is_now] = members[order.permutation(len(members))[within[is_now]]]
        return drawn


def divide_slots(sizes: np.ndarray, *, strength: float) -> np.ndarray:
    """How many of sum(sizes) places each class gets, in proportion to size ** (1 - strength).

    Args:
        sizes: int64 (K,), each above 0.
        strength: in [0, 1].

    Returns:
        int64 (K,), of the same sum. Places that are left after rounding down go to the largest remainders, but no class
        stays without any.
    """
    shares = sizes.astype(np.float64) ** (1.0 - strength)
    exact = shares / shares.sum() * sizes.sum()
    slots = np.floor(exact).astype(np.int64)
    left = int(sizes.sum() - slots.sum())
    slots[np.argsort(slots - exact, kind="stable")[:left]] += 1
    while (slots == 0).any():
        slots[slots.argmax()] -= 1
        slots[slots.argmin()] += 1
    return slots


def compute_class_weights(labels: np.ndarray, *, num_classes: int, strength: float) -> np.ndarray:
    """What a video of each class weighs in the loss: its size to the power of -``strength``.

    Args:
        labels: int64 (N,), in [0, K).
        num_classes: K.
        strength: in [0, 1]. 1: all classes weigh the same together, whatever their size; 0: all videos do.

    Returns:
        float64 (K,), so that the mean over the list's videos is 1; a class without videos weighs as one with one video.
    """
    sizes = np.bincount(labels, minlength=num_classes)
    weights = np.maximum(sizes, 1).astype(np.float64) ** -strength
    return weights * (sizes.sum() / (sizes * weights).sum())


def compute_positive_weights(sizes: np.ndarray, num_videos: int, *, strength: float) -> np.ndarray:
    """What a video of a class weighs in that class's own question: (videos without / videos with it) ** ``strength``.

    Args:
        sizes: int64 (K,), videos with each class; a class without videos counts as one with one video.
        num_videos: N.
        strength: in [0, 1]. 1: the videos with a class weigh as much together as those without it.

    Returns:
        float64 (K,).
    """
    with_it = np.maximum(sizes, 1).astype(np.float64)
    return (np.maximum(num_videos - sizes, 1) / with_it) ** strength

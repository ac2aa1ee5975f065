"""Classes of unequal size in what training draws, and in what its loss weighs."""

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hiera_video.data.class_balance import BalancedOrder, compute_class_weights, divide_slots
from hiera_video.data.loader import EpochSampler

LABELS = np.array([0] * 12 + [2] * 3 + [5])


def count_classes(order):
    return Counter(LABELS[order].tolist())


@pytest.mark.parametrize(
    ("strength", "slots"),
    [(0.0, [12, 3, 1]), (1.0, [6, 5, 5]), (0.5, [9, 4, 3])],  # by hand: 3.46, 1.73, 1 of 6.2 parts of 16
)
def test_a_pass_gives_each_class_its_share(strength, slots):
    order = BalancedOrder(LABELS, strength=strength, seed=1)
    for number in range(3):
        assert [count_classes(order.draw(number))[label] for label in (0, 2, 5)] == slots


def test_no_video_comes_again_before_all_of_its_class_have_come():
    order = BalancedOrder(LABELS, strength=1.0, seed=1)
    drawn = np.concatenate([order.draw(number) for number in range(12)])
    times = np.bincount(drawn, minlength=len(LABELS))
    assert times[:12].tolist() == [6] * 12 and times[12:15].tolist() == [20] * 3 and times[15] == 60
    first_two = np.concatenate([order.draw(0), order.draw(1)])
    assert np.bincount(first_two, minlength=16)[:12].tolist() == [1] * 12


def test_passes_are_the_same_in_every_process_and_differ_from_each_other():
    first, second = (BalancedOrder(LABELS, strength=1.0, seed=1) for _ in range(2))
    second.draw(7)  # what was drawn before does not matter
    assert np.array_equal(first.draw(3), second.draw(3)) and not np.array_equal(first.draw(3), first.draw(4))
    assert not np.array_equal(first.draw(3), BalancedOrder(LABELS, strength=1.0, seed=2).draw(3))


@given(sizes=st.lists(st.integers(1, 500), min_size=1, max_size=30), strength=st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_slots_are_all_given_and_no_class_goes_without(sizes, strength):
    slots = divide_slots(np.array(sizes), strength=strength)
    assert slots.sum() == sum(sizes) and slots.min() >= 1


def test_the_ranks_batches_together_are_the_same_videos():
    def draw(rank, world_size):
        balance = BalancedOrder(LABELS, strength=1.0, seed=3)
        options = {"num_samples": 1, "batch_videos": 4, "seed": 3, "rank": rank, "world_size": world_size}
        sampler = EpochSampler(len(LABELS), **options, balance=balance)
        sampler.set_epoch(2, start_step=1)
        return [index for _, index in sampler]

    whole, parts = draw(0, 1), [draw(rank, 2) for rank in range(2)]
    assert [sorted(whole[i : i + 4]) for i in range(0, 12, 4)] == [
        sorted(parts[0][i : i + 2] + parts[1][i : i + 2]) for i in range(0, 6, 2)
    ]


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_weights_have_the_mean_one_over_videos(strength):
    weights = compute_class_weights(LABELS, num_classes=6, strength=strength)
    assert weights[LABELS].mean() == pytest.approx(1)
    assert weights[2] / weights[0] == pytest.approx(4**strength) and weights[5] == pytest.approx(weights[1])


def test_whole_weighting_is_the_mean_over_classes_of_their_mean_losses():
    """The loss that scikit-learn calls "balanced", computed class by class."""
    torch.manual_seed(0)
    logits, labels = torch.randn(16, 6, dtype=torch.double), torch.from_numpy(LABELS)
    weights = torch.from_numpy(compute_class_weights(LABELS, num_classes=6, strength=1.0))
    got = F.cross_entropy(logits, labels, weight=weights, reduction="none").mean()
    expected = torch.stack([F.cross_entropy(logits[labels == label], labels[labels == label]) for label in (0, 2, 5)])
    torch.testing.assert_close(got, expected.mean())

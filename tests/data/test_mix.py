"""Mixup and CutMix, against values worked out by hand."""

import pytest
import torch
from torch.distributions.beta import Beta

from hiera_video.data.mix import Mix
from hiera_video.utils.rng import seeded


def make_batch(n, size=8, dtype=torch.float32):
    """Clip i is filled with i."""
    return torch.arange(n, dtype=dtype)[:, None, None, None, None].expand(n, 3, 2, size, size).clone()


def test_labels_without_mixing_are_smoothed():
    video = make_batch(3)
    mixed, labels = Mix(num_classes=4, label_smoothing=0.2)(video, torch.tensor([0, 3, 1]))
    assert torch.equal(mixed, make_batch(3))
    expected = [[0.85, 0.05, 0.05, 0.05], [0.05, 0.05, 0.05, 0.85], [0.05, 0.85, 0.05, 0.05]]
    torch.testing.assert_close(labels, torch.tensor(expected))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixup(smoothing):
    with seeded(1):
        factor = Beta(0.8, 0.8).sample().item()
    with seeded(1):
        mixed, labels = Mix(num_classes=4, mixup_alpha=0.8, label_smoothing=smoothing)(
            make_batch(3), torch.tensor([0, 3, 1])
        )
    assert 0.01 < factor < 0.99
    # Clip i is mixed with clip 2 - i; the one in the middle with itself.
    expected = torch.tensor([0 * factor + 2 * (1 - factor), 1.0, 2 * factor])
    torch.testing.assert_close(mixed, expected[:, None, None, None, None].expand_as(mixed))
    low = smoothing / 4
    one_hot = torch.full((3, 4), low).scatter_(1, torch.tensor([[0], [3], [1]]), 1 - smoothing + low)
    torch.testing.assert_close(labels, factor * one_hot + (1 - factor) * one_hot.flip(0))
    assert labels.dtype == torch.float32


def test_cutmix_labels_are_the_visible_shares():
    mix = Mix(num_classes=6, cutmix_alpha=1.0)
    shares = []
    for seed in range(30):
        with seeded(seed):
            video, labels = mix(make_batch(4, size=16), torch.tensor([5, 2, 0, 3]))
        own = (video == torch.arange(4.0)[:, None, None, None, None]).float().mean(dim=(1, 2, 3, 4))
        torch.testing.assert_close(labels[torch.arange(4), torch.tensor([5, 2, 0, 3])], own)
        torch.testing.assert_close(labels[torch.arange(4), torch.tensor([3, 0, 2, 5])], 1 - own)
        # One box, the same for all clips, channels and frames, filled from the clip at the mirrored place.
        kept = video[0, 0, 0] == 0
        assert torch.equal(video[0], torch.where(kept, 0.0, 3.0).expand_as(video[0]))
        assert torch.equal(video[2], torch.where(kept, 2.0, 1.0).expand_as(video[2]))
        rows, columns = (~kept).any(1).sum(), (~kept).any(0).sum()
        assert rows * columns == (~kept).sum()
        shares.append(own[0].item())
    assert min(shares) < 0.4 and max(shares) > 0.9


def test_prob_and_switch_prob():
    mix = Mix(num_classes=2, mixup_alpha=1.0, cutmix_alpha=1.0, prob=0.6, switch_prob=0.25)
    counts = {"none": 0, "mixup": 0, "cutmix": 0}
    with seeded(7):
        for _ in range(1000):
            chosen = mix._choose()
            counts["none" if chosen is None else "mixup" if chosen is mix.mixup else "cutmix"] += 1
    assert abs(counts["none"] - 400) < 60  # standard error 15
    assert abs(counts["cutmix"] - 150) < 45
    assert Mix(num_classes=2, mixup_alpha=1.0, switch_prob=1.0)._choose().__class__.__name__ == "MixUp"
    assert Mix(num_classes=2, cutmix_alpha=1.0, switch_prob=0.0)._choose().__class__.__name__ == "CutMix"


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_batch_size_and_dtype(n, dtype):
    mix = Mix(num_classes=3, mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1)
    for seed in range(4):  # both kinds
        with seeded(seed):
            video, labels = mix(make_batch(n, dtype=dtype), torch.arange(n) % 3)
        assert video.dtype == dtype and video.shape == (n, 3, 2, 8, 8)
        assert labels.dtype == torch.float32
        torch.testing.assert_close(labels.sum(1), torch.ones(n))
        if n == 1:
            assert torch.equal(video, make_batch(1, dtype=dtype))
            assert labels[0, 0] > 0.9


def test_the_same_seed_gives_the_same_batch():
    mix = Mix(num_classes=3, mixup_alpha=0.8, cutmix_alpha=1.0, prob=0.8)
    results = []
    for _ in range(2):
        with seeded(3, 1):
            results.append([mix(make_batch(4), torch.tensor([0, 1, 2, 0])) for _ in range(5)])
    for (video, labels), (video2, labels2) in zip(*results, strict=True):
        assert torch.equal(video, video2) and torch.equal(labels, labels2)


@pytest.mark.parametrize(
    ("name", "value"),
    [("mixup_alpha", -1), ("cutmix_alpha", -0.1), ("prob", 1.5), ("switch_prob", -1), ("label_smoothing", 1.0)],
)
def test_wrong_arguments_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        Mix(num_classes=2, **{name: value})

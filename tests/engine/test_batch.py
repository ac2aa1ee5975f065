"""What happens to a training batch between the loader and the model."""

import pytest
import torch
from torch import nn

from hiera_video.engine.batch import to_model_input
from hiera_video.engine.training import classify as train_module
from hiera_video.utils.rng import seed_everything


def test_a_batch_becomes_normalized_clips():
    video = torch.randint(0, 256, (2, 3, 3, 2, 4, 5), dtype=torch.uint8)
    clips = to_model_input(video, device=torch.device("cpu"), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5))
    assert clips.shape == (6, 3, 2, 4, 5) and clips.dtype == torch.float32 and clips.is_contiguous()
    for channel, (mean, std) in enumerate(((0.5, 0.2), (0.4, 0.25), (0.3, 0.5))):
        expected = (video[1, 2, channel].double() / 255 - mean) / std
        torch.testing.assert_close(clips[5, channel].double(), expected, atol=1e-6, rtol=0)


@pytest.fixture
def make_seen(make_cfg, monkeypatch):
    """A function: white clips go into a training step of a config; gives what the model would read of them."""

    def run(changes):
        found = {}
        monkeypatch.setattr(train_module, "run_training", lambda *_, **parts: found.update(parts))
        train_module.train(make_cfg(changes))
        seen = []

        class Model(nn.Module):
            def forward(self, clips):
                seen.append(clips.clone())
                return clips.new_zeros(len(clips), 8)

        batch = {
            "video": torch.full((8, 1, 3, 4, 32, 32), 255, dtype=torch.uint8),
            "label": torch.arange(8),
        }
        seed_everything(5)
        found["compute_loss"](Model(), batch)
        return seen[0]

    return run


WHITE = (1 - 0.45) / 0.225


def test_erasing_fills_with_zeros_of_normalized_clips(make_seen):
    clips = make_seen({"AUG.RE_PROB": 1.0, "AUG.RE_MODE": "const"})
    is_erased = clips == 0
    assert is_erased.flatten(1).any(1).all()
    torch.testing.assert_close(clips[~is_erased], torch.full_like(clips[~is_erased], WHITE))
    assert torch.equal(is_erased, is_erased[:, :1, :1].expand_as(is_erased))
    torch.testing.assert_close(make_seen({}), torch.full_like(clips, WHITE))


def test_erasing_comes_before_mixing(make_seen):
    """Mixed with a white clip, an erased box is no longer zero; erased after mixing, every clip would have zeros."""
    mix = {"MIXUP.ENABLE": True, "MIXUP.CUTMIX_ALPHA": 0.0, "MIXUP.ALPHA": 5.0}
    clips = make_seen({"AUG.RE_PROB": 1.0, "AUG.RE_MODE": "const", **mix})
    between = (clips > 0.01 * WHITE) & (clips < 0.99 * WHITE)
    assert between.flatten(1).any(1).all()
    zeros = (clips == 0)[:, 0, 0].float().mean(dim=(1, 2))
    assert (zeros < 0.02).any(), "boxes of a pair of clips do not meet everywhere"


def test_the_same_seed_gives_the_same_noise(make_seen):
    first, second = (make_seen({"AUG.RE_PROB": 0.5}) for _ in range(2))
    assert torch.equal(first, second)
    noise = first[(first - WHITE).abs() > 1e-3]
    assert len(noise) > 1000 and abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1

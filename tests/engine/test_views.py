"""A model on raw views: the same outputs as on clips that were normalized by hand, however many go at once."""

import pytest
import torch

from hiera_video.config import load_config
from hiera_video.engine import views as views_module
from hiera_video.engine.views import compute_on_views

CPU = torch.device("cpu")


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_outputs_are_those_of_normalized_clips(monkeypatch, at_once):
    cfg = load_config([], ["TRAIN.ENABLE", "False", "DATA.MEAN", "[0.1, 0.2, 0.3]", "DATA.STD", "[0.5, 0.25, 0.2]"])
    views = torch.randint(0, 256, (7, 3, 2, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    weight = torch.nn.Parameter(torch.randn(96, 5, generator=torch.Generator().manual_seed(1)))
    sizes = []

    def compute(clips):
        sizes.append(len(clips))
        return clips.flatten(1) @ weight

    monkeypatch.setattr(views_module, "_PIXELS_AT_ONCE_ON_CPU", at_once * 2 * 4 * 4)
    found = compute_on_views(cfg, compute, views, device=CPU, precision="fp32")
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in ([0.1, 0.2, 0.3], [0.5, 0.25, 0.2]))
    torch.testing.assert_close(found, ((views / 255 - mean) / std).flatten(1) @ weight.detach())
    assert not found.requires_grad and sizes == {1: [1] * 7, 3: [3, 3, 1], 100: [7]}[at_once]


def test_lower_precision_still_gives_floats():
    cfg = load_config([], ["TRAIN.ENABLE", "False"])
    views, seen = torch.ones((2, 3, 2, 4, 4), dtype=torch.uint8), []

    def compute(clips):
        seen.append(clips.flatten(1) @ torch.ones(96, 1))
        return seen[-1]

    assert compute_on_views(cfg, compute, views, device=CPU, precision="bf16").dtype == torch.float32
    assert seen[0].dtype == torch.bfloat16

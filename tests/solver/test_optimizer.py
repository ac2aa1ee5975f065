"""Parameter groups: which parameters decay, and with which share of the learning rate."""

import pytest
import torch
from torch import nn

from hiera_video.config import load_config
from hiera_video.solver.optimizer import build_optimizer, compute_param_groups, set_lr


class ThreeLayers(nn.Module):
    """A model that answers what the optimizer asks: embedding (layer 0), one block (1), head (2)."""

    def __init__(self):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 4, 3))
        self.block = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)
        self.head = nn.Linear(3, 2)

    num_layers = 3

    def no_weight_decay(self):
        return {"pos_embed"}

    def get_layer_id(self, name):
        return {"pos_embed": 0, "block": 1}.get(name.split(".")[0], 2)


def describe(groups):
    return {name: (group["weight_decay"], group["lr_scale"]) for group in groups for name in group["names"]}


def test_groups_by_hand():
    groups = compute_param_groups(ThreeLayers(), weight_decay=0.05, layer_decay=0.5)
    assert describe(groups) == {
        "pos_embed": (0.0, 0.25),
        "block.weight": (0.05, 0.5),
        "block.bias": (0.0, 0.5),
        "norm.weight": (0.0, 1.0),
        "norm.bias": (0.0, 1.0),
        "head.weight": (0.05, 1.0),
        "head.bias": (0.0, 1.0),
    }


def test_biases_decay_when_asked_and_position_embeddings_never():
    described = describe(compute_param_groups(ThreeLayers(), weight_decay=0.1, zero_wd_1d_param=False))
    assert described["block.bias"] == (0.1, 1.0) and described["pos_embed"] == (0.0, 1.0)


def test_frozen_parameters_are_left_out():
    model = ThreeLayers()
    model.block.requires_grad_(False)
    assert "block.weight" not in describe(compute_param_groups(model, weight_decay=0.1))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("method", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_a_step_follows_the_plain_rule(method, kind, fused):
    """One step of `build_optimizer` equals torch's single-tensor optimizer with each group's own numbers."""
    pairs = {"DATA.PATH_TO_DATA_DIR": "/d", "SOLVER.OPTIMIZING_METHOD": method, "SOLVER.LAYER_DECAY": "0.5"}
    pairs["SOLVER.FUSED"] = str(fused)
    cfg = load_config([], [word for pair in pairs.items() for word in pair])
    ours, plain = ThreeLayers(), ThreeLayers()
    plain.load_state_dict(ours.state_dict())
    optimizer = build_optimizer(cfg, ours)
    set_lr(optimizer, 0.1)
    assert isinstance(optimizer, kind) and bool(optimizer.defaults["fused"]) == fused
    options = {"momentum": 0.9} if method == "sgd" else {"betas": (0.9, 0.999)}
    reference = kind(
        [
            {"params": [parameter], "lr": 0.1 * scale, "weight_decay": decay}
            for name, parameter in plain.named_parameters()
            for decay, scale in [describe(optimizer.param_groups)[name]]
        ],
        foreach=False,
        fused=False,
        **options,
    )
    for model, stepper in ((ours, optimizer), (plain, reference)):
        for seed in (0, 1):
            torch.manual_seed(seed)
            x = model.norm(model.block(torch.randn(5, 3) + model.pos_embed[0, :1]))
            stepper.zero_grad()
            model.head(x).square().sum().backward()
            stepper.step()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, plain.get_parameter(name), msg=name)

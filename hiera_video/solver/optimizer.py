"""Parameter groups (weight decay, layer-wise learning rates) and the optimizer over them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from fvcore.common.config import CfgNode
from torch import nn


class LayeredModel(Protocol):
    """A model that knows its layers, as `Hiera` does."""

    @property
    def num_layers(self) -> int:
        """How many layer ids there are."""

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that never decay."""

    def get_layer_id(self, name: str) -> int:
        """The layer of a parameter, in [0, num_layers)."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All parameters."""


def compute_param_groups(
    model: LayeredModel, *, weight_decay: float, layer_decay: float = 1.0, zero_wd_1d_param: bool = True
) -> list[dict[str, Any]]:
    """Groups of parameters that share weight decay and learning-rate factor.

    The factor ``lr_scale`` of layer i is ``layer_decay ** (num_layers - 1 - i)``: 1 for the head's layer, the last.
    The model says what it knows of itself: ``no_weight_decay()``, ``num_layers``, ``get_layer_id(name)``.

    Args:
        model: a model with these three; layer ids are in [0, num_layers).
        weight_decay: for weight matrices; parameters of ``no_weight_decay()`` never decay.
        layer_decay: in (0, 1]; 1 gives every layer the same learning rate.
        zero_wd_1d_param: no decay on one-dimensional parameters (biases and norms) either.

    Returns:
        One dict a group: ``params``, ``names``, ``weight_decay``, ``lr_scale``, in the order of the model.

    Follows: BEiT and MAE fine-tuning, which the paper's recipes name layer-wise decay.
    """
    no_decay = model.no_weight_decay()
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        exempt = name in no_decay or (zero_wd_1d_param and parameter.ndim <= 1)
        decay = 0.0 if exempt else weight_decay
        lr_scale = layer_decay ** (model.num_layers - 1 - model.get_layer_id(name))
        group = groups.setdefault(
            (decay, lr_scale), {"params": [], "names": [], "weight_decay": decay, "lr_scale": lr_scale}
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def build_optimizer(cfg: CfgNode, model: LayeredModel) -> torch.optim.Optimizer:
    """AdamW or SGD over `compute_param_groups`, as SOLVER says; the learning rate is set at each step.

    With SOLVER.FUSED the parameters must be on a GPU or the CPU, which have such kernels.
    """
    solver = cfg.SOLVER
    groups = compute_param_groups(
        model,
        weight_decay=solver.WEIGHT_DECAY,
        layer_decay=solver.LAYER_DECAY,
        zero_wd_1d_param=solver.ZERO_WD_1D_PARAM,
    )
    fused = True if solver.FUSED else None  # None lets torch choose among the others
    if solver.OPTIMIZING_METHOD == "adamw":
        return torch.optim.AdamW(groups, lr=solver.BASE_LR, betas=tuple(solver.BETAS), fused=fused)
    if any(hasattr(parameter, "to_local") for group in groups for parameter in group["params"]):
        fused = None  # there is no such kernel of SGD for weights that are divided over processes
    return torch.optim.SGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, fused=fused)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Gives each group ``lr`` times its ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]

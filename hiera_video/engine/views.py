"""A model on views as they come from a decoder: bytes to the device, normalized there, and through the model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from fvcore.common.config import CfgNode

from hiera_video.engine.batch import autocast, to_model_input

# On a CPU more pixels at once are no faster: they leave the caches, and each layer gets fresh memory from the system.
_PIXELS_AT_ONCE_ON_CPU = 16 * 224 * 224


def compute_probs(logits: torch.Tensor, *, is_multilabel: bool) -> torch.Tensor:
    """Probabilities (N, K) of logits (N, K): of one class among all, or of each class by itself."""
    return logits.sigmoid() if is_multilabel else logits.softmax(dim=1)


def count_at_once(device: torch.device, num_pixels: int, *, at_most: int) -> int:
    """How many clips of num_pixels (T * H * W) a forward pass should take; on a CPU often fewer than at_most."""
    return min(at_most, max(_PIXELS_AT_ONCE_ON_CPU // num_pixels, 1)) if device.type == "cpu" else at_most


@torch.inference_mode()
def compute_on_views(
    cfg: CfgNode,
    compute: Callable[[torch.Tensor], torch.Tensor],
    views: torch.Tensor,
    *,
    device: torch.device,
    precision: str,
) -> torch.Tensor:
    """Runs a model on views, without gradients.

    Args:
        cfg: DATA.MEAN and DATA.STD are read.
        compute: the model: normalized clips (n, C, T, H, W) on the device -> outputs (n, ...).
        views: uint8 (n, C, T, H, W) on the CPU.
        device: where the model is.
        precision: as TRAIN.PRECISION.

    Returns:
        float32 (n, ...) on the device.
    """
    outputs = []
    for part in views.split(count_at_once(device, views[0, 0].numel(), at_most=len(views))):
        clips = to_model_input(part[None], device=device, mean=cfg.DATA.MEAN, std=cfg.DATA.STD)  # (n, C, T, H, W)
        with autocast(device, precision):
            outputs.append(compute(clips).float())
    return torch.cat(outputs)

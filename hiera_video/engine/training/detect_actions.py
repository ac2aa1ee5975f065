"""The job that trains a detector of actions: what is done in each box of a key frame."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import nn

from hiera_video.data.batch_loader import BatchLoader
from hiera_video.data.box_lists import Truth, build_truth
from hiera_video.data.box_loaders import build_box_eval_loader, build_box_train_loader
from hiera_video.data.erasing import build_erasing
from hiera_video.engine.batch import to_model_input
from hiera_video.engine.box_predictions import empty_outside, predict_boxes
from hiera_video.engine.meters import Stopwatch
from hiera_video.engine.training.bad_step import ComputeLoss
from hiera_video.engine.training.loop import run_training
from hiera_video.engine.training.state import TrainState
from hiera_video.models.build import build_model_from_cfg
from hiera_video.models.encoder import HieraEncoder
from hiera_video.utils.distributed import all_reduce_mean, get_device


def train_actions(cfg: CfgNode) -> None:
    """Trains a detector of actions as TRAIN and SOLVER say; see `run_training` for what it writes and raises."""
    loader = build_box_train_loader(cfg)
    model, compute_loss = build_action_detection(cfg)
    validate = None
    if cfg.TRAIN.EVAL_PERIOD:
        validate = partial(validate_actions, cfg, build_box_eval_loader(cfg, "val"), build_truth(cfg, "val"))
    run_training(
        cfg,
        model,
        loader,
        compute_loss=compute_loss,
        validate=validate,
        validation_period_epochs=cfg.TRAIN.EVAL_PERIOD,
        best_by="map",
    )


def build_action_detection(cfg: CfgNode) -> tuple[HieraEncoder, ComputeLoss]:
    """A detector with random weights, on its device, and what computes its loss on a batch."""
    device = get_device()
    torch.manual_seed(cfg.RNG_SEED)
    model = build_model_from_cfg(cfg, crop_size=cfg.DATA.TRAIN_CROP_SIZE).to(device)
    erase = build_erasing(cfg)

    def compute_loss(forward: nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        clips = to_model_input(batch["video"], device=device, mean=cfg.DATA.MEAN, std=cfg.DATA.STD)  # (B, C, T, H, W)
        clips = erase(clips) if erase else clips
        boxes = empty_outside(batch["boxes"], batch["is_outside"]).to(device, non_blocking=True)
        logits = forward(clips, boxes)  # (R, K)
        targets = batch["targets"].to(device, non_blocking=True)
        return compute_box_loss(logits, targets), {"boxes_per_clip": torch.tensor(len(boxes) / len(clips))}

    return model, compute_loss


def compute_box_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy, the mean over classes and the boxes of a pass in all processes; 0 without boxes.

    Each box counts the same, however many the other processes have: gradients are averaged over processes, and this is
    the sum over the boxes here divided by the mean number of boxes of a process.

    Args:
        logits: (R, K) of any float type.
        targets: (R, K) in [0, 1].

    Follows: SlowFast's binary cross entropy on AVA, but on logits: a sigmoid in half precision saturates.
    Differs: there each process divides by its own number of boxes.
    """
    total = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="sum")
    mean_count = all_reduce_mean(torch.tensor(float(len(logits)), device=logits.device))
    return total / (mean_count.clamp(min=1e-6) * logits.shape[1])


def validate_actions(cfg: CfgNode, loader: BatchLoader, truth: Truth, state: TrainState) -> dict[str, Any]:
    """The mean average precision on the validation list, in percent, by SlowFast's protocol, with counts."""
    watch = Stopwatch()
    predictions = predict_boxes(cfg, state.get_model_to_use(), loader, title="validation")
    result = predictions.compute_ap(truth.boxes, truth.class_names, truth.excluded)
    return {
        "map": 100.0 * result.mean,
        "num_key_frames": len(predictions.key_frames),
        "num_boxes": len(predictions.probs),
        "num_outside": int(predictions.is_outside.sum()),
        "num_failed": len(predictions.failed),
        "seconds": round(watch.lap(), 2),
    }

"""The detection job: boxes and masks in pictures."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from fvcore.common.config import CfgNode
from torch import nn

from hiera_video.data.batch_loader import BatchLoader
from hiera_video.data.coco_lists import build_detection_list
from hiera_video.data.detection_dataset import build_detection_eval_loader, build_detection_train_loader
from hiera_video.engine.detection_test import evaluate_detections
from hiera_video.engine.detections import to_detector_input
from hiera_video.engine.meters import Stopwatch
from hiera_video.engine.training.bad_step import ComputeLoss
from hiera_video.engine.training.loop import run_training
from hiera_video.engine.training.state import TrainState
from hiera_video.models.build import build_detector_from_cfg
from hiera_video.models.mask_rcnn import LOSSES, HieraDetector
from hiera_video.utils.distributed import get_device


def train_detector(cfg: CfgNode) -> None:
    """Trains a detector as TRAIN and SOLVER say; see `run_training` for what it writes and raises.

    The best checkpoint is that of the highest mask AP on the validation list.
    """
    loader = build_detection_train_loader(cfg)
    model, compute_loss = build_detection(cfg)
    validate_next = None
    if cfg.TRAIN.EVAL_PERIOD:
        videos = build_detection_list(cfg, "val")
        val_loader = build_detection_eval_loader(cfg, videos, size_px=cfg.DATA.TRAIN_CROP_SIZE)
        validate_next = partial(validate, cfg, val_loader)
    run_training(
        cfg,
        model,
        loader,
        compute_loss=compute_loss,
        validate=validate_next,
        validation_period_epochs=cfg.TRAIN.EVAL_PERIOD,
        best_by="mask_ap",
    )


def build_detection(cfg: CfgNode) -> tuple[HieraDetector, ComputeLoss]:
    """A detector with random weights, on its device, and what computes its loss on a batch."""
    device = get_device()
    torch.manual_seed(cfg.RNG_SEED)
    model = build_detector_from_cfg(cfg, crop_size=cfg.DATA.TRAIN_CROP_SIZE).to(device)

    def compute_loss(forward: nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        pictures = to_detector_input(cfg, batch["picture"], device=device)  # (B, 3, S, S)
        targets = [
            {name: value.to(device, non_blocking=True) for name, value in target.items()} for target in batch["target"]
        ]
        # As in ViTDet, the padding is part of a training picture.
        losses, _ = forward(pictures, [tuple(pictures.shape[-2:])] * len(pictures), targets)
        return torch.stack([losses[name] for name in LOSSES]).sum(), losses

    return model, compute_loss


def validate(cfg: CfgNode, loader: BatchLoader, state: TrainState) -> dict[str, Any]:
    """Average precisions on the validation list, in percent, with the counts of pictures."""
    watch = Stopwatch()
    model = cast(HieraDetector, state.get_model_to_use())
    values, failed, metrics = evaluate_detections(cfg, model, loader, title="validation")
    metrics.pop("per_class", None)
    return {**metrics, "num_pictures": len(values), "num_failed": len(failed), "seconds": round(watch.lap(), 2)}

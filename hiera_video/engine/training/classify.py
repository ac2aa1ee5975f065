"""The classification job: fine-tuning, or training from scratch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import nn

from hiera_video.data.batch_loader import BatchLoader
from hiera_video.data.build_lists import build_video_list
from hiera_video.data.class_balance import compute_class_weights, compute_positive_weights
from hiera_video.data.erasing import build_erasing
from hiera_video.data.loader import build_train_loader, build_val_loader
from hiera_video.data.mix import build_mix
from hiera_video.engine.batch import to_model_input
from hiera_video.engine.evaluate import evaluate
from hiera_video.engine.meters import Stopwatch
from hiera_video.engine.metrics import compute_topk_hits
from hiera_video.engine.multilabel import MultiLabelPredictions, is_multilabel
from hiera_video.engine.training.bad_step import ComputeLoss
from hiera_video.engine.training.loop import run_training
from hiera_video.engine.training.state import TrainState
from hiera_video.models.build import build_model_from_cfg
from hiera_video.models.encoder import HieraEncoder
from hiera_video.utils.distributed import get_device, get_world_size


def train(cfg: CfgNode) -> None:
    """Trains a classifier as TRAIN and SOLVER say; see `run_training` for what it writes and raises."""
    loader = build_train_loader(cfg)
    check_pairs(cfg)
    model, compute_loss = build_classification(cfg)
    run_training(
        cfg,
        model,
        loader,
        compute_loss=compute_loss,
        validate=partial(validate, cfg, build_val_loader(cfg)) if cfg.TRAIN.EVAL_PERIOD else None,
        validation_period_epochs=cfg.TRAIN.EVAL_PERIOD,
        best_by="map" if is_multilabel(cfg) else "top1",
    )


def build_classification(cfg: CfgNode) -> tuple[HieraEncoder, ComputeLoss]:
    """A classifier with random weights, on its device, and what computes its loss on a batch."""
    device = get_device()
    torch.manual_seed(cfg.RNG_SEED)
    model = build_model_from_cfg(cfg, crop_size=cfg.DATA.TRAIN_CROP_SIZE).to(device)
    erase, mix, class_weights = build_erasing(cfg), build_mix(cfg), build_class_weights(cfg)

    def compute_loss(forward: nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        clips = to_model_input(batch["video"], device=device, mean=cfg.DATA.MEAN, std=cfg.DATA.STD)  # (B*V, C, T, H, W)
        label = batch["label"].repeat_interleave(batch["video"].shape[1], dim=0)  # (B*V,), or (B*V, K) of several
        clips = erase(clips) if erase else clips
        # PyTorchVideo's mixing looks at the labels' values: on the CPU that waits for nobody.
        clips, target = mix(clips, label) if mix else (clips, label)
        target = target.to(device, non_blocking=True)
        logits = forward(clips)  # (B*V, K)
        if is_multilabel(cfg):
            return F.binary_cross_entropy_with_logits(logits.float(), target, pos_weight=class_weights), {}
        losses = F.cross_entropy(logits.float(), target, weight=class_weights, reduction="none")  # (B*V,)
        return losses.mean(), compute_train_accuracy(logits.detach(), target)

    return model, compute_loss


def build_class_weights(cfg: CfgNode) -> torch.Tensor | None:
    """What each class weighs in the loss by TRAIN.CLASS_WEIGHTING: float32 (K,) on the device; None where all are 1.

    Where videos have several classes, it is what the videos of a class weigh against those without it.
    """
    strength = cfg.TRAIN.CLASS_WEIGHTING
    if not strength:
        return None
    videos = build_video_list(cfg, "train")
    if videos.label_sets is not None:
        weights = compute_positive_weights(videos.label_sets.count_videos(), len(videos), strength=strength)
    else:
        weights = compute_class_weights(videos.labels, num_classes=cfg.MODEL.NUM_CLASSES, strength=strength)
    return torch.from_numpy(weights).float().to(get_device())


def check_pairs(cfg: CfgNode) -> None:
    """Raises ValueError where mixing would take a video's clips for a pair: with an odd number of videos in a batch.

    Mixing pairs the first clip of a batch with the last one, and so on; the one in the middle would meet its own video.
    """
    num_processes, num_accum, num_samples = get_world_size(), cfg.TRAIN.GRAD_ACCUM_STEPS, cfg.AUG.NUM_SAMPLE
    parts = num_processes * num_accum * num_samples
    num_videos = cfg.TRAIN.BATCH_SIZE // parts
    if cfg.MIXUP.ENABLE and cfg.MIXUP.PROB > 0 and num_videos % 2:
        raise ValueError(
            f"MIXUP.ENABLE mixes pairs of videos, but TRAIN.BATCH_SIZE = {cfg.TRAIN.BATCH_SIZE} clips over "
            f"{num_processes} processes x TRAIN.GRAD_ACCUM_STEPS {num_accum} x AUG.NUM_SAMPLE {num_samples} give a "
            f"batch of {num_videos} videos, and one would be mixed with itself: set TRAIN.BATCH_SIZE to a multiple of "
            f"{2 * parts}, lower TRAIN.GRAD_ACCUM_STEPS, or set MIXUP.ENABLE False"
        )


def validate(cfg: CfgNode, loader: BatchLoader, state: TrainState) -> dict[str, Any]:
    """Accuracy on the validation list, in percent, with the counts of videos."""
    watch = Stopwatch()
    predictions = evaluate(cfg, state.get_model_to_use(), loader, title="validation")
    counts = {"num_videos": len(predictions.probs), "num_failed": len(predictions.failed)}
    if isinstance(predictions, MultiLabelPredictions):
        # F1 at thresholds that are chosen on the same videos would flatter, and an interval takes long.
        found = {"map": predictions.compute_map(), "thresholds": predictions.choose_thresholds().tolist()}
    else:
        found = predictions.compute_accuracy()
    return {**found, **counts, "seconds": round(watch.lap(), 2)}


def compute_train_accuracy(logits: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """Top-1 and top-5 of a training batch in percent. Of mixed labels, the class of the larger share is the right one.

    Args:
        logits: (N, K).
        target: int64 (N,), or soft labels (N, K).
    """
    labels = target if target.ndim == 1 else target.argmax(dim=1)
    top1, top5 = compute_topk_hits(logits, labels).float().mean(dim=1) * 100
    return {"top1": top1, "top5": top5}

"""The training job. `train` reads downwards: build, resume, then epochs of train, validate, save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from hiera_video.config import dump_config
from hiera_video.data.loader import build_train_loader, build_val_loader
from hiera_video.data.mix import build_mix
from hiera_video.engine.batch import autocast, to_model_input
from hiera_video.engine.meters import Stopwatch, TrainMeters, format_duration
from hiera_video.engine.state import TrainState, save_state, start_or_resume
from hiera_video.engine.test import evaluate
from hiera_video.models.build import build_model_from_cfg
from hiera_video.solver.lr_policy import LrPolicy, build_lr_policy
from hiera_video.solver.optimizer import set_lr
from hiera_video.utils.distributed import get_device, get_rank, is_initialized, is_main_process
from hiera_video.utils.logging import log_json_stats
from hiera_video.utils.rng import seed_everything


def train(cfg: CfgNode) -> None:
    """Trains as TRAIN and SOLVER say, validates, and writes checkpoints, logs and metrics to OUTPUT_DIR.

    A run that was stopped and is started again gives the same weights as one that was not (same number of processes).

    Raises:
        FloatingPointError: the loss is not finite.
        RuntimeError: more bad videos than DATA.MAX_BAD_VIDEOS.
    """
    device = get_device()
    torch.manual_seed(cfg.RNG_SEED)
    model = build_model_from_cfg(cfg, crop_size=cfg.DATA.TRAIN_CROP_SIZE).to(device)
    train_loader = build_train_loader(cfg)
    val_loader = build_val_loader(cfg) if cfg.TRAIN.EVAL_PERIOD else None
    state = start_or_resume(cfg, model)
    forward = _wrap(cfg, model, device)
    compute_lr = build_lr_policy(cfg)
    writer = _open_output(cfg)
    class_names = train_loader.dataset.videos.class_names
    while state.epoch < cfg.SOLVER.MAX_EPOCH:
        train_epoch(cfg, state, forward, train_loader, compute_lr, writer)
        state.epoch += 1
        is_best = bool(val_loader) and _is_due(cfg, cfg.TRAIN.EVAL_PERIOD, state.epoch)
        is_best = is_best and validate(cfg, state, val_loader, writer)
        save_state(
            cfg,
            state,
            class_names=class_names,
            is_best=is_best,
            is_due=_is_due(cfg, cfg.TRAIN.CHECKPOINT_PERIOD, state.epoch),
        )
    if writer:
        writer.close()


def train_epoch(
    cfg: CfgNode,
    state: TrainState,
    forward: nn.Module,
    loader: DataLoader,
    compute_lr: LrPolicy,
    writer: SummaryWriter | None = None,
) -> None:
    """One epoch of optimizer steps.

    Args:
        state: model, optimizer and so on; changed in place.
        forward: the model as it is called: compiled and wrapped for data parallelism as the config says.
        loader: its sampler is an `EpochSampler`; gives TRAIN.GRAD_ACCUM_STEPS batches a step.
        compute_lr: epoch -> learning rate.
        writer: of TensorBoard events.
    """
    device, epoch = get_device(), state.epoch
    mix = build_mix(cfg)
    loader.sampler.set_epoch(epoch)
    # Dropout, drop path and mixup draw from here on: the same in a resumed run.
    seed_everything(cfg.RNG_SEED, epoch, get_rank())
    forward.train()
    num_steps, num_accum = loader.sampler.steps_per_epoch, cfg.TRAIN.GRAD_ACCUM_STEPS
    meters = TrainMeters(cfg.TRAIN.BATCH_SIZE, accum_steps=num_accum, device=device)
    batches = iter(loader)
    for step in tqdm(range(num_steps), desc=f"epoch {epoch + 1}/{cfg.SOLVER.MAX_EPOCH}", leave=False,
                     disable=None if is_main_process() else True):
        lr = compute_lr(epoch + step / num_steps)
        set_lr(state.optimizer, lr)
        for accum in range(num_accum):
            batch = meters.time_data(batches)
            state.bad_videos.update(batch)
            video = to_model_input(batch["video"], device=device, mean=cfg.DATA.MEAN, std=cfg.DATA.STD)
            label = batch["label"].to(device, non_blocking=True).repeat_interleave(batch["video"].shape[1])  # (B*V,)
            video, target = mix(video, label) if mix else (video, label)
            with _no_sync(forward, accum < num_accum - 1), autocast(device, cfg.TRAIN.PRECISION):
                logits = forward(video)  # (B*V, K)
                loss = F.cross_entropy(logits.float(), target)
            state.scaler.scale(loss / num_accum).backward()
            meters.update(loss, logits, target)
        _update_weights(cfg, state)
        if (step + 1) % cfg.LOG_PERIOD == 0 or step + 1 == num_steps:
            stats = meters.compute()
            steps_done = epoch * num_steps + step + 1
            eta_sec = stats["step_time_sec"] * (cfg.SOLVER.MAX_EPOCH * num_steps - steps_done)
            stats = {
                "_type": "train_iter",
                "epoch": f"{epoch + 1}/{cfg.SOLVER.MAX_EPOCH}",
                "iter": f"{step + 1}/{num_steps}",
                "lr": lr,
                **stats,
                "bad_videos": len(state.bad_videos.reasons),
                "eta": format_duration(eta_sec),
            }
            _check_finite(stats)
            _log(cfg, stats, writer, step=steps_done)


def validate(cfg: CfgNode, state: TrainState, loader: DataLoader, writer: SummaryWriter | None = None) -> bool:
    """Validates over one centre view a video, logs, and says whether this is the best top-1 so far."""
    watch = Stopwatch()
    predictions = evaluate(cfg, state.get_model_to_use(), loader, title="validation")
    accuracy = predictions.compute_accuracy()
    is_best = accuracy["top1"] > state.best_top1
    state.best_top1 = max(state.best_top1, accuracy["top1"])
    stats = {
        "_type": "val_epoch",
        "epoch": f"{state.epoch}/{cfg.SOLVER.MAX_EPOCH}",
        **accuracy,
        "best_top1": state.best_top1,
        "num_videos": len(predictions.labels),
        "num_failed": len(predictions.failed),
        "seconds": round(watch.lap(), 2),
    }
    _log(cfg, stats, writer, step=state.epoch)
    return is_best


def _update_weights(cfg: CfgNode, state: TrainState) -> None:
    state.scaler.unscale_(state.optimizer)
    if cfg.SOLVER.CLIP_GRAD_L2NORM:
        nn.utils.clip_grad_norm_(state.model.parameters(), cfg.SOLVER.CLIP_GRAD_L2NORM)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    if state.ema:
        state.ema.update_parameters(state.model)


def _check_finite(stats: dict[str, Any]) -> None:
    if not torch.isfinite(torch.tensor(stats["loss"])):
        raise FloatingPointError(
            f"the loss is {stats['loss']} at epoch {stats['epoch']}, step {stats['iter']}, learning rate "
            f"{stats['lr']:.3g}; the checkpoints are from before. Lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_EPOCHS, "
            "set SOLVER.CLIP_GRAD_L2NORM, or try TRAIN.PRECISION fp32"
        )


def _wrap(cfg: CfgNode, model: nn.Module, device: torch.device) -> nn.Module:
    if cfg.MODEL.COMPILE:
        model = torch.compile(model)
    if is_initialized():
        model = DistributedDataParallel(
            model, device_ids=[device.index] if device.type == "cuda" else None, gradient_as_bucket_view=True
        )
    return model


def _no_sync(forward: nn.Module, skip: bool) -> Any:
    # Gradients of all but the last accumulation step need not travel between ranks.
    if skip and isinstance(forward, DistributedDataParallel):
        return forward.no_sync()
    return torch.enable_grad()


def _open_output(cfg: CfgNode) -> SummaryWriter | None:
    if not is_main_process():
        return None
    (Path(cfg.OUTPUT_DIR) / "config.yaml").write_text(dump_config(cfg))
    return SummaryWriter(Path(cfg.OUTPUT_DIR) / "tensorboard") if cfg.TENSORBOARD.ENABLE else None


def _log(cfg: CfgNode, stats: dict[str, Any], writer: SummaryWriter | None, *, step: int) -> None:
    if not is_main_process():
        return
    log_json_stats(stats, output_dir=cfg.OUTPUT_DIR)
    if writer:
        group = stats["_type"].split("_")[0]
        for name, value in stats.items():
            if isinstance(value, int | float):
                writer.add_scalar(f"{group}/{name}", value, step)


def _is_due(cfg: CfgNode, period: int, epoch: int) -> bool:
    return epoch % period == 0 or epoch == cfg.SOLVER.MAX_EPOCH

"""The loop that every training job runs: epochs of optimizer steps, validation, checkpoints, log lines.

A job hands in what is its own: a model, a loader, how a batch becomes a loss, and what validation means.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from hiera_video.config import dump_config
from hiera_video.data.loader import get_dataset, get_epoch_sampler
from hiera_video.engine.batch import autocast
from hiera_video.engine.meters import TrainMeters, format_duration
from hiera_video.engine.training.state import TrainState, save_state, start_or_resume
from hiera_video.models.encoder import HieraEncoder
from hiera_video.solver.lr_policy import LrPolicy, build_lr_policy
from hiera_video.solver.optimizer import set_lr
from hiera_video.utils.distributed import get_device, get_rank, is_initialized, is_main_process
from hiera_video.utils.logging import get_logger, log_json_stats
from hiera_video.utils.rng import seed_everything

logger = get_logger(__name__)

# (model as it is called, batch of the loader) -> loss, and tensors to report the mean of
ComputeLoss = Callable[[nn.Module, dict[str, Any]], tuple[torch.Tensor, dict[str, torch.Tensor]]]
# state after an epoch -> numbers to log; "top1", if it is among them, decides which checkpoint is best
Validate = Callable[[TrainState], dict[str, Any]]


def run_training(
    cfg: CfgNode,
    model: HieraEncoder,
    loader: DataLoader,
    *,
    compute_loss: ComputeLoss,
    validate: Validate | None = None,
    validation_period_epochs: int = 0,
) -> None:
    """Trains as TRAIN and SOLVER say and writes checkpoints, logs and metrics to OUTPUT_DIR.

    A run that was stopped and is started again gives the same weights as one that was not (same number of processes).

    Args:
        model: on its device; answers `no_weight_decay`, `num_layers` and `get_layer_id`.
        loader: its sampler is an `EpochSampler`; gives TRAIN.GRAD_ACCUM_STEPS batches a step.
        compute_loss: a batch's forward pass.
        validate: called every ``validation_period_epochs`` (0: never) and after the last epoch.

    Raises:
        FloatingPointError: the loss or a weight is not finite.
        RuntimeError: more bad videos than DATA.MAX_BAD_VIDEOS.
    """
    state = start_or_resume(cfg, model)
    forward = _wrap(cfg, model)
    compute_lr = build_lr_policy(cfg)
    writer = _open_output(cfg)
    while state.epoch < cfg.SOLVER.MAX_EPOCH:
        train_epoch(cfg, state, forward, loader, compute_loss, compute_lr, writer)
        state.epoch += 1
        is_best = False
        if validate and _is_due(cfg, validation_period_epochs, state.epoch):
            is_best = _run_validation(cfg, state, validate, writer)
        is_due = _is_due(cfg, cfg.TRAIN.CHECKPOINT_PERIOD, state.epoch)
        save_state(cfg, state, class_names=get_dataset(loader).videos.class_names, is_best=is_best, is_due=is_due)
    if writer:
        writer.close()


def train_epoch(
    cfg: CfgNode,
    state: TrainState,
    forward: nn.Module,
    loader: DataLoader,
    compute_loss: ComputeLoss,
    compute_lr: LrPolicy,
    writer: SummaryWriter | None = None,
) -> None:
    """One epoch of optimizer steps; changes ``state`` in place.

    Args:
        forward: ``state.model`` as it is called: compiled and wrapped for data parallelism as the config says.
        compute_lr: epoch -> learning rate.
        writer: of TensorBoard events.
    """
    device, epoch = get_device(), state.epoch
    sampler, num_accum = get_epoch_sampler(loader), cfg.TRAIN.GRAD_ACCUM_STEPS
    num_steps = sampler.steps_per_epoch
    sampler.set_epoch(epoch)
    # Dropout, drop path and mixup draw from here on: the same in a resumed run.
    seed_everything(cfg.RNG_SEED, epoch, get_rank())
    forward.train()
    meters = TrainMeters(cfg.TRAIN.BATCH_SIZE, accum_steps=num_accum, device=device)
    batches = iter(loader)
    bar = tqdm(
        range(num_steps),
        desc=f"epoch {epoch + 1}/{cfg.SOLVER.MAX_EPOCH}",
        leave=False,
        disable=None if is_main_process() else True,
    )
    for step in bar:
        lr = compute_lr(epoch + step / num_steps)
        set_lr(state.optimizer, lr)
        for accum in range(num_accum):
            batch = meters.time_data(batches)
            state.bad_videos.update(batch)
            with _no_sync(forward, accum < num_accum - 1), autocast(device, cfg.TRAIN.PRECISION):
                loss, report = compute_loss(forward, batch)
            state.scaler.scale(loss / num_accum).backward()
            meters.update({"loss": loss, **report})
        _update_weights(cfg, state)
        if (step + 1) % cfg.LOG_PERIOD == 0 or (step + 1 == num_steps and _is_logged(cfg, epoch, num_steps)):
            stats = meters.compute()
            bar.set_postfix_str(f"loss {stats['loss']:.4f}, {stats['clips_per_sec']:.1f} clips/s")
            _log_step(cfg, state, stats, lr=lr, step=step, num_steps=num_steps, writer=writer)


def _update_weights(cfg: CfgNode, state: TrainState) -> None:
    state.scaler.unscale_(state.optimizer)
    if cfg.SOLVER.CLIP_GRAD_L2NORM:
        nn.utils.clip_grad_norm_(state.model.parameters(), cfg.SOLVER.CLIP_GRAD_L2NORM)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    if state.ema:
        state.ema.update_parameters(state.model)


def _run_validation(cfg: CfgNode, state: TrainState, validate: Validate, writer: SummaryWriter | None) -> bool:
    """Validates, logs, and says whether this is the best top-1 so far."""
    stats = {"_type": "val_epoch", "epoch": f"{state.epoch}/{cfg.SOLVER.MAX_EPOCH}", **validate(state)}
    is_best = stats.get("top1", -1.0) > state.best_top1
    if is_best:
        state.best_top1 = stats["top1"]
    _log(cfg, {**stats, "best_top1": state.best_top1} if "top1" in stats else stats, writer, step=state.epoch)
    accuracies = ", ".join(f"{name} {value:.2f} %" for name, value in stats.items() if "top" in name)
    logger.info("epoch %s validated: %s", stats["epoch"], accuracies)
    return is_best


def _log_step(
    cfg: CfgNode,
    state: TrainState,
    stats: dict[str, Any],
    *,
    lr: float,
    step: int,
    num_steps: int,
    writer: SummaryWriter | None,
) -> None:
    steps_done = state.epoch * num_steps + step + 1
    eta_sec = stats["step_time_sec"] * (cfg.SOLVER.MAX_EPOCH * num_steps - steps_done)
    stats = {
        "_type": "train_iter",
        "epoch": f"{state.epoch + 1}/{cfg.SOLVER.MAX_EPOCH}",
        "iter": f"{step + 1}/{num_steps}",
        "lr": lr,
        **stats,
        "bad_videos": len(state.bad_videos.reasons),
        "eta": format_duration(eta_sec),
    }
    if not torch.isfinite(torch.tensor(stats["loss"])):
        raise FloatingPointError(
            f"the loss is {stats['loss']} at epoch {stats['epoch']}, step {stats['iter']}, learning rate {lr:.3g}; the "
            "checkpoints are from before. Lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_EPOCHS, set "
            "SOLVER.CLIP_GRAD_L2NORM, or try TRAIN.PRECISION fp32"
        )
    _log(cfg, stats, writer, step=steps_done)


def _log(cfg: CfgNode, stats: dict[str, Any], writer: SummaryWriter | None, *, step: int) -> None:
    if not is_main_process():
        return
    log_json_stats(stats, output_dir=cfg.OUTPUT_DIR)
    if writer:
        group = stats["_type"].split("_")[0]
        for name, value in stats.items():
            if isinstance(value, int | float):
                writer.add_scalar(f"{group}/{name}", value, step)


def _wrap(cfg: CfgNode, model: nn.Module) -> nn.Module:
    if cfg.MODEL.COMPILE:
        model = cast(nn.Module, torch.compile(model))
    if is_initialized():
        device = get_device()
        ids = [device.index] if device.type == "cuda" else None
        model = DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True)
    return model


def _no_sync(forward: nn.Module, skip: bool) -> contextlib.AbstractContextManager:
    # Gradients of all but the last accumulation step need not travel between ranks.
    if skip and isinstance(forward, DistributedDataParallel):
        return forward.no_sync()
    return contextlib.nullcontext()


def _open_output(cfg: CfgNode) -> SummaryWriter | None:
    if not is_main_process():
        return None
    (Path(cfg.OUTPUT_DIR) / "config.yaml").write_text(dump_config(cfg))
    return SummaryWriter(Path(cfg.OUTPUT_DIR) / "tensorboard") if cfg.TENSORBOARD.ENABLE else None


def _is_logged(cfg: CfgNode, epoch: int, num_steps: int) -> bool:
    """Whether the end of an epoch gets a log line; of epochs shorter than LOG_PERIOD not each, but always the last."""
    return (epoch + 1) % math.ceil(cfg.LOG_PERIOD / num_steps) == 0 or epoch + 1 == cfg.SOLVER.MAX_EPOCH


def _is_due(cfg: CfgNode, period_epochs: int, epoch: int) -> bool:
    return bool(period_epochs) and (epoch % period_epochs == 0 or epoch == cfg.SOLVER.MAX_EPOCH)

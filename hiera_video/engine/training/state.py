"""What changes while training: how it starts, what a checkpoint holds of it, and how it resumes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hiera_video.config import config_from_text, dump_config
from hiera_video.engine.batch import BadVideos
from hiera_video.engine.checkpoint import (
    find_last_checkpoint,
    get_best_path,
    get_checkpoint_path,
    remove_old_checkpoints,
    save_checkpoint,
)
from hiera_video.models.checkpoint_file import CheckpointFile, read_checkpoint_file
from hiera_video.models.encoder import HieraEncoder
from hiera_video.models.weights import load_weights
from hiera_video.solver.optimizer import build_optimizer
from hiera_video.utils.distributed import barrier, get_device, is_main_process
from hiera_video.utils.logging import get_logger
from hiera_video.utils.versions import get_versions

logger = get_logger(__name__)


@dataclass
class TrainState:
    """Everything that one epoch hands to the next."""

    model: HieraEncoder
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: AveragedModel | None
    bad_videos: BadVideos
    epoch: int = 0  # finished epochs
    best_top1: float = -1.0

    def get_model_to_use(self) -> HieraEncoder:
        """The model to validate, test and deploy: the moving average if there is one."""
        return cast(HieraEncoder, self.ema.module) if self.ema else self.model


def start_or_resume(cfg: CfgNode, model: HieraEncoder) -> TrainState:
    """The state to train from: the newest checkpoint of OUTPUT_DIR, else TRAIN.CHECKPOINT_FILE_PATH, else fresh.

    Args:
        model: on its device; its weights are overwritten when there is something to load.
    """
    last = find_last_checkpoint(cfg.OUTPUT_DIR) if cfg.TRAIN.AUTO_RESUME else None
    if not last and cfg.TRAIN.CHECKPOINT_FILE_PATH:
        logger.info("%s", load_weights(model, cfg.TRAIN.CHECKPOINT_FILE_PATH))
    state = TrainState(
        model=model,
        optimizer=build_optimizer(cfg, model),
        scaler=torch.amp.GradScaler(get_device().type, enabled=cfg.TRAIN.PRECISION == "fp16"),
        ema=_build_ema(cfg, model),
        bad_videos=BadVideos(cfg.DATA.MAX_BAD_VIDEOS),
    )
    if last:
        _restore(cfg, state, read_checkpoint_file(last))
        logger.info("resumed from %s after epoch %d of %d", last, state.epoch, cfg.SOLVER.MAX_EPOCH)
    return state


def _build_ema(cfg: CfgNode, model: nn.Module) -> AveragedModel | None:
    if not cfg.SOLVER.EMA_DECAY:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(cfg.SOLVER.EMA_DECAY), use_buffers=True)


def save_state(
    cfg: CfgNode, state: TrainState, *, class_names: Sequence[str] | None, is_best: bool, is_due: bool
) -> None:
    """Writes a checkpoint of ``state.epoch`` where one is due, and the best one where it is best; all ranks wait.

    ``model_state`` holds the weights to use; with EMA those are the average, and ``trained_model_state`` the rest.

    Raises:
        FloatingPointError: a weight is not finite; nothing is written.
    """
    for name, parameter in state.model.named_parameters():
        if not parameter.isfinite().all():
            raise FloatingPointError(
                f"{name} is not finite after epoch {state.epoch}; the checkpoints are from before. Lower "
                "SOLVER.BASE_LR or set SOLVER.CLIP_GRAD_L2NORM"
            )
    if is_main_process() and (is_due or is_best):
        content = _make_content(cfg, state, class_names)
        if is_best:
            save_checkpoint(get_best_path(cfg.OUTPUT_DIR), content)
        if is_due:
            save_checkpoint(get_checkpoint_path(cfg.OUTPUT_DIR, state.epoch), content)
            remove_old_checkpoints(cfg.OUTPUT_DIR, keep_last=cfg.TRAIN.CHECKPOINT_KEEP_LAST)
    barrier()


def _make_content(cfg: CfgNode, state: TrainState, class_names: Sequence[str] | None) -> dict[str, Any]:
    content = {
        "model_state": state.get_model_to_use().state_dict(),
        "optimizer_state": state.optimizer.state_dict(),
        "scaler_state": state.scaler.state_dict(),
        "epoch": state.epoch,
        "best_top1": state.best_top1,
        "cfg": dump_config(cfg),
        "tokens_grid": list(state.model.tokens_grid),
        "class_names": list(class_names or []),
        "versions": get_versions(),
    }
    if state.ema:
        content["trained_model_state"] = state.model.state_dict()
        content["ema_num_averaged"] = state.ema.n_averaged
    return content


def _restore(cfg: CfgNode, state: TrainState, file: CheckpointFile) -> None:
    training = file.training
    missing = [key for key in ("optimizer_state", "scaler_state", "best_top1") if key not in training]
    if missing or file.epoch is None:
        raise ValueError(
            f"{file.source} is not a checkpoint of a training job, so that training cannot resume from it: it has no "
            + ", ".join(missing)
        )
    _warn_of_changes(cfg, file.config)
    if state.ema:
        if "trained_model_state" not in training:
            raise ValueError("SOLVER.EMA_DECAY is set, but the checkpoint to resume from was written without EMA")
        state.ema.module.load_state_dict(file.weights)
        state.ema.n_averaged.copy_(training["ema_num_averaged"])
    state.model.load_state_dict(training.get("trained_model_state", file.weights))
    # On a CPU the optimizer would keep the file's own tensors: a copy lets go of the file.
    state.optimizer.load_state_dict(copy.deepcopy(training["optimizer_state"]))
    state.scaler.load_state_dict(training["scaler_state"])
    state.epoch, state.best_top1 = file.epoch, training["best_top1"]


def _warn_of_changes(cfg: CfgNode, stored: str) -> None:
    try:
        old = dump_config(config_from_text(stored)).splitlines()
    except ValueError as error:
        logger.warning("the checkpoint's config is of another version: %s", error)
        return
    changed = sorted(set(dump_config(cfg).splitlines()) - set(old))
    if changed:
        logger.warning(
            "resuming with a config that differs from the checkpoint's; now: %s",
            "; ".join(line.strip() for line in changed),
        )

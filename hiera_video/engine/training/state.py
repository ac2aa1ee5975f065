"""What changes while training, and how a checkpoint holds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, cast

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hiera_video.config import dump_config
from hiera_video.engine.checkpoint import compute_digest
from hiera_video.engine.training.bad_videos import BadVideos
from hiera_video.models.checkpoint_file import CheckpointFile
from hiera_video.models.encoder import HieraEncoder
from hiera_video.models.sharding import (
    compute_sharded_bytes,
    gather_model,
    gather_state,
    get_local,
    make_skeleton,
    shard_model,
)
from hiera_video.solver.optimizer import build_optimizer
from hiera_video.utils.distributed import all_gather_objects, get_device, get_world_size, is_main_process
from hiera_video.utils.logging import get_logger
from hiera_video.utils.trees import copy_to_cpu, map_tensors
from hiera_video.utils.versions import get_versions

logger = get_logger(__name__)


class MovingAverage(AveragedModel):
    """An exponential moving average of a model's weights and buffers.

    Differs: torch's own keeps the count of updates on the device and reads it in each update, which waits for the
        device; here it is on the CPU. The numbers are the same.

    Args:
        decay: share of the average that an update keeps; the first one copies the weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, use_buffers=True)
        self.update_average = get_ema_multi_avg_fn(decay)
        self.n_averaged = torch.zeros((), dtype=torch.int64, device="cpu")

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Takes the model's weights as they are now into the average."""
        averages = [get_local(value) for value in chain(self.module.parameters(), self.module.buffers())]
        values = [get_local(value) for value in chain(model.parameters(), model.buffers())]
        if self.n_averaged:
            self.update_average(averages, values, self.n_averaged)
        else:
            torch._foreach_copy_(averages, values)
        self.n_averaged += 1


@dataclass
class TrainState:
    """Everything that one optimizer step hands to the next."""

    model: HieraEncoder
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: MovingAverage | None
    bad_videos: BadVideos
    epoch: int = 0  # finished epochs
    step: int = 0  # finished optimizer steps of the epoch that runs
    best_score: float = -1.0  # of a validation, see `run_training`
    num_worse: int = 0  # validations since the best one
    is_validated: bool = True  # False after a resume at the end of an epoch whose validation is not known
    saved_at_ns: int | None = None  # when the newest checkpoint was taken, which tells it apart from all others
    num_bad_steps: int = 0  # steps that were left out
    first_loss: float | None = None  # of the first log line
    log_rows: list[dict[str, float]] = field(default_factory=list)  # of the steps since the last log line
    skeleton: HieraEncoder | None = None  # of a model that is divided over the processes, see `make_skeleton`

    def get_model_to_use(self) -> HieraEncoder:
        """The model to validate, test and deploy: the moving average if there is one.

        Where it is divided over the processes, all call this together, and each gets a whole copy of its own.
        """
        return gather_model(self._model_to_use, self.skeleton) if self.skeleton else self._model_to_use

    @property
    def _model_to_use(self) -> HieraEncoder:
        return cast(HieraEncoder, self.ema.module) if self.ema else self.model

    def copy_weights(self, *, to_use: bool = False) -> dict[str, torch.Tensor]:
        """The whole weights in the main process's memory of the CPU, and elsewhere nothing; all call it together.

        Args:
            to_use: those of `get_model_to_use`, not of the model that is trained.
        """
        named = gather_state(self._model_to_use if to_use else self.model)
        return {name: copy_to_cpu(value) for name, value in named if is_main_process()}

    def name_progress(self) -> str:
        """How far training is, for messages."""
        within = f" and {self.step} steps of epoch {self.epoch + 1}" if self.step else ""
        return f"{self.epoch} epochs{within}"

    def compute_digest(self) -> str:
        """See `hiera_video.engine.checkpoint.compute_digest`; processes that train together must have the same.

        Of what is divided over them, only the shapes count.
        """
        whole = map_tensors(get_content_to_continue(self), _leave_out_pieces) if self.skeleton else None
        return compute_digest(whole or get_content_to_continue(self))


def is_divided(cfg: CfgNode) -> bool:
    """Whether the processes of a run divide its model among them, as TRAIN.SHARDING says."""
    return bool(cfg.TRAIN.SHARDING != "none" and get_world_size() > 1)


def build_state(cfg: CfgNode, model: HieraEncoder) -> TrainState:
    """The state of a run that has not begun. The model is on its device, with the weights to start from.

    With TRAIN.SHARDING it is divided here over the processes, and so are the average and the optimizer's moments.
    """
    ema = None
    if cfg.SOLVER.EMA_DECAY:
        ema = MovingAverage(model, cfg.SOLVER.EMA_DECAY)
    skeleton = None
    if cfg.TRAIN.SHARDING != "none" and not is_divided(cfg):
        logger.info("TRAIN.SHARDING %s: one process alone has nothing to divide", cfg.TRAIN.SHARDING)
    if is_divided(cfg):
        logger.info("%s", _describe_sharding(cfg, model))
        skeleton = make_skeleton(model)
        for whole in (model, ema.module) if ema else (model,):
            shard_model(whole, sharding=cfg.TRAIN.SHARDING, precision=cfg.TRAIN.PRECISION)
    return TrainState(
        model=model,
        optimizer=build_optimizer(cfg, model),
        scaler=torch.amp.GradScaler(get_device().type, enabled=cfg.TRAIN.PRECISION == "fp16"),
        ema=ema,
        bad_videos=BadVideos(cfg.DATA.MAX_BAD_VIDEOS),
        skeleton=skeleton,
    )


def _describe_sharding(cfg: CfgNode, model: nn.Module) -> str:
    num_moments = 2 if cfg.SOLVER.OPTIMIZING_METHOD == "adamw" else int(cfg.SOLVER.MOMENTUM > 0)
    whole, divided = (
        compute_sharded_bytes(
            model,
            sharding=sharding,
            num_processes=get_world_size(),
            precision=cfg.TRAIN.PRECISION,
            num_moments=num_moments,
            has_average=bool(cfg.SOLVER.EMA_DECAY),
        ).total
        for sharding in ("none", cfg.TRAIN.SHARDING)
    )
    return (
        f"TRAIN.SHARDING {cfg.TRAIN.SHARDING} over {get_world_size()} processes: each holds at most "
        f"{divided / 1e6:.1f} MB of weights, gradients and moments instead of {whole / 1e6:.1f} MB, beside activations"
    )


def get_content_to_continue(state: TrainState) -> dict[str, Any]:
    """The part of a checkpoint that training goes on from; shares its tensors with ``state``.

    ``model_state`` holds the weights to use; with EMA those are the average, and ``trained_model_state`` the rest.
    """
    content: dict[str, Any] = {
        "model_state": (state.ema.module if state.ema else state.model).state_dict(),
        "optimizer_state": state.optimizer.state_dict(),
        "scaler_state": state.scaler.state_dict(),
        "epoch": state.epoch,
        "step": state.step,
        "best_score": state.best_score,
    }
    if state.ema:
        content["trained_model_state"] = state.model.state_dict()
        content["ema_num_averaged"] = state.ema.n_averaged
    return content


def make_content(
    cfg: CfgNode, state: TrainState, *, num_videos: int, class_names: Sequence[str] | None
) -> dict[str, Any]:
    """What a checkpoint of ``state`` holds; shares its tensors with it."""
    return {
        **get_content_to_continue(state),
        "num_worse": state.num_worse,
        "num_bad_steps": state.num_bad_steps,
        "first_loss": state.first_loss,
        "log_rows": [dict(row) for row in state.log_rows],
        "bad_videos": state.bad_videos.get_state(),
        "num_processes": get_world_size(),
        "num_videos": num_videos,
        "cfg": dump_config(cfg),
        "tokens_grid": list(state.model.tokens_grid),
        "decoder_num_heads": getattr(state.model, "decoder_num_heads", None),
        "class_names": list(class_names or []),
        "versions": get_versions(),
        "saved_at_ns": state.saved_at_ns,
    }


def make_content_to_use(content: dict[str, Any], weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Of what `make_content` gives, the part that says what weights are of, with these whole weights.

    Nothing can be resumed from it, since no state of an optimizer makes it three times as large.
    """
    kept = ("epoch", "best_score", "cfg", "tokens_grid", "decoder_num_heads", "class_names", "versions", "saved_at_ns")
    return {"model_state": weights, "optimizer_state": {}, **{key: content[key] for key in kept}}


def _leave_out_pieces(tensor: torch.Tensor) -> torch.Tensor:
    return torch.tensor(tensor.shape) if hasattr(tensor, "to_local") else tensor


def check_weights_finite(state: TrainState) -> None:
    """Raises FloatingPointError for a weight that is not finite; of a divided model, in all processes."""
    named = state.model.named_parameters()
    found = next((name for name, parameter in named if not get_local(parameter).isfinite().all()), "")
    if state.skeleton:
        found = next(filter(None, all_gather_objects(found)), "")
    if found:
        raise FloatingPointError(
            f"{found} is not finite after {state.name_progress()}; the checkpoints are from before. Lower "
            "SOLVER.BASE_LR or set SOLVER.CLIP_GRAD_L2NORM"
        )


def restore_state(state: TrainState, file: CheckpointFile) -> None:
    """Makes ``state`` what a checkpoint holds. The optimizer keeps the settings that it was built with.

    Raises:
        ValueError: the file is of a model with other parameters, or of a run that was with or without EMA.
    """
    training = file.training
    has_ema = "trained_model_state" in training
    if has_ema != bool(state.ema):
        raise ValueError(
            f"SOLVER.EMA_DECAY is {'set' if state.ema else '0'}, but {file.source}, from which the run resumes, was "
            f"written with{'' if has_ema else 'out'} EMA; that cannot change within a run"
        )
    if state.ema:
        state.ema.module.load_state_dict(file.weights)
        state.ema.n_averaged.copy_(training["ema_num_averaged"])
    state.model.load_state_dict(training.get("trained_model_state", file.weights))
    _restore_optimizer(state.optimizer, training["optimizer_state"], file.source)
    state.scaler.load_state_dict(training["scaler_state"])
    state.epoch, state.best_score = cast(int, file.epoch), training["best_score"]
    state.step = training.get("step", 0)
    state.saved_at_ns = training.get("saved_at_ns")
    state.num_worse = training.get("num_worse", 0)
    state.num_bad_steps = training.get("num_bad_steps", 0)
    state.first_loss = training.get("first_loss")
    state.log_rows[:] = training.get("log_rows", [])
    state.bad_videos.set_state(training.get("bad_videos", []))


def _restore_optimizer(optimizer: torch.optim.Optimizer, stored: dict[str, Any], source: str) -> None:
    """Gives each parameter its moments by its name: the groups may be others now, as their settings may change."""
    numbers = {
        name: number
        for group in stored["param_groups"]
        for name, number in zip(group["names"], group["params"], strict=True)
    }
    current = optimizer.state_dict()
    names = {
        number: name
        for group in current["param_groups"]
        for name, number in zip(group["names"], group["params"], strict=True)
    }
    if set(names.values()) != set(numbers):
        different = sorted(set(names.values()) ^ set(numbers))
        raise ValueError(f"{source} has an optimizer for other parameters; the first that differs is {different[0]}")
    # On a CPU the optimizer would keep the file's own tensors: a copy lets go of the file.
    moments = map_tensors(stored["state"], lambda tensor: tensor.clone())
    state = {number: moments[numbers[name]] for number, name in names.items() if numbers[name] in moments}
    for group, before in zip(current["param_groups"], stored["param_groups"], strict=False):
        group["lr"] = before["lr"]  # until the next step sets it
    optimizer.load_state_dict({"state": state, "param_groups": current["param_groups"]})

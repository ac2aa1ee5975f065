"""A step whose loss or gradient is not finite: what it was made of is written down, so that it can be done again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from fvcore.common.config import CfgNode
from torch import nn

from hiera_video.config import config_from_text, dump_config
from hiera_video.engine.batch import autocast
from hiera_video.engine.checkpoint import save_checkpoint
from hiera_video.engine.training.state import TrainState
from hiera_video.models.sharding import get_local, is_sharded
from hiera_video.utils.distributed import get_device, get_rank, is_main_process
from hiera_video.utils.logging import get_logger
from hiera_video.utils.rng import seed_everything

logger = get_logger(__name__)

_MAX_NAMED = 16  # videos in a message; the file names them all
# (model as it is called, batch of the loader) -> loss, and tensors to report the mean of
ComputeLoss = Callable[[nn.Module, dict[str, Any]], tuple[torch.Tensor, dict[str, torch.Tensor]]]


def leave_out_step(
    cfg: CfgNode,
    state: TrainState,
    batches: Sequence[dict[str, Any]],
    paths: Sequence[str],
    *,
    loss: float,
    grad_norm: float,
    lr: float,
) -> None:
    """Counts, names and writes down a step that cannot be taken; all processes call it.

    Args:
        batches: of this process.
        paths: of their videos.
        loss: mean over the processes.

    Raises:
        FloatingPointError: there are more such steps than SOLVER.MAX_BAD_STEPS.
    """
    state.num_bad_steps += 1
    folder = Path(cfg.OUTPUT_DIR) / "bad_steps" / f"epoch_{state.epoch + 1:05d}_step_{state.step + 1:07d}"
    _write(cfg, state, batches, paths, lr=lr, folder=folder)
    what = f"the loss is {loss:.4g} and the norm of the gradient {grad_norm:.4g}"
    place = f"epoch {state.epoch + 1}/{cfg.SOLVER.MAX_EPOCH}, step {state.step + 1}, learning rate {lr:.3g}"
    names = ", ".join(paths[:_MAX_NAMED]) + (" ..." if len(paths) > _MAX_NAMED else "")
    message = f"{what} at {place}; {folder} holds the batches and weights. Videos of rank {get_rank()}: {names}"
    if state.num_bad_steps > cfg.SOLVER.MAX_BAD_STEPS:
        raise FloatingPointError(
            f"{message}. SOLVER.MAX_BAD_STEPS = {cfg.SOLVER.MAX_BAD_STEPS} such steps may be left out; the checkpoints "
            "are from before. Lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_EPOCHS, set SOLVER.CLIP_GRAD_L2NORM, or try "
            "TRAIN.PRECISION fp32"
        )
    logger.warning(
        "%s. This step is left out, number %d of at most %d", message, state.num_bad_steps, cfg.SOLVER.MAX_BAD_STEPS
    )


def _write(
    cfg: CfgNode,
    state: TrainState,
    batches: Sequence[dict[str, Any]],
    paths: Sequence[str],
    *,
    lr: float,
    folder: Path,
) -> None:
    tensors = [{key: value for key, value in batch.items() if key != "bad"} for batch in batches]
    place = {"epoch": state.epoch, "step": state.step, "rank": get_rank(), "lr": lr, "paths": list(paths)}
    weights = state.copy_weights()
    try:
        if is_main_process():
            save_checkpoint(folder / "weights.pth", {"model_state": weights})
        content = {**place, "batches": tensors, "loss_scale": state.scaler.get_scale(), "cfg": dump_config(cfg)}
        save_checkpoint(folder / f"rank_{get_rank()}.pth", content)
    except OSError as error:
        logger.error("%s cannot be written: %s", folder, error)


def replay_bad_step(
    folder: str | Path, build_job: Callable[[CfgNode], tuple[nn.Module, ComputeLoss]], *, rank: int = 0
) -> tuple[float, float]:
    """Computes a step that was left out once more, as the process ``rank`` did.

    Args:
        folder: one below OUTPUT_DIR/bad_steps.
        build_job: `build_classification` or `build_pretraining`: config -> model and what computes its loss.

    Returns:
        The mean loss over this process's batches, and the norm of its gradient. Over several processes the gradient
        that was not finite may be that of another one.
    """
    content = torch.load(Path(folder) / f"rank_{rank}.pth", map_location="cpu", weights_only=True)
    cfg = config_from_text(content["cfg"])
    model, compute_loss = build_job(cfg)
    model.load_state_dict(
        torch.load(Path(folder) / "weights.pth", map_location="cpu", weights_only=True)["model_state"]
    )
    seed_everything(cfg.RNG_SEED, content["epoch"], content["step"], content["rank"])
    model.train()
    losses = []
    for batch in content["batches"]:
        with autocast(get_device(), cfg.TRAIN.PRECISION):
            loss, _ = compute_loss(model, batch)
        (loss / len(content["batches"])).backward()
        losses.append(loss.item())
    return math.fsum(losses) / len(losses), compute_grad_norm(model).item()


def compute_grad_norm(model: nn.Module) -> torch.Tensor:
    """L2 norm over the gradients of all parameters; of a divided model, all processes compute it together."""
    norm = nn.utils.get_total_norm([get_local(p.grad) for p in model.parameters() if p.grad is not None])
    if not is_sharded(model):
        return norm
    squares = norm.double().square()
    dist.all_reduce(squares)
    return squares.sqrt().float()


def clip_gradients(model: nn.Module, largest_norm: float, grad_norm: torch.Tensor) -> None:
    """Scales all gradients down where their norm, from `compute_grad_norm`, is above the largest one allowed."""
    if not is_sharded(model):
        nn.utils.clip_grads_with_norm_(model.parameters(), largest_norm, grad_norm)
        return
    factor = (largest_norm / (grad_norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_([get_local(p.grad) for p in model.parameters() if p.grad is not None], factor)

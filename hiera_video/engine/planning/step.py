"""One training step on fake tensors: the memory that it takes and what it computes, without computing it."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode

from hiera_video.data.transforms import normalize_video
from hiera_video.engine.batch import autocast
from hiera_video.engine.planning.gpu_rules import GpuRules
from hiera_video.models.build import build_model_from_cfg
from hiera_video.models.hiera_mae import HieraMAE
from hiera_video.models.layers import HieraBlock
from hiera_video.models.mask_units import draw_mask
from hiera_video.solver.optimizer import build_optimizer
from hiera_video.utils.memory_tracker import MemoryTracker

TASKS = ("classify", "pretrain")
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one process in a training step; together they are the peak.

    Attributes:
        weights: parameters and buffers.
        gradients: as many as there are when most is there; all of them where they are kept from pass to pass.
        optimizer: its state.
        average: of the weights, with SOLVER.EMA_DECAY.
        input: what is left of a batch of clips once the model has begun.
        activations: what the forward pass keeps for the backward pass, copies of weights in 16 bits included.
        temporary: what more there is at the moment when most is there.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    input: int
    activations: int
    temporary: int

    @property
    def peak(self) -> int:
        """The most at once."""
        return self.states + self.of_clips

    @property
    def states(self) -> int:
        """What is there between two passes, whatever the batch."""
        return self.weights + self.gradients + self.optimizer + self.average

    @property
    def of_clips(self) -> int:
        """What a pass adds to that."""
        return self.input + self.activations + self.temporary


def check_task(cfg: CfgNode) -> None:
    """Raises ValueError for a TASK whose steps cannot be looked at without running them."""
    if cfg.TASK not in TASKS:
        raise ValueError(
            f"TASK = {cfg.TASK}: a plan can be made for {' and '.join(TASKS)}; how much a step of {cfg.TASK} takes "
            "depends on the boxes that it meets"
        )


def measure_step(
    cfg: CfgNode, *, num_clips: int, on_gpu: bool = True, keeps_gradients: bool = True, fake: bool = True
) -> StepMemory:
    """The memory of one process in a step with a forward and a backward pass, as the training job takes it.

    Args:
        cfg: TASK is classify or pretrain.
        num_clips: of one forward pass, a multiple of AUG.NUM_SAMPLE.
        on_gpu: as a GPU computes, else as a CPU.
        keeps_gradients: gradients are there while a pass runs, as with several processes or accumulation.
        fake: False computes with real tensors, on the CPU, to compare.

    Raises:
        ValueError: another TASK, or a model that the config cannot have.
    """
    check_task(cfg)
    with torch.device("meta"):
        shapes = build_model_from_cfg(cfg, crop_size=cfg.DATA.TRAIN_CROP_SIZE)
    num_visible = _count_visible(cfg, shapes)
    with _run_as(on_gpu=on_gpu, fake=fake), MemoryTracker() as tracker:
        model = _materialize(shapes, tracker)
        if on_gpu and cfg.MODEL.ACT_CHECKPOINT:
            _keep_rules(model)
        marks = [tracker.current_bytes]
        average = [p.detach().clone() for p in model.parameters()] if cfg.SOLVER.EMA_DECAY else []
        marks.append(tracker.current_bytes)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        marks.append(tracker.current_bytes)
        optimizer = build_optimizer(cfg, model)
        optimizer.step()
        marks.append(tracker.current_bytes)
        weights, of_average, gradients, of_optimizer = (b - a for a, b in zip([0, *marks[:-1]], marks, strict=True))
        if not keeps_gradients:
            optimizer.zero_grad(set_to_none=True)
        model.train()
        tracker.reset_peak()
        before = tracker.current_bytes
        loss, clips = _run_forward(cfg, model, num_clips=num_clips, num_visible=num_visible)
        held = tracker.current_bytes - before
        kept = clips()
        of_input = kept.nbytes() if kept is not None else 0
        del kept
        loss.backward()
        _update(cfg, model, optimizer, average)
        peak = tracker.peak_bytes
        temporary = peak - marks[-1] - held
        return StepMemory(
            weights=weights,
            gradients=gradients + min(temporary, 0),
            optimizer=of_optimizer,
            average=of_average,
            input=of_input,
            activations=held - of_input,
            temporary=max(temporary, 0),
        )


def count_step_flops(cfg: CfgNode, *, recompute: bool = False) -> tuple[int, int]:
    """Floating point operations of one clip: of the forward pass, and of the backward pass.

    Products of matrices and convolutions count, two operations for a multiply-add, attention's two products included;
    what attention's backward pass computes again inside its kernel does not.

    Args:
        cfg: TASK is classify or pretrain.
        recompute: also count in the backward pass what MODEL.ACT_CHECKPOINT computes again.
    """
    check_task(cfg)
    with torch.device("meta"):
        shapes = build_model_from_cfg(cfg, crop_size=cfg.DATA.TRAIN_CROP_SIZE)
    shapes.activation_checkpointing = recompute and cfg.MODEL.ACT_CHECKPOINT
    num_visible, num_clips = _count_visible(cfg, shapes), 2  # of one clip nothing could be mixed
    with _run_as(on_gpu=True, fake=True), MemoryTracker() as tracker:
        model = _materialize(shapes, tracker)
        if recompute and cfg.MODEL.ACT_CHECKPOINT:
            _keep_rules(model)
        model.train()
        with sdpa_kernel(SDPBackend.MATH):  # its products show one by one, forward and backward
            with FlopCounterMode(display=False) as forward:
                loss, _ = _run_forward(cfg, model, num_clips=num_clips, num_visible=num_visible)
            with FlopCounterMode(display=False) as backward:
                loss.backward()
    return forward.get_total_flops() // num_clips, backward.get_total_flops() // num_clips


@contextlib.contextmanager
def _run_as(*, on_gpu: bool, fake: bool) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if fake:
            stack.enter_context(FakeTensorMode())
        if on_gpu:
            stack.enter_context(GpuRules())
        yield


def _materialize(shapes: nn.Module, tracker: MemoryTracker) -> Any:
    """The model with its parameters and buffers as tensors of the mode that is entered; they hold any values."""
    for module in shapes.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            value = torch.zeros(parameter.shape, dtype=parameter.dtype)
            module.register_parameter(name, nn.Parameter(value, requires_grad=parameter.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, torch.zeros(buffer.shape, dtype=buffer.dtype))
    tracker.count([*shapes.parameters(), *shapes.buffers()])
    return shapes


def _keep_rules(model: nn.Module) -> None:
    """Lets `GpuRules` hold in blocks that are computed again: torch leaves such modes in a backward pass."""
    for block in model.modules():
        if isinstance(block, HieraBlock):
            setattr(block, "forward", functools.partial(_run_by_rules, block.forward))  # noqa: B010


def _run_by_rules(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with GpuRules():
        return forward(x)


def _count_visible(cfg: CfgNode, model: nn.Module) -> int:
    """How many mask units of a clip pre-training sees; 0 for other models, which see all."""
    if not isinstance(model, HieraMAE):
        return 0
    return int(draw_mask(model.mask_units_grid, cfg.MAE.MASK_RATIO, kind=cfg.MAE.MASK_TYPE).sum())


def _run_forward(cfg: CfgNode, model: nn.Module, *, num_clips: int, num_visible: int) -> tuple[Tensor, weakref.ref]:
    """What a job does with a batch up to the loss; gives it, and a weak reference to the storage of the clips."""
    with autocast(_CPU, cfg.TRAIN.PRECISION):
        clips = _make_clips(cfg, num_clips)
        storage = weakref.ref(clips.untyped_storage())
        if num_visible:
            visible = torch.arange(num_visible).expand(num_clips, -1).contiguous()
            loss, _, _, _ = model(clips, visible=visible)
        else:
            if cfg.MIXUP.ENABLE:
                clips.mul_(0.5).add_(clips.flip(0).mul_(0.5))
            targets = torch.zeros(num_clips, cfg.MODEL.NUM_CLASSES)
            loss = F.cross_entropy(model(clips).float(), targets)
        return loss, storage


def _make_clips(cfg: CfgNode, num_clips: int) -> Tensor:
    """Bytes as they come to the device, normalized: float32 (N, C, T, H, W)."""
    size = (cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TRAIN_CROP_SIZE)
    clips = torch.zeros(num_clips, 3, *size, dtype=torch.uint8)
    return normalize_video(clips, mean=cfg.DATA.MEAN, std=cfg.DATA.STD)


def _update(cfg: CfgNode, model: nn.Module, optimizer: torch.optim.Optimizer, average: list[Tensor]) -> None:
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    if cfg.SOLVER.CLIP_GRAD_L2NORM:
        nn.utils.clip_grads_with_norm_(model.parameters(), cfg.SOLVER.CLIP_GRAD_L2NORM, norm)
    optimizer.step()
    if average:
        # `MovingAverage` asks how often it was updated, which tensors without content do not know.
        get_ema_multi_avg_fn(cfg.SOLVER.EMA_DECAY)(average, list(model.parameters()), 1)

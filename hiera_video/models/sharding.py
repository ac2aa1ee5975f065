"""Models whose weights are divided over processes (FSDP2), and how many bytes each process then holds.

A parameter of n rows is cut into pieces of ceil(n / processes) rows; the last processes have fewer rows or none, but
room for as many. What is gathered at once is a group: a block, or all that lies outside of blocks.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor, nn

from hiera_video.models.layers import HieraBlock
from hiera_video.utils.distributed import get_world_size

SHARDINGS = ("none", "zero2", "zero3")
_FLOAT_BYTES, _HALF_BYTES = 4, 2
_BLOCKS_AT_ONCE = 2  # that is computed, and the next one, which is gathered meanwhile
AnyModule = TypeVar("AnyModule", bound=nn.Module)


@dataclass(frozen=True)
class ShardedBytes:
    """What the first process, which has the most, holds of a model in training; in bytes.

    Attributes:
        parameters: float32 weights, and buffers.
        gradients: float32, after all processes have shared them.
        moments: of the optimizer.
        average: the moving average of the weights.
        gathered: whole weights that are there to compute with, at most; of autocast their 16-bit copies.
        in_flight: gradients of the largest group on their way to the processes that keep them.
    """

    parameters: int
    gradients: int
    moments: int
    average: int
    gathered: int
    in_flight: int

    @property
    def total(self) -> int:
        """The sum; activations come on top of it."""
        parts = (self.parameters, self.gradients, self.moments, self.average, self.gathered, self.in_flight)
        return sum(parts)


def compute_sharded_bytes(
    model: nn.Module,
    *,
    sharding: str,
    num_processes: int,
    precision: str = "fp32",
    num_moments: int = 2,
    has_average: bool = False,
) -> ShardedBytes:
    """What a process holds in training, beside activations, with TRAIN.SHARDING over ``num_processes``.

    Args:
        model: with float32 weights; may be on the meta device.
        sharding: one of `SHARDINGS`.
        num_processes: over all machines; with 1 nothing is divided.
        precision: TRAIN.PRECISION.
        num_moments: values that the optimizer keeps for each weight: AdamW 2, SGD with momentum 1, without 0.
        has_average: with SOLVER.EMA_DECAY.

    Raises:
        ValueError: an unknown sharding.
    """
    _check_sharding(sharding)
    is_whole = sharding == "none" or num_processes == 1
    divisor = 1 if is_whole else num_processes
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = sum(_count_largest_piece(parameter, divisor) for parameter in model.parameters())
    trained = sum(_count_largest_piece(parameter, divisor) for parameter in learned)
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    is_half = precision != "fp32"
    blocks = [_compute_bytes_to_compute(block, is_half, is_whole) for block in find_blocks(model)]
    outside = _compute_bytes_to_compute(model, is_half, is_whole) - sum(blocks)
    if sharding == "zero3" and not is_whole:
        blocks = sorted(blocks)[-_BLOCKS_AT_ONCE:]
    in_flight = 0
    if not is_whole:
        sizes = [_count(block) for block in find_blocks(model)]
        block_bytes = _HALF_BYTES if is_half else _FLOAT_BYTES
        rest = (_count(model) - sum(sizes)) * 2 * _FLOAT_BYTES
        in_flight = max(rest, max(sizes, default=0) * (block_bytes + _FLOAT_BYTES))
    return ShardedBytes(
        parameters=weights * _FLOAT_BYTES + buffers,
        gradients=trained * _FLOAT_BYTES,
        moments=trained * num_moments * _FLOAT_BYTES,
        average=(weights * _FLOAT_BYTES + buffers) * has_average,
        gathered=outside + sum(blocks),
        in_flight=in_flight,
    )


def shard_model(model: nn.Module, *, sharding: str, precision: str = "fp32") -> None:
    """Divides a model's parameters over all processes, in place; each keeps its pieces as DTensors.

    The model is called as before, by all processes equally often. Under autocast its numbers are those of the whole
    model: weights of matrix products travel in 16 bits, into which autocast would turn them, and all others, such as
    those of norms, in 32. Gradients are added up in 32 bits.

    Args:
        model: on the device to train on, the same in all processes, which form a group.
        sharding: "zero2" (whole weights stay from the forward to the backward pass) or "zero3" (they are gathered
            again, block by block).
        precision: "fp32" or "bf16".

    Raises:
        ValueError: sharding or precision is another.
        RuntimeError: this torch has no `fully_shard`.
    """
    _check_sharding(sharding)
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision must be fp32 or bf16 with sharding, got {precision!r}")
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    except ImportError as error:
        raise RuntimeError(
            f"TRAIN.SHARDING {sharding} needs torch.distributed.fsdp.fully_shard, which torch {torch.__version__} does "
            "not have here: install torch 2.6 or later with distributed support, or set TRAIN.SHARDING none"
        ) from error
    # The outputs are views; nothing here writes into them.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(next(model.parameters()).device.type, (get_world_size(),))
    as_it_is = MixedPrecisionPolicy(cast_forward_inputs=False)
    half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    again = sharding == "zero3"
    for block in find_blocks(model):
        if precision == "bf16":
            norms = [block.norm1, block.norm2]
            fully_shard(norms, mesh=mesh, reshard_after_forward=again, mp_policy=as_it_is)
        fully_shard(block, mesh=mesh, reshard_after_forward=again, mp_policy=half if precision == "bf16" else as_it_is)
    fully_shard(model, mesh=mesh, reshard_after_forward=again, mp_policy=as_it_is)


def find_blocks(model: nn.Module) -> list[HieraBlock]:
    """The blocks of a model: what is gathered at once; everything else is one more group."""
    return [module for module in model.modules() if isinstance(module, HieraBlock)]


def get_local(tensor: Tensor) -> Tensor:
    """This process's piece of a tensor that is divided, which shares its memory; any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard_model` has divided a model."""
    return any(hasattr(parameter, "to_local") for parameter in islice(model.parameters(), 1))


def make_skeleton(model: AnyModule) -> AnyModule:
    """A copy whose parameters have shapes and no values: on the meta device. Buffers are copied."""
    shapes = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, shapes)


def gather_state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The whole tensors of a model's state, one by one, on the model's device; all processes go through it together."""
    for name, value in model.state_dict().items():
        yield name, value.full_tensor() if hasattr(value, "full_tensor") else value


def gather_model(model: nn.Module, skeleton: AnyModule) -> AnyModule:
    """An undivided copy of a divided model, in each process; all call it together.

    Args:
        skeleton: from `make_skeleton`, before the model was divided.
    """
    whole = copy.deepcopy(skeleton)
    whole.load_state_dict(dict(gather_state(model)), assign=True)
    return whole


def _check_sharding(sharding: str) -> None:
    if sharding not in SHARDINGS:
        raise ValueError(f"sharding must be one of {', '.join(SHARDINGS)}, got {sharding!r}")


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _count_largest_piece(parameter: Tensor, divisor: int) -> int:
    """Values in the largest piece, that of the first process."""
    return math.ceil(parameter.shape[0] / divisor) * parameter[:1].numel()


def _compute_bytes_to_compute(module: nn.Module, is_half: bool, is_whole: bool) -> int:
    """What lies beside the kept weights while they are used.

    Whole models need nothing but the 16-bit copies that autocast makes of the weights of products. Of a divided model
    those of blocks arrive in 16 bits, and those outside of blocks get such a copy as well.
    """
    inside = {id(p) for block in find_blocks(module) for p in block.parameters()}
    total = 0
    for part in module.modules():
        is_product = isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d)
        for parameter in part.parameters(recurse=False):
            gathered = 0 if is_whole else _FLOAT_BYTES
            if is_half and is_product:
                gathered = _HALF_BYTES if is_whole or id(parameter) in inside else _FLOAT_BYTES + _HALF_BYTES
            total += parameter.numel() * gathered
    return total

"""What a process holds of a model whose weights, gradients and moments are divided over processes (FSDP)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from hiera_video.models.layers import HieraBlock

SHARDINGS = ("none", "zero2", "zero3")
_FLOAT_BYTES, _HALF_BYTES = 4, 2
_GATHERED_AHEAD = 2  # the block that computes, and the next one


@dataclass(frozen=True)
class ShardedBytes:
    """Bytes of one process, beside activations.

    Attributes:
        parameters: its pieces of the weights, and buffers.
        gradients: of its pieces.
        moments: of the optimizer.
        average: its pieces of the moving average.
        gathered: whole weights, or 16-bit copies of them, that are there to compute with.
        in_flight: gradients of a whole block that are still to be divided.
    """

    parameters: int
    gradients: int
    moments: int
    average: int
    gathered: int
    in_flight: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.gradients + self.moments + self.average + self.gathered + self.in_flight


def compute_sharded_bytes(
    model: nn.Module,
    *,
    sharding: str,
    num_processes: int,
    precision: str = "fp32",
    num_moments: int = 2,
    has_average: bool = False,
) -> ShardedBytes:
    """The bytes of the process that has the most; with one process nothing is divided.

    Args:
        model: may be on the meta device.
        sharding: one of `SHARDINGS`: none divides nothing; zero2 moments and gradients, and the weights between steps;
            zero3 also the weights within a step, block by block.
        num_processes: over all machines.
        precision: TRAIN.PRECISION; products in 16 bits get their weights in 16 bits.
        num_moments: values that the optimizer keeps of each weight.
        has_average: whether there is a moving average.

    Raises:
        ValueError: another sharding.
    """
    if sharding not in SHARDINGS:
        raise ValueError(f"sharding must be one of {', '.join(SHARDINGS)}, got {sharding!r}")
    divides = sharding != "none" and num_processes > 1
    parts = num_processes if divides else 1
    kept = sum(_count_piece(parameter, parts) for parameter in model.parameters()) * _FLOAT_BYTES
    trained = sum(_count_piece(p, parts) for p in model.parameters() if p.requires_grad) * _FLOAT_BYTES
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    is_half = precision != "fp32"
    of_blocks = [_count_gathered(block, is_half, divides) for block in _find_blocks(model)]
    outside = _count_gathered(model, is_half, divides) - sum(of_blocks)
    largest = max((sum(p.nbytes for p in block.parameters()) for block in _find_blocks(model)), default=0)
    if sharding == "zero3" and divides:
        of_blocks = sorted(of_blocks)[-_GATHERED_AHEAD:]
    return ShardedBytes(
        parameters=kept + buffers,
        gradients=trained,
        moments=trained * num_moments,
        average=(kept + buffers) * has_average,
        gathered=outside + sum(of_blocks),
        in_flight=largest * 2 if divides else 0,
    )


def _find_blocks(model: nn.Module) -> list[HieraBlock]:
    return [module for module in model.modules() if isinstance(module, HieraBlock)]


def _count_piece(parameter: Tensor, parts: int) -> int:
    """Values of the first process's rows."""
    return math.ceil(len(parameter) / parts) * parameter[:1].numel()


def _count_gathered(module: nn.Module, is_half: bool, divides: bool) -> int:
    """Bytes of whole weights beside the kept ones: those of products in 16 bits where they are computed so."""
    total = 0
    for part in module.modules():
        in_half = is_half and isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
        each = _HALF_BYTES if in_half else _FLOAT_BYTES * divides
        total += sum(parameter.numel() for parameter in part.parameters(recurse=False)) * each
    return total

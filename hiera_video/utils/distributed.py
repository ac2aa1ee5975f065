"""Ranks, devices and collectives; every function also works in a single process without a process group."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist

from hiera_video.utils.trees import map_tensors


def is_initialized() -> bool:
    """Whether this process belongs to a process group."""
    return dist.is_available() and dist.is_initialized()


def get_rank() -> int:
    """Position of this process among all, in [0, world size)."""
    return dist.get_rank() if is_initialized() else 0


def get_world_size() -> int:
    """Number of processes, over all machines."""
    return dist.get_world_size() if is_initialized() else 1


def get_local_rank() -> int:
    """Position of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def get_local_world_size() -> int:
    """Number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this is the process that logs and writes files."""
    return get_rank() == 0


def get_device() -> torch.device:
    """This process's GPU, or the CPU where there is none. Some launchers show each process only its own GPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", get_local_rank() % torch.cuda.device_count())


def barrier() -> None:
    """Waits until every process has reached this call."""
    if is_initialized():
        dist.barrier()


def all_gather_objects(value: Any) -> list[Any]:
    """Every process's ``value`` in rank order, on every process. The values may differ in size."""
    if not is_initialized():
        return [value]
    values: list[Any] = [None] * get_world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_tree(value: Any) -> Any:
    """Rank 0's ``value`` on every process; the tensors inside travel one by one and arrive in the CPU's memory."""
    if not is_initialized():
        return value
    is_sender = is_main_process()
    shapes = [map_tensors(value, lambda tensor: tensor.to("meta")) if is_sender else None]
    dist.broadcast_object_list(shapes)

    def travel(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.cpu().contiguous() if is_sender else torch.empty_like(tensor, device="cpu")
        dist.broadcast(tensor, src=0)
        return tensor

    return map_tensors(value if is_sender else shapes[0], travel)


def all_reduce_mean(tensor: torch.Tensor) -> torch.Tensor:
    """Mean of ``tensor`` over the processes; all must call it with the same shape."""
    if not is_initialized():
        return tensor
    tensor = tensor.clone()
    dist.all_reduce(tensor)
    return tensor / get_world_size()

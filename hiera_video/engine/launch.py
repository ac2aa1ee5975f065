"""Runs jobs in one process, in one process a GPU, or as a member of a torchrun group."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from fvcore.common.config import CfgNode
from torch.multiprocessing.spawn import spawn

from hiera_video.utils.distributed import get_device, is_main_process
from hiera_video.utils.logging import get_logger, setup_logging

Job = Callable[[CfgNode], None]
_TIMEOUT = timedelta(minutes=30)  # a rank that waits longer for another stops with an error instead of hanging


def launch(jobs: Sequence[Job], cfg: CfgNode) -> None:
    """Runs each job in turn, in all processes that ``cfg.NUM_GPUS`` or torchrun ask for.

    Raises:
        ValueError: more GPUs are asked for than this machine has, or fp16 without a GPU.
    """
    for name, section in (("TRAIN", cfg.TRAIN), ("EXTRACT", cfg.EXTRACT)):
        if section.ENABLE and section.PRECISION == "fp16" and not torch.cuda.is_available():
            raise ValueError(f"{name}.PRECISION fp16 needs a GPU, and none is visible; use bf16 or fp32")
    if "TORCHELASTIC_RUN_ID" in os.environ or "RANK" in os.environ:
        _run_in_group(jobs, cfg)
        return
    num_processes = _compute_num_processes(cfg.NUM_GPUS, torch.cuda.device_count())
    if num_processes == 1:
        _run(jobs, cfg)
    else:
        spawn(_run_spawned, args=(num_processes, _find_free_port(), jobs, cfg), nprocs=num_processes)


def _compute_num_processes(num_gpus: int, available: int) -> int:
    if num_gpus > available:
        raise ValueError(
            f"NUM_GPUS = {num_gpus}, but this machine has {available} visible GPUs; -1 takes what there is, 0 is one "
            "CPU process (for several: torchrun --nproc_per_node N tools/run_net.py ...)"
        )
    return max(available if num_gpus < 0 else num_gpus, 1)


def _find_free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def _run_spawned(rank: int, num_processes: int, port: int, jobs: Sequence[Job], cfg: CfgNode) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(num_processes),
        LOCAL_WORLD_SIZE=str(num_processes),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    _run_in_group(jobs, cfg)


def _run_in_group(jobs: Sequence[Job], cfg: CfgNode) -> None:
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        _run(jobs, cfg)
    finally:
        dist.destroy_process_group()


def _run(jobs: Sequence[Job], cfg: CfgNode) -> None:
    setup_logging(cfg.OUTPUT_DIR, is_main=is_main_process())
    for job in jobs:
        try:
            job(cfg)
        except Exception:
            # The terminal gets the one-line reason from the caller; the whole traceback belongs in the log file.
            get_logger(__name__).debug("%s failed", job.__name__, exc_info=True)
            raise

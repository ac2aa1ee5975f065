"""Runs jobs in one process, in one process a GPU, or as a member of a group that torchrun or srun has started."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from fvcore.common.config import CfgNode
from torch.distributed.elastic.multiprocessing.errors import record

from hiera_video.engine.arithmetic import describe_start, set_arithmetic
from hiera_video.engine.group_watch import GroupWatch, end_with_parent
from hiera_video.engine.job_report import write_job_report
from hiera_video.engine.output_lock import lock_output
from hiera_video.engine.supervise import run_processes
from hiera_video.utils.distributed import barrier, get_device, get_rank, is_initialized, is_main_process
from hiera_video.utils.interrupt import EXIT_START_AGAIN, Interrupted, stop_on_signals
from hiera_video.utils.logging import get_logger, setup_logging
from hiera_video.utils.slurm import compute_group_variables

Job = Callable[[CfgNode], None]
_TIMEOUT = timedelta(minutes=30)  # of a collective; a process that fails is found much sooner, by `GroupWatch`


class GroupFailed(RuntimeError):
    """Another process of the group failed before this one."""


def launch(jobs: Sequence[Job], cfg: CfgNode) -> None:
    """Runs each job in turn, in all processes that ``cfg.NUM_GPUS``, torchrun or srun ask for.

    SIGTERM, SIGINT and SIGUSR1 ask the jobs to keep what they have and to end; see `Interrupted`.

    Raises:
        ValueError: more GPUs are asked for than this machine has, or fp16 without a GPU.
        OutputInUse: another job writes to OUTPUT_DIR.
        Interrupted: the jobs were asked to stop, and can be started again.
    """
    for name, section in (("TRAIN", cfg.TRAIN), ("EXTRACT", cfg.EXTRACT)):
        if section.ENABLE and section.PRECISION == "fp16" and not torch.cuda.is_available():
            raise ValueError(f"{name}.PRECISION fp16 needs a GPU, and none is visible; use bf16 or fp32")
    os.environ.update(compute_group_variables(os.environ))
    with stop_on_signals():
        if "TORCHELASTIC_RUN_ID" in os.environ or "RANK" in os.environ:
            _run_in_group(jobs, cfg)
            return
        num_processes = _compute_num_processes(cfg.NUM_GPUS, torch.cuda.device_count())
        if num_processes == 1:
            _run(jobs, cfg)
        else:
            run_processes(_run_as_rank, num_processes, (num_processes, _find_free_port(), jobs, cfg))


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


def _run_as_rank(rank: int, num_processes: int, port: int, jobs: Sequence[Job], cfg: CfgNode) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(num_processes),
        LOCAL_WORLD_SIZE=str(num_processes),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    with stop_on_signals():
        _run_in_group(jobs, cfg)


@record  # torchrun then reports the error of the rank that failed first
def _run_in_group(jobs: Sequence[Job], cfg: CfgNode) -> None:
    end_with_parent()
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Tensors of the CPU travel by gloo also where those of the GPU go by NCCL.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    watch = GroupWatch()
    try:
        _run(jobs, cfg)
    except Interrupted:
        watch.end_within(20, status=EXIT_START_AGAIN)
        raise
    except BaseException as error:
        first = watch.fail(f"{type(error).__name__}: {error}")
        if not first.startswith(f"rank {get_rank()}:"):
            raise GroupFailed(f"{first} (failed first)") from error
        raise
    # A group that has failed is not taken down in order: that waits for the processes that are gone.
    barrier()
    watch.close()
    dist.destroy_process_group()


def _run(jobs: Sequence[Job], cfg: CfgNode) -> None:
    setup_logging(cfg.OUTPUT_DIR, rank=get_rank())
    set_arithmetic(cfg)
    get_logger(__name__).info("%s", describe_start(cfg))
    with lock_output(cfg.OUTPUT_DIR) if is_main_process() else contextlib.nullcontext():
        for job in jobs:
            _run_job(job, cfg)
            write_job_report(cfg)


def _run_job(job: Job, cfg: CfgNode) -> None:
    logger = get_logger(__name__)
    try:
        job(cfg)
    except Interrupted as stop:
        logger.debug("%s: %s", job.__name__, stop)
        raise
    except Exception as error:
        # The terminal gets the one-line reason from the caller; the whole traceback belongs in the log file.
        if is_initialized():
            logger.error("rank %d failed in %s: %s: %s", get_rank(), job.__name__, type(error).__name__, error)
        logger.debug("%s failed", job.__name__, exc_info=True)
        raise

"""How exactly and how fast this process computes, as the config says, and what a job says of that at its start."""

from __future__ import annotations

import torch
from fvcore.common.config import CfgNode

from hiera_video.utils.distributed import get_device, get_world_size
from hiera_video.utils.versions import get_versions


def set_arithmetic(cfg: CfgNode) -> None:
    """Sets what MODEL.MATMUL_PRECISION and CUDNN.BENCHMARK say, for the whole process.

    Differs: torch lets convolutions go by TF32 by default, and keeps only matrix products from it. Here one key says
        what both do.
    """
    precision = cfg.MODEL.MATMUL_PRECISION
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision != "highest"
    torch.backends.cudnn.benchmark = cfg.CUDNN.BENCHMARK


def describe_start(cfg: CfgNode) -> str:
    """Two lines: on what the job runs, with which versions; and the keys that decide about its arithmetic."""
    device, versions = get_device(), get_versions()
    names = {name: versions[name] for name in ("hiera_video", "torch", "python")}
    if device.type == "cuda":
        names |= {"CUDA": str(torch.version.cuda), "cuDNN": str(torch.backends.cudnn.version())}
    software = ", ".join(f"{name} {version}" for name, version in names.items())
    keys = {
        "MODEL.MATMUL_PRECISION": cfg.MODEL.MATMUL_PRECISION,
        "MODEL.COMPILE": cfg.MODEL.COMPILE,
        "CUDNN.BENCHMARK": cfg.CUDNN.BENCHMARK,
    }
    if cfg.TRAIN.ENABLE:
        keys |= {"TRAIN.PRECISION": cfg.TRAIN.PRECISION, "SOLVER.FUSED": cfg.SOLVER.FUSED}
    if cfg.EXTRACT.ENABLE:
        keys["EXTRACT.PRECISION"] = cfg.EXTRACT.PRECISION
    threads = f" of {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return (
        f"{get_world_size()} x {device.type} ({versions['device']}{threads}); {software}\n"
        f"arithmetic: {', '.join(f'{key} {value}' for key, value in keys.items())}"
    )

"""The machine that a process runs on: system, processor, cores and GPUs. It imports torch only when it needs it."""

from __future__ import annotations

import os
import platform
from collections import Counter

_CPU_INFO = "/proc/cpuinfo"  # Linux has it
_STATUS = "/proc/self/status"  # likewise


def count_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_machine() -> dict[str, str]:
    """``system``, ``cpu`` (model and usable cores) and ``gpu`` (models, memory, and PyTorch's version of CUDA)."""
    return {
        "system": platform.platform(),
        "cpu": f"{read_cpu_info('model name') or platform.processor() or platform.machine()}, {count_cores()} cores",
        "gpu": _describe_gpus(),
    }


def read_cpu_info(wanted: str) -> str:
    """What Linux says of the first processor, such as its "model name" or "vendor_id"; "" where it does not."""
    if os.path.exists(_CPU_INFO):
        with open(_CPU_INFO) as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() == wanted:
                    return value.strip()
    return ""


def _describe_gpus() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none"
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    counts = Counter(f"{device.name}, {device.total_memory / 2**30:.0f} GiB" for device in devices)
    return "; ".join(f"{count} x {text}" for text, count in counts.items()) + f"; CUDA {torch.version.cuda}"


def read_process_memory() -> int:
    """Bytes of memory that this process takes now (resident set; 0 where the system does not say)."""
    if not os.path.exists(_STATUS):
        return 0
    with open(_STATUS) as file:
        return next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS:")), 0)

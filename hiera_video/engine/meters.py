"""What is measured while training: means over a period, times, memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from typing import Any

import torch

from hiera_video.utils.distributed import all_reduce_mean


class Stopwatch:
    """Seconds since the last call of `lap`."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Seconds since construction or the last lap."""
        now = time.perf_counter()
        elapsed, self._last = now - self._last, now
        return elapsed


class TrainMeters:
    """What a log line reports, since the one before.

    Values stay on their device until `compute`, so that the device is waited for once a period and not in each step.

    Args:
        batch_size: clips per optimizer step, over all ranks.
        accum_steps: batches per optimizer step.
        device: whose memory is reported.
    """

    def __init__(self, batch_size: int, *, accum_steps: int, device: torch.device) -> None:
        self.batch_size, self.accum_steps, self.device = batch_size, accum_steps, device
        self._values: list[dict[str, torch.Tensor]] = []
        self._watch, self._data_sec = Stopwatch(), 0.0

    def time_data(self, batches: Iterator[dict[str, Any]]) -> dict[str, Any]:
        """The next batch; the wait for it counts as data time."""
        watch = Stopwatch()
        batch = next(batches)
        self._data_sec += watch.lap()
        return batch

    def update(self, values: dict[str, torch.Tensor]) -> None:
        """Takes the scalars of one batch, with the same names each time."""
        self._values.append({name: value.detach().float() for name, value in values.items()})

    def compute(self) -> dict[str, Any]:
        """Means over steps and ranks since the last call, speed and memory; starts anew. All ranks must call it."""
        names = list(self._values[0])
        local = torch.stack([torch.stack([values[name] for values in self._values]).mean() for name in names])
        means = dict(zip(names, all_reduce_mean(local).tolist(), strict=True))  # waits for the device
        steps = len(self._values) / self.accum_steps
        step_sec, data_sec = self._watch.lap() / steps, self._data_sec / steps
        self._values, self._data_sec = [], 0.0
        return {
            **means,
            "clips_per_sec": round(self.batch_size / step_sec, 2),
            "step_time_sec": round(step_sec, 4),
            "data_time_sec": round(data_sec, 4),
            "peak_memory_gb": round(compute_peak_memory_gb(self.device), 2),
        }


def compute_peak_memory_gb(device: torch.device) -> float:
    """Peak memory so far in GiB: allocated on the GPU, or resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB


def format_duration(seconds: float) -> str:
    """``1:02:03`` for 3723 seconds, with days in front where there are any."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}d " if days else "") + f"{hour}:{minute:02d}:{second:02d}"

"""What is measured while training: means over a period, times, memory."""

from __future__ import annotations

import contextlib
import math
import resource
import statistics
import time
from collections.abc import Callable, Iterator
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

    def peek(self) -> float:
        """Seconds as `lap` gives them, without beginning a new lap."""
        return time.perf_counter() - self._last


class Goodput:
    """The share of time in which the device worked on steps, rather than waited for data, a validation or a log.

    A step counts from the moment when its data are there until its update is asked for. It waits for the device once,
    for its values, so the process is ahead of a GPU by no more than the update. What a GPU still does of that while the
    process waits for late data does not count; gaps between the GPU's kernels within a step do.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._began, self._worked_sec = clock, clock(), 0.0

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """The device works in this block."""
        start = self._clock()
        yield
        self._worked_sec += self._clock() - start

    def lap(self) -> float:
        """The share since construction or the last lap, in [0, 1]."""
        now = self._clock()
        share = self._worked_sec / max(now - self._began, 1e-9)
        self._began, self._worked_sec = now, 0.0
        return round(share, 4)


class TrainMeters:
    """What a log line reports, since the one before.

    Args:
        batch_size: clips per optimizer step, over all ranks.
        device: whose memory is reported.
        rows: means of the steps since the last log line, one dict a step; changed in place. A checkpoint keeps them, so
            that a log line is the same in a resumed run.
    """

    def __init__(self, batch_size: int, *, device: torch.device, rows: list[dict[str, float]]) -> None:
        self.batch_size, self.device, self.rows = batch_size, device, rows
        self._parts: list[dict[str, torch.Tensor]] = []
        self._watch, self._data_sec, self._num_steps = Stopwatch(), 0.0, 0

    def time_data(self, batches: Iterator[dict[str, Any]]) -> dict[str, Any]:
        """The next batch; the wait for it counts as data time."""
        watch = Stopwatch()
        batch = next(batches)
        self._data_sec += watch.lap()
        return batch

    def update(self, values: dict[str, torch.Tensor]) -> None:
        """Takes the scalars of one batch, with the same names each time."""
        self._parts.append(
            {name: value.detach().to(self.device, torch.float32, non_blocking=True) for name, value in values.items()}
        )

    def finish_step(self, **more: torch.Tensor | float) -> dict[str, float]:
        """Means of a step over its batches and over all ranks, which must all call it; waits for the device.

        Args:
            more: numbers that a rank has once a step.
        """
        values = {name: torch.stack([part[name] for part in self._parts]).mean() for name in self._parts[0]}
        values |= {
            name: torch.as_tensor(value, dtype=torch.float32).to(self.device, non_blocking=True)
            for name, value in more.items()
        }
        self._parts, self._num_steps = [], self._num_steps + 1
        return dict(zip(values, all_reduce_mean(torch.stack(list(values.values()))).tolist(), strict=True))

    def compute(self) -> dict[str, Any]:
        """Means over the rows, speed since the last call, memory; starts anew."""
        names = list(self.rows[0]) if self.rows else ["loss"]
        means = {name: statistics.fmean(row[name] for row in self.rows) if self.rows else math.nan for name in names}
        steps = max(self._num_steps, 1)
        step_sec, data_sec = self._watch.lap() / steps, self._data_sec / steps
        self.rows.clear()
        self._data_sec, self._num_steps = 0.0, 0
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

"""What is measured while training: means over a period, times, memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from typing import Any

import torch

from hiera_video.engine.metrics import compute_topk_hits


class Mean:
    """Running mean of tensors that stay on their device until `compute` is called: one synchronisation a period."""

    def __init__(self) -> None:
        self._values: list[torch.Tensor] = []

    def update(self, value: torch.Tensor) -> None:
        """Adds one scalar tensor."""
        self._values.append(value.detach().float())

    def compute(self) -> float:
        """Mean of what was added; NaN when nothing was."""
        return torch.stack(self._values).mean().item() if self._values else float("nan")

    def reset(self) -> None:
        """Forgets everything."""
        self._values.clear()


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

    Args:
        batch_size: clips per optimizer step, over all ranks.
        accum_steps: batches per optimizer step.
        device: whose memory is reported.
    """

    def __init__(self, batch_size: int, *, accum_steps: int, device: torch.device) -> None:
        self.batch_size, self.accum_steps, self.device = batch_size, accum_steps, device
        self.loss, self.top1, self.top5 = Mean(), Mean(), Mean()
        self.watch, self.data_sec, self.batches = Stopwatch(), 0.0, 0

    def time_data(self, batches: Iterator[dict[str, Any]]) -> dict[str, Any]:
        """The next batch; the wait for it counts as data time."""
        watch = Stopwatch()
        batch = next(batches)
        self.data_sec += watch.lap()
        return batch

    def update(self, loss: torch.Tensor, logits: torch.Tensor, target: torch.Tensor) -> None:
        """Takes one batch. Against mixed labels, a hit is the class of the larger share."""
        labels = target if target.ndim == 1 else target.argmax(dim=1)
        hits = compute_topk_hits(logits.detach(), labels).float().mean(dim=1) * 100
        self.loss.update(loss)
        self.top1.update(hits[0])
        self.top5.update(hits[1])
        self.batches += 1

    def compute(self) -> dict[str, Any]:
        """Means since the last call, and starts anew. Loss and accuracies are this rank's, clips/s is of all ranks."""
        loss, top1, top5 = self.loss.compute(), self.top1.compute(), self.top5.compute()  # waits for the device
        steps = self.batches / self.accum_steps
        step_sec, data_sec = self.watch.lap() / steps, self.data_sec / steps
        for meter in (self.loss, self.top1, self.top5):
            meter.reset()
        self.data_sec, self.batches = 0.0, 0
        return {
            "loss": loss,
            "top1": top1,
            "top5": top5,
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

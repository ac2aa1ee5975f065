"""Where the time of a training step goes: a trace for Perfetto, and a table of its parts."""

from __future__ import annotations

import contextlib
import gzip
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import simplejson
import torch

from hiera_video.utils.distributed import get_rank
from hiera_video.utils.files import write_whole
from hiera_video.utils.logging import get_logger
from hiera_video.utils.tables import format_table

logger = get_logger(__name__)

_WARM_UP_STEPS = 3  # steps of a process that are not recorded: memory, kernels and the loader are not settled
PARTS = {
    "data": "waits for the loader",
    "copy": "batch to the device, normalized",
    "forward": "model and loss",
    "backward": "gradients",
    "wait": "for the device's values and for other processes",
    "optimizer": "new weights",
    "other": "logs, checkpoints, progress",
    "communication": "beside the others, which it can overlap",
}
_STEP = "ProfilerStep#"  # torch's name of what lies between two calls of `step`
_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_USEC = 1e-6

Span = tuple[float, float]


class PartTime(NamedTuple):
    """Seconds of a part in a step, the mean over the steps.

    Attributes:
        host_sec: what passed in the process; None where nothing of the kind was seen there.
        device_sec: how long the GPU was at what the part asked for; None without a GPU.
    """

    host_sec: float | None
    device_sec: float | None


class StepTimes(NamedTuple):
    """A step's parts. The parts of `PARTS` but the last lie one after the other in the process, and sum to the step."""

    num_steps: int
    step_sec: float
    parts: dict[str, PartTime]


class StepProfiler:
    """Records some steps of a job by torch's profiler, and writes what it saw.

    As a context manager it ends what is under way; of a job that ends too soon nothing is written.

    Args:
        folder: gets ``rank_N.json.gz``, for Perfetto or chrome://tracing, and ``rank_N.txt``, the table.
        num_steps: how many to record, after a few that are not; 0: none, and nothing happens.
    """

    def __init__(self, folder: Path = Path(), *, num_steps: int = 0) -> None:
        self.folder, self.num_steps = folder, num_steps
        self._num_seen = 0
        self._profile: torch.profiler.profile | None = None

    def __enter__(self) -> StepProfiler:
        return self

    def __exit__(self, *_: object) -> None:
        if self._profile:
            self._profile.on_trace_ready = None
            self._stop()
        if self.num_steps and self._num_seen < _WARM_UP_STEPS + self.num_steps:
            logger.warning(
                "TRAIN.PROFILE_STEPS = %d: no trace; the job ended after %d steps, and the first %d are not recorded",
                self.num_steps,
                self._num_seen,
                _WARM_UP_STEPS,
            )

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Around each step of the job, the wait for its data included."""
        is_due = bool(self.num_steps) and self._num_seen < _WARM_UP_STEPS + self.num_steps
        if is_due and self._num_seen == _WARM_UP_STEPS - 1:
            self._start()
        yield
        self._num_seen += is_due
        if self._profile:
            self._profile.step()
            if self._num_seen == _WARM_UP_STEPS + self.num_steps:
                self._stop()

    def _start(self) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        else:
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would report that there is no GPU
        self._profile = torch.profiler.profile(
            activities=activities,
            # The last step of the warm-up pays for the profiler's own start.
            schedule=torch.profiler.schedule(wait=0, warmup=1, active=self.num_steps, repeat=1),
            on_trace_ready=self._write,
        )
        self._profile.start()

    def _stop(self) -> None:
        if self._profile:
            self._profile.stop()
        self._profile = None

    def _write(self, profile: torch.profiler.profile) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"rank_{get_rank()}.json.gz"
        partial = path.with_name(f"rank_{get_rank()}.partial.json.gz")
        profile.export_chrome_trace(str(partial))
        text = format_times(compute_times(read_trace(partial)))
        partial.replace(path)
        write_whole(path.with_name(f"rank_{get_rank()}.txt"), (text + "\n").encode())
        logger.info("%s\nfor https://ui.perfetto.dev: %s", text, path)


def read_trace(path: Path) -> list[dict[str, Any]]:
    """The events of a trace that torch's profiler wrote."""
    with gzip.open(path, "rt") as file:
        return simplejson.load(file)["traceEvents"]


def compute_times(events: Iterable[dict[str, Any]]) -> StepTimes:
    """Where the time of the steps of a trace went.

    A GPU's work belongs to the part in which the process asked for it, whenever it was done. What NCCL or gloo did is
    communication and nothing else; for gloo, whose threads lie in the process, that is time in the process.

    Args:
        events: of Chrome's trace format, times in microseconds.

    Raises:
        ValueError: there is no step.
    """
    spans = [event for event in events if event.get("ph") == "X"]
    steps = [_get_span(event) for event in spans if _is_range(event) and event["name"].startswith(_STEP)]
    if not steps:
        raise ValueError(f"the trace has no step: no event is called {_STEP}N")
    began, ended = min(start for start, _ in steps), max(end for _, end in steps)
    within = [event for event in spans if began <= event["ts"] < ended]
    ranges = [(event["name"], _get_span(event)) for event in within if _is_range(event) and event["name"] in PARTS]
    host = _compute_own_times(ranges)
    host["other"] = ended - began - sum(host.values())
    gloo = [_get_span(event) for event in within if event["name"].startswith("gloo:")]
    device = _compute_device_times(spans, within, ranges)
    scale = _USEC / len(steps)
    parts = {}
    for name in PARTS:
        host_usec: float | None = host.get(name, 0.0)
        if name == "communication":
            host_usec = compute_union(gloo) if gloo else None
        device_sec = device.get(name, 0.0) * scale if device else None
        parts[name] = PartTime(None if host_usec is None else host_usec * scale, device_sec)
    return StepTimes(len(steps), (ended - began) * scale, parts)


def compute_union(spans: Iterable[Span]) -> float:
    """How long any of the spans lasts; where they overlap, the time counts once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total


def _compute_own_times(ranges: Sequence[tuple[str, Span]]) -> dict[str, float]:
    """The time of each name without that of ranges that lie inside its own."""
    own: dict[str, float] = {}
    around: list[tuple[str, float]] = []  # name and end of the ranges that the next one may lie in
    for name, (start, end) in sorted(ranges, key=lambda item: (item[1][0], -item[1][1])):
        while around and around[-1][1] <= start:
            around.pop()
        own[name] = own.get(name, 0.0) + end - start
        if around:
            own[around[-1][0]] -= end - start
        around.append((name, end))
    return own


def _compute_device_times(
    spans: Sequence[dict[str, Any]], within: Sequence[dict[str, Any]], ranges: Sequence[tuple[str, Span]]
) -> dict[str, float]:
    """How long the GPU was at each part; empty without a GPU."""
    calls = {
        event["args"]["correlation"]: event["ts"]
        for event in spans
        if event.get("cat") in ("cuda_runtime", "cuda_driver") and "correlation" in event.get("args", {})
    }
    found: dict[str, list[Span]] = {}
    for event in within:
        if event.get("cat") not in _ON_DEVICE:
            continue
        asked_at = calls.get(event.get("args", {}).get("correlation"), event["ts"])
        around = [(end - start, name) for name, (start, end) in ranges if start <= asked_at < end]
        name = "communication" if "nccl" in event["name"].lower() else min(around, default=(0.0, "other"))[1]
        found.setdefault(name, []).append(_get_span(event))
    return {name: compute_union(parts) for name, parts in found.items()}


def _is_range(event: dict[str, Any]) -> bool:
    return event.get("cat") == "user_annotation"


def _get_span(event: dict[str, Any]) -> Span:
    return event["ts"], event["ts"] + event["dur"]


def format_times(times: StepTimes) -> str:
    """The table: seconds of each part in a step, and its share of the step."""
    has_device = any(part.device_sec is not None for part in times.parts.values())
    heads = ["in the process", ""] + (["on the GPU", ""] if has_device else [])
    rows = [("", *heads, "")]
    for name, part in times.parts.items():
        cells = _format_part(part.host_sec, times.step_sec)
        if has_device:
            cells += _format_part(part.device_sec, times.step_sec)
        rows.append((name, *cells, PARTS[name]))
    title = f"a step took {times.step_sec:.4f} s, the mean of {times.num_steps} (rank {get_rank()})"
    return f"{title}\n{format_table(rows, '<' + '>' * len(heads) + '<')}"


def _format_part(seconds: float | None, step_sec: float) -> list[str]:
    return ["-", ""] if seconds is None else [f"{seconds:.4f} s", f"{seconds / step_sec:.1%}"]

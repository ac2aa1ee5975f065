"""What the benchmarks share: paired times, peak memory of a fresh process, a description of the machine."""

import argparse
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

SIDES = ("released", "ours")
DTYPES = {"fp32": None, "bf16": torch.bfloat16}
HEADING = f"{'':28}{'released':>12}{'ours':>12}{'released / ours':>18}"


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def time_run(run: Callable, *args) -> float:
    start = time.perf_counter()
    run(*args)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare_times(runs_by_side: dict[str, Callable], runs: int) -> dict[str, float]:
    """Medians (s) of alternating runs of two sides, and the median of the ratios first over second of neighbors."""
    seconds = {side: [] for side in runs_by_side}
    for i in range(runs + 1):
        for side in list(runs_by_side) if i % 2 else reversed(runs_by_side):
            seconds[side].append(time_run(runs_by_side[side]))
    first, second = (values[1:] for values in seconds.values())  # the first run warms up
    return {side: statistics.median(values[1:]) for side, values in seconds.items()} | {
        "ratio": statistics.median(a / b for a, b in zip(first, second, strict=True))
    }


def compile_model(model: torch.nn.Module) -> torch.nn.Module:
    """The model as one graph; what its compilations cost and how many graphs they gave: `describe_compilations`."""
    torch._dynamo.utils.counters.clear()
    return torch.compile(model, fullgraph=True)


def describe_compilations(seconds: float) -> dict[str, float]:
    """Prints and gives the graphs and graph breaks since `compile_model`, and the seconds that the first call took."""
    counters = torch._dynamo.utils.counters
    row = {"graphs": counters["stats"]["unique_graphs"], "graph_breaks": sum(counters["graph_break"].values())}
    print(f"compiled: {row['graphs']} graphs, {row['graph_breaks']} breaks, first call {seconds:.0f} s", flush=True)
    return row | {"first_call_sec": seconds}


def measure_memory_mib(run: Callable, warm_up: Callable) -> float:
    """Peak memory of `run` (which makes its model too) over what was there before.

    On a GPU what torch allocated; on a CPU how far the resident memory of this process, a fresh one, grows.
    """
    warm_up()  # what imports take counts on no side
    if torch.cuda.is_available():
        run()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() / 2**20
    before = read_status_kib("VmRSS")
    run()
    return (read_status_kib("VmHWM") - before) / 2**10


def run_child(script: str, arguments: list[str]) -> float:
    """Runs a benchmark script in a fresh process; the last word that it prints is the result."""
    child = subprocess.run([sys.executable, script, *arguments], check=True, capture_output=True, text=True)
    return float(child.stdout.split()[-1])


def read_status_kib(key: str) -> int:
    """A line of this process's status (Linux); getrusage's peak would count the parent's memory too."""
    lines = Path("/proc/self/status").read_text().split("\n")
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


def print_times(title: str, row: dict[str, float]) -> None:
    first, second, ratio = row.values()
    print(f"{title:28}{first:10.3f} s{second:10.3f} s{ratio:17.2f}x", flush=True)


def print_memory(title: str, row: dict[str, float]) -> None:
    first, second, ratio = row.values()
    print(f"{title:28}{first:8.0f} MiB{second:8.0f} MiB{ratio:17.2f}x   (inverse {second / first:.2f})")


def add_arguments(parser: argparse.ArgumentParser, *, model: str, batch: int) -> None:
    parser.add_argument("--model", default=model, help="a name of the released package")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--compile", action="store_true", help="also compare ours with ours compiled, nothing else")
    parser.add_argument("--child", help=argparse.SUPPRESS)


def describe_run(args: argparse.Namespace) -> dict:
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [line.split(":")[1] for line in Path("/proc/cpuinfo").read_text().split("\n") if "model name" in line]
        cpu = names[0].strip() if names else cpu
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    machine = {"cpu": cpu, "isa": torch.backends.cpu.get_cpu_capability(), "gpu": gpu, "torch": torch.__version__}
    sizes = {key: value for key, value in vars(args).items() if key != "child"}
    return sizes | {"device": "cuda" if gpu else "cpu", "machine": machine}

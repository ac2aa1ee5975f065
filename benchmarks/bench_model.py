"""Compares our Hiera with the released package `hiera-transformer`, side by side in one process.

    python benchmarks/bench_model.py --model hiera_base_16x224 --batch 1 --runs 7 --threads 2

Times are medians of alternating runs; a ratio is the median of the ratios of neighbouring runs (released over ours, so
above 1 ours is faster). The peak memory of a step is taken from a step on its own: on a GPU what torch allocated, on a
CPU how far the resident memory of a fresh process grows from before the model is made, weights and gradients included.
A step is forward and backward; the optimizer would be the same on both sides. The last line is one JSON object.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
warnings.filterwarnings("ignore", category=FutureWarning)

SIDES = ("released", "ours")
DTYPES = {"fp32": None, "bf16": torch.bfloat16}


def make_model(side: str, name: str) -> torch.nn.Module:
    if side == "ours":
        from hiera_video.models import build_model

        return build_model(name).train()
    import hiera

    return getattr(hiera, name)().train()


def make_video(name: str, batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, *((16, 224, 224) if "16x224" in name else (224, 224)))


def run_forward(model: torch.nn.Module, video: torch.Tensor, dtype: torch.dtype | None) -> None:
    with torch.no_grad(), torch.autocast(video.device.type, dtype, enabled=dtype is not None):
        model(video)


def run_step(model: torch.nn.Module, video: torch.Tensor, dtype: torch.dtype | None) -> None:
    with torch.autocast(video.device.type, dtype, enabled=dtype is not None):
        logits = model(video)
    logits.float().logsumexp(dim=1).sum().backward()
    model.zero_grad(set_to_none=True)


def time_run(run, *args) -> float:
    start = time.perf_counter()
    run(*args)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare_times(models: dict, video: torch.Tensor, dtype: torch.dtype | None, run, runs: int) -> dict:
    seconds = {side: [] for side in SIDES}
    for i in range(runs + 1):
        for side in SIDES if i % 2 else reversed(SIDES):
            seconds[side].append(time_run(run, models[side], video, dtype))
    released, ours = (seconds[side][1:] for side in SIDES)  # the first run warms up
    return {
        "released": statistics.median(released),
        "ours": statistics.median(ours),
        "ratio": statistics.median(a / b for a, b in zip(released, ours, strict=True)),
    }


def measure_memory_mib(side: str, args: argparse.Namespace, dtype_name: str) -> float:
    if torch.cuda.is_available():
        model, video = make_model(side, args.model).cuda(), make_video(args.model, args.batch).cuda()
        run_step(model, video, DTYPES[dtype_name])
        torch.cuda.reset_peak_memory_stats()
        run_step(model, video, DTYPES[dtype_name])
        return torch.cuda.max_memory_allocated() / 2**20
    command = [sys.executable, __file__, "--child", side, "--dtypes", dtype_name, "--model", args.model]
    command += ["--batch", str(args.batch), "--threads", str(args.threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def run_memory_child(args: argparse.Namespace) -> None:
    make_model(args.child, "hiera_tiny_224")  # the imports count on neither side
    before = read_status_kib("VmRSS")
    run_step(make_model(args.child, args.model), make_video(args.model, args.batch), DTYPES[args.dtypes[0]])
    print((read_status_kib("VmHWM") - before) / 2**10)


def read_status_kib(key: str) -> int:
    """A line of this process's status (Linux); getrusage's peak would count the parent's memory too."""
    lines = Path("/proc/self/status").read_text().split("\n")
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


def describe_machine() -> dict:
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [line.split(":")[1] for line in Path("/proc/cpuinfo").read_text().split("\n") if "model name" in line]
        cpu = names[0].strip() if names else cpu
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu, "isa": torch.backends.cpu.get_cpu_capability(), "gpu": gpu, "torch": torch.__version__}


def run_benchmark(args: argparse.Namespace) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = {side: make_model(side, args.model) for side in SIDES}
    models["ours"].load_state_dict(models["released"].state_dict(), strict=True)
    models = {side: model.to(device) for side, model in models.items()}
    video = make_video(args.model, args.batch).to(device)
    results = {}
    print(f"{args.model}, batch {args.batch}, {device}, {args.threads} threads, {args.runs} runs")
    print(f"{'':24}{'released':>12}{'ours':>12}{'released / ours':>18}")
    for dtype in args.dtypes:
        for title, run in (("forward", run_forward), ("training step", run_step)):
            row = results[f"{dtype} {title} (s)"] = compare_times(models, video, DTYPES[dtype], run, args.runs)
            print(
                f"{dtype + ' ' + title:24}{row['released']:10.3f} s{row['ours']:10.3f} s{row['ratio']:17.2f}x",
                flush=True,
            )
    del models
    for dtype in args.dtypes:
        released, ours = (measure_memory_mib(side, args, dtype) for side in SIDES)
        results[f"{dtype} step peak memory (MiB)"] = {"released": released, "ours": ours, "ratio": released / ours}
        row = f"{dtype + ' step memory':24}{released:8.0f} MiB{ours:8.0f} MiB{released / ours:17.2f}x"
        print(f"{row}   (ours / released {ours / released:.2f})")
    if len(args.dtypes) == 2:
        for title in ("forward", "training step"):
            gain = results[f"fp32 {title} (s)"]["ours"] / results[f"bf16 {title} (s)"]["ours"]
            results[f"ours {title} fp32 over bf16"] = gain
            print(f"ours, {title}: bf16 is {gain:.2f}x as fast as fp32")
    arguments = {"model": args.model, "batch": args.batch, "runs": args.runs, "threads": args.threads, "device": device}
    print(json.dumps({"benchmark": "bench_model"} | arguments | {"machine": describe_machine(), "results": results}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="hiera_base_16x224", help="a name of the released package")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.child:
        run_memory_child(args)
    else:
        run_benchmark(args)


if __name__ == "__main__":
    main()

"""Compares our Hiera with the released package `hiera-transformer`, side by side in one process.

    python benchmarks/bench_model.py --model hiera_base_16x224 --batch 1 --runs 7 --threads 2

Times are medians of alternating runs; a ratio is the median of the ratios of neighboring runs (released over ours, so
above 1 ours is faster). The peak memory of a step is taken from a step on its own: on a GPU what torch allocated, on a
CPU how far the resident memory of a fresh process grows from before the model is made, weights and gradients included.
A step is forward and backward; the optimizer would be the same on both sides. With --compile, our model is compared
with itself compiled instead. The last line is one JSON object.
"""

import argparse
import json
import sys
import warnings
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
warnings.filterwarnings("ignore", category=FutureWarning)

import common  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_model(side: str, name: str) -> torch.nn.Module:
    if side == "ours":
        from hiera_video.models import build_model

        return build_model(name).train().to(DEVICE)
    import hiera

    return getattr(hiera, name)().train().to(DEVICE)


def make_video(name: str, batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, *((16, 224, 224) if "16x224" in name else (224, 224)), device=DEVICE)


def run_forward(model: torch.nn.Module, video: torch.Tensor, dtype: torch.dtype | None) -> None:
    with torch.no_grad(), common.autocast(DEVICE, dtype):
        model(video)


def run_step(model: torch.nn.Module, video: torch.Tensor, dtype: torch.dtype | None) -> None:
    with common.autocast(DEVICE, dtype):
        logits = model(video)
    logits.float().logsumexp(dim=1).sum().backward()
    model.zero_grad(set_to_none=True)


def measure_memory(args: argparse.Namespace, dtype: str, side: str) -> float:
    arguments = ["--child", side, "--dtypes", dtype, "--model", args.model]
    return common.run_child(__file__, [*arguments, "--batch", str(args.batch), "--threads", str(args.threads)])


def run_memory_child(args: argparse.Namespace) -> None:
    run = partial(run_step, dtype=common.DTYPES[args.dtypes[0]])
    print(
        common.measure_memory_mib(
            lambda: run(make_model(args.child, args.model), make_video(args.model, args.batch)),
            warm_up=lambda: make_model(args.child, "hiera_tiny_224"),
        )
    )


def run_benchmark(args: argparse.Namespace) -> None:
    models = {side: make_model(side, args.model) for side in common.SIDES}
    models["ours"].load_state_dict(models["released"].state_dict(), strict=True)
    video = make_video(args.model, args.batch)
    results = {}
    print(f"{args.model}, batch {args.batch}, {DEVICE.type}, {args.threads} threads, {args.runs} runs")
    print(common.HEADING)
    for dtype in args.dtypes:
        for title, run in (("forward", run_forward), ("training step", run_step)):
            runs = {side: partial(run, model, video, common.DTYPES[dtype]) for side, model in models.items()}
            row = results[f"{dtype} {title} (s)"] = common.compare_times(runs, args.runs)
            common.print_times(f"{dtype} {title}", row)
    del models
    for dtype in args.dtypes:
        released, ours = (measure_memory(args, dtype, side) for side in common.SIDES)
        row = {"released": released, "ours": ours, "ratio": released / ours}
        common.print_memory(f"{dtype} step memory", row)
        results[f"{dtype} step peak memory (MiB)"] = row
    if len(args.dtypes) == 2:
        for title in ("forward", "training step"):
            gain = results[f"fp32 {title} (s)"]["ours"] / results[f"bf16 {title} (s)"]["ours"]
            results[f"ours {title} fp32 over bf16"] = gain
            print(f"ours, {title}: bf16 is {gain:.2f}x as fast as fp32")
    print(json.dumps({"benchmark": "bench_model"} | common.describe_run(args) | {"results": results}))


def run_compiled(args: argparse.Namespace) -> None:
    video, results = make_video(args.model, args.batch), {}
    print(f"{args.model}, batch {args.batch}, {DEVICE.type}, {args.threads} threads, {args.runs} runs")
    for dtype in args.dtypes:
        torch.compiler.reset()
        model = make_model("ours", args.model)
        models = {"ours": model, "compiled": common.compile_model(model)}
        for title, run in (("forward", run_forward), ("training step", run_step)):
            runs = {side: partial(run, model, video, common.DTYPES[dtype]) for side, model in models.items()}
            seconds = common.time_run(runs["compiled"])
            row = results[f"{dtype} {title} (s)"] = common.compare_times(runs, args.runs)
            common.print_times(f"{dtype} {title}", row)
            row |= common.describe_compilations(seconds)
    print(json.dumps({"benchmark": "bench_model"} | common.describe_run(args) | {"results": results}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common.add_arguments(parser, model="hiera_base_16x224", batch=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.child:
        run_memory_child(args)
    elif args.compile:
        run_compiled(args)
    else:
        run_benchmark(args)


if __name__ == "__main__":
    main()

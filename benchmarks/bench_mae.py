"""Compares our MAE pre-training step with the released package `hiera-transformer`, side by side in one process.

    python benchmarks/bench_mae.py --model mae_hiera_base_16x224 --batch 2 --runs 7 --threads 2

A step is forward and backward with the same weights, video and mask; the optimizer would be the same on both sides.
Times are medians of alternating runs; a ratio is the median of the ratios of neighboring runs (above 1 the second is
faster). "keep 0.5" is our step with decoder_keep_ratio 0.5 against ours without. Memory is that of a step on its own:
on a GPU what torch allocated, on a CPU how far the resident memory of a fresh process grows from before the model is
made, weights and gradients included. The parts are timed one after the other, each on its own inputs, so their sum is
not quite the step. With --compile, our step is compared with itself compiled instead, as training runs both: with
indices of the visible mask units. The last line is one JSON object.
"""

import argparse
import importlib.metadata
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
warnings.filterwarnings("ignore", category=FutureWarning)

import common  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make_model(side: str, name: str, keep_ratio: float = 1.0) -> torch.nn.Module:
    if side == "released":
        import hiera

        return getattr(hiera, name)().train().to(DEVICE)
    from hiera_video.models import build_model

    return build_model(name, decoder_keep_ratio=keep_ratio).train().to(DEVICE)


def make_video(name: str, batch: int) -> Tensor:
    return torch.randn(batch, 3, *((16, 224, 224) if "16x224" in name else (224, 224)), device=DEVICE)


def make_mask(name: str, args: argparse.Namespace) -> Tensor:
    from hiera_video.models.mask_units import random_mask

    return random_mask(args.batch, 392 if "16x224" in name else 49, args.mask_ratio, DEVICE)


def run_step(model: torch.nn.Module, video: Tensor, mask: Tensor, dtype: torch.dtype | None) -> None:
    with common.autocast(DEVICE, dtype):
        loss = model(video, mask=mask)[0]
    loss.backward()
    model.zero_grad(set_to_none=True)


def time_parts(model: torch.nn.Module, video: Tensor, mask: Tensor, dtype: torch.dtype | None, runs: int) -> dict:
    """Medians (s) of [forward, backward] of each part of our step."""
    seconds = {}

    def measure(name: str, part: Callable, *inputs: Tensor) -> Tensor:
        inputs = [x.detach().requires_grad_() for x in inputs]
        outputs = []
        with common.autocast(DEVICE, dtype):
            forward = common.time_run(lambda: outputs.append(part(*inputs)))
        backward = common.time_run(lambda: outputs[0].backward(torch.ones_like(outputs[0])))
        seconds.setdefault(name, []).append((forward, backward))
        return outputs[0]

    visible, hidden = mask.nonzero()[:, 1].view(len(mask), -1), (~mask).nonzero()[:, 1].view(len(mask), -1)
    tokens = model._find_tokens(hidden).sort(dim=1).values
    for _ in range(runs + 1):
        x, stages, start = measure("patch embedding", lambda: model._embed(video, visible)), [], 0
        for stage, end in enumerate(model.stage_ends):
            blocks = torch.nn.Sequential(*model.blocks[start : end + 1])
            x, start = measure(f"stage {stage + 1}", blocks, x), end + 1
            stages.append(x)
        latent = measure("fusion", lambda *stages: model.fuse_stages(list(stages)), *stages)
        pred = measure("decoder", lambda latent: model.decode(latent, visible, tokens), latent)
        measure("target and loss", lambda pred: model.compute_loss(pred, model.compute_label(video, tokens)), pred)
        model.zero_grad(set_to_none=True)
    return {name: [statistics.median(times) for times in zip(*both[1:], strict=True)] for name, both in seconds.items()}


def print_parts(title: str, parts: dict) -> None:
    total = sum(sum(times) for times in parts.values())
    print(f"\n{title:28}{'forward':>12}{'backward':>12}{'both':>12}{'share':>9}")
    for name, (forward, backward) in parts.items():
        both = forward + backward
        print(f"{name:28}{forward:10.3f} s{backward:10.3f} s{both:10.3f} s{both / total:9.1%}")
    print(f"{'sum':52}{total:10.3f} s\n", flush=True)


def compute_flops(name: str, args: argparse.Namespace) -> int:
    """Multiply-adds of one forward pass of a step."""
    from hiera_video.models import flops

    model, mask = make_model("ours", name), make_mask(name, args)
    return flops.compute_flops(_WithMask(model, mask), make_video(name, args.batch))


class _WithMask(torch.nn.Module):
    """A module of one input, which is what the counting of multiply-adds traces."""

    def __init__(self, model: torch.nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.model = model
        self.mask = mask

    def forward(self, video: Tensor) -> Tensor:
        return self.model(video, mask=self.mask)[0]


def run_memory_child(args: argparse.Namespace) -> None:
    side, _, keep = args.child.partition(":")
    small = "mae_hiera_tiny_224"
    print(
        common.measure_memory_mib(
            lambda: run_step(
                make_model(side, args.model, float(keep)),
                make_video(args.model, args.batch),
                make_mask(args.model, args),
                common.DTYPES[args.dtypes[0]],
            ),
            warm_up=lambda: (make_model(side, small), make_mask(small, args)),
        )
    )


def measure_memory(args: argparse.Namespace, dtype: str, side: str, keep_ratio: float = 1.0) -> float:
    arguments = ["--child", f"{side}:{keep_ratio}", "--dtypes", dtype, "--model", args.model]
    arguments += ["--batch", str(args.batch), "--threads", str(args.threads), "--mask-ratio", str(args.mask_ratio)]
    return common.run_child(__file__, arguments)


def compare_steps(args: argparse.Namespace) -> dict:
    models = {side: make_model(side, args.model) for side in common.SIDES}
    models["ours"].load_state_dict(models["released"].state_dict(), strict=True)
    video, mask = make_video(args.model, args.batch), make_mask(args.model, args)
    keep = f"keep {args.keep_ratio}"
    results = {}
    print(common.HEADING)
    for dtype in args.dtypes:
        step = partial(run_step, video=video, mask=mask, dtype=common.DTYPES[dtype])
        row = common.compare_times({side: partial(step, model) for side, model in models.items()}, args.runs)
        common.print_times(f"{dtype} step", row)
        results[f"{dtype} step (s)"] = row | {"clips_per_sec": args.batch / row["ours"]}
    fewer = make_model("ours", args.model, args.keep_ratio)
    fewer.load_state_dict(models["ours"].state_dict())
    print(f"{'':28}{'ours':>12}{keep:>12}{f'ours / {keep}':>18}")
    for dtype in args.dtypes:
        step = partial(run_step, video=video, mask=mask, dtype=common.DTYPES[dtype])
        row = common.compare_times({"ours": partial(step, models["ours"]), keep: partial(step, fewer)}, args.runs)
        common.print_times(f"{dtype} step", row)
        results[f"{dtype} step, {keep} (s)"] = row | {"clips_per_sec": args.batch / row[keep]}
    for dtype in args.dtypes:
        parts = time_parts(models["ours"], video, mask, common.DTYPES[dtype], args.runs)
        print_parts(f"{dtype}, ours by part", parts)
        results[f"{dtype} parts (s)"] = parts
    return results


def compare_memory(args: argparse.Namespace) -> dict:
    results = {}
    for dtype in args.dtypes:
        released, ours = (measure_memory(args, dtype, side) for side in common.SIDES)
        row = {"released": released, "ours": ours, "ratio": released / ours}
        common.print_memory(f"{dtype} step memory", row)
        fewer = measure_memory(args, dtype, "ours", args.keep_ratio)
        print(f"{f'{dtype} keep {args.keep_ratio} memory':40}{fewer:8.0f} MiB")
        results[f"{dtype} step peak memory (MiB)"] = row | {"keep": fewer}
    return results


def run_benchmark(args: argparse.Namespace) -> None:
    print(f"{args.model}, batch {args.batch}, mask ratio {args.mask_ratio}, {DEVICE.type}, {args.threads} threads")
    start = time.perf_counter()
    results = compare_steps(args) | compare_memory(args)
    flops = compute_flops(args.model, args)
    for dtype in args.dtypes:
        row = results[f"{dtype} step (s)"]
        row["tflops"] = 2 * 3 * flops / row["ours"] / 1e12  # two operations; the backward pass costs two forward ones
        share = f", {row['tflops'] / args.peak_tflops:.1%} of the peak" if args.peak_tflops else ""
        print(f"{dtype}: {row['clips_per_sec']:.2f} clips/s, {row['tflops']:.2f} TFLOP/s{share}")
    versions = {name: importlib.metadata.version(name) for name in ("torch", "hiera-transformer")}
    report = {"benchmark": "bench_mae"} | common.describe_run(args) | {"versions": versions, "results": results}
    print(f"{time.perf_counter() - start:.0f} s in all")
    print(json.dumps(report))


def run_compiled(args: argparse.Namespace) -> None:
    from hiera_video.models.mask_units import compute_visible_units

    video, mask, results = make_video(args.model, args.batch), make_mask(args.model, args), {}
    visible = compute_visible_units(mask, *mask.shape)
    print(f"{args.model}, batch {args.batch}, mask ratio {args.mask_ratio}, {DEVICE.type}, {args.threads} threads")

    def step(model: torch.nn.Module, dtype: torch.dtype | None) -> None:
        with common.autocast(DEVICE, dtype):
            loss = model(video, visible=visible)[0]
        loss.backward()
        model.zero_grad(set_to_none=True)

    for dtype in args.dtypes:
        torch.compiler.reset()
        model = make_model("ours", args.model)
        models = {"ours": model, "compiled": common.compile_model(model)}
        runs = {side: partial(step, model, common.DTYPES[dtype]) for side, model in models.items()}
        seconds = common.time_run(runs["compiled"])
        row = results[f"{dtype} step (s)"] = common.compare_times(runs, args.runs)
        common.print_times(f"{dtype} step", row)
        row |= common.describe_compilations(seconds)
    print(json.dumps({"benchmark": "bench_mae"} | common.describe_run(args) | {"results": results}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common.add_arguments(parser, model="mae_hiera_base_16x224", batch=2)
    parser.add_argument("--mask-ratio", type=float, default=0.9)
    parser.add_argument("--keep-ratio", type=float, default=0.5)
    parser.add_argument("--peak-tflops", type=float, help="the processor's bf16 matrix peak, to print the share of it")
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

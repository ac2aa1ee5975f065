"""Measures what a model and its data reach on this machine, and names what sets the pace.

    hiera-video bench --cfg Kinetics/HIERA_B_16x4.yaml DATA.PATH_TO_DATA_DIR /data/kinetics400 TRAIN.BATCH_SIZE 8
    hiera-video bench --cfg Kinetics/HIERA_B_16x4.yaml TRAIN.BATCH_SIZE 8 --synthetic

Five measurements, each after a warm-up: training steps and forward passes on batches in memory; samples on one core,
batches of all decoding processes; and training steps on what the loader brings. One process is measured, on one GPU or
on the CPU: give it the TRAIN.BATCH_SIZE and TRAIN.GRAD_ACCUM_STEPS of one process. Nothing is trained: the weights are
random and stay as they are. Writes bench.json, whose fields docs/commands.md explains; `hiera-video plan` reads it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hiera_video.cli.arguments import make_parser, parse_with_config, report_errors

# Training alone is measured, whatever else a config asks for.
ONE_JOB = ("TRAIN.ENABLE", "True", "TEST.ENABLE", "False", "EXTRACT.ENABLE", "False")

# Made clips have no folder, and classes of no size that would have to be evened out.
NO_DATA = ("DATA.PATH_TO_DATA_DIR", "made clips", "TRAIN.CLASS_SAMPLING", "0.0", "TRAIN.CLASS_WEIGHTING", "0.0")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command."""
    parser = make_parser("bench", __doc__, usage="[--cfg FILE [FILE ...]] [KEY VALUE ...] [options]")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of each measurement, after its warm-up; default: %(default)s"
    )
    parser.add_argument("--synthetic", action="store_true", help="measure the model alone, on made clips, without data")
    parser.add_argument("--output", metavar="FILE", help="the JSON; default: OUTPUT_DIR/bench.json")
    return parse_with_config(parser, argv)


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints the table and writes the JSON."""
    args = parse_args(argv)
    if not args.seconds > 0:
        raise ValueError(f"--seconds is {args.seconds:g}; it must be above 0")
    import simplejson
    import torch
    from fvcore.common.config import CfgNode

    from hiera_video.config import load_config
    from hiera_video.engine.bench import run_bench
    from hiera_video.engine.launch import launch
    from hiera_video.utils.files import write_whole

    no_data = NO_DATA if args.synthetic else ()
    num_gpus = ("NUM_GPUS", str(min(torch.cuda.device_count(), 1)))
    cfg = load_config(args.cfg_files, [*args.opts, *ONE_JOB, *no_data, *num_gpus])
    path = Path(args.output or Path(cfg.OUTPUT_DIR) / "bench.json")
    results: list[dict[str, Any]] = []

    def bench(cfg: CfgNode) -> None:
        results.append(run_bench(cfg, seconds=args.seconds, is_synthetic=args.synthetic))

    launch([bench], cfg)
    result = {**results[0], "cfg_files": list(args.cfg_files), "opts": list(args.opts)}
    write_whole(path, (simplejson.dumps(result, indent=1) + "\n").encode())
    print(f"{format_result(result)}\n\nwritten: {path}")
    return 0


def format_result(result: Mapping[str, Any]) -> str:
    """The page that the terminal shows.

    Args:
        result: the object that the command writes as JSON.
    """
    from hiera_video.utils.tables import format_table

    model, data, both = result["model"], result["data"], result["both"]
    size = f"{model['num_frames']} x {model['crop_size']} x {model['crop_size']}"
    device = result["versions"]["device"] if model["device"] == "cuda" else f"{result['machine']['cpu']}, no GPU"
    made = " (made clips)" if model["is_synthetic"] else ""
    passes = f" in {model['grad_accum_steps']} passes" * (model["grad_accum_steps"] > 1)
    clips = model["batch_size"] * model["grad_accum_steps"]
    rows = [("", "clips/s", "10 % to 90 %", "")]
    rows.append(_make_row("model, training step", model, "clips_per_sec_train", f"{clips} clips{passes}{made}"))
    rows.append(_make_row("model, forward", model, "clips_per_sec_forward", f"{model['batch_size']} clips{made}"))
    if data is not None:
        rows.append(_make_row("data, one core", data, "clips_per_sec_per_core", "one process"))
        workers = f"{data['num_workers']} processes, {data['cores']} cores" if data["num_workers"] else "no processes"
        rows.append(_make_row("data, loader", data, "clips_per_sec", workers))
        rows.append(_make_row("both, training", both, "clips_per_sec", f"goodput {both['goodput']:.1%}"))
    memory = f"{model['peak_memory_bytes'] / 2**30:.2f} GiB at most" + " in the process" * (model["device"] == "cpu")
    lines = [
        f"{result['task']}: {model['name']}, {size}, {model['precision']}{', compiled' * model['is_compiled']}",
        f"on {device}; {memory}",
    ]
    if data is not None:
        size_text = f", {data['bytes_per_video'] / 1e6:.2f} MB each" if data["bytes_per_video"] else ""
        lines.append(f"{data['num_videos_sampled']:,} of {data['num_videos']:,} videos were read{size_text}")
    notes = [f"note: {note}" for note in result.get("notes", [])]
    return "\n".join([*lines, "", format_table(rows, "<>><"), "", result["advice"], *notes])


def _make_row(title: str, part: Mapping[str, Any], name: str, meaning: str) -> tuple[str, str, str, str]:
    low, high = part[f"spread_{name}"]
    return title, format_rate(part[name]), f"{format_rate(low)} to {format_rate(high)}", meaning


def format_rate(rate: float) -> str:
    """Clips a second with as many digits as say something, also where a clip takes seconds."""
    return f"{rate:.1f}" if rate >= 10 else f"{rate:.3g}"

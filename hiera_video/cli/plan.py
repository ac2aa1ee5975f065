"""Says what a training run will cost before it starts: steps, operations, memory, cores, hours, checkpoints.

    hiera-video plan --cfg Kinetics/HIERA_H_16x4_MAE_3200.yaml --gpus 64
    hiera-video plan --cfg Kinetics/HIERA_B_16x4.yaml --gpus 8 --gpu-clips-per-sec 80 --clips-per-core 14 --sweep

It needs neither GPUs nor videos nor weights: a step runs on tensors that have sizes and no content. What only a
measurement can tell is not made up: give what `hiera-video bench` wrote as --bench, or the rates themselves. The exit
status is 1 when the config does not fit the memory; then the page says which settings do.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiera_video.cli.arguments import make_parser, parse_with_config, report_errors

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from hiera_video.engine.planning.measured import Measured


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command."""
    parser = make_parser("plan", __doc__, usage="--cfg FILE [FILE ...] --gpus N [KEY VALUE ...] [options]")
    parser.add_argument("--gpus", type=_whole, required=True, metavar="N", help="over all machines")
    parser.add_argument(
        "--gpu-memory-gb", type=_positive, default=80.0, metavar="GB", help="of one GPU; default: %(default)g"
    )
    parser.add_argument(
        "--margin",
        type=_share,
        default=0.1,
        help="share of it for what a plan cannot see: CUDA, NCCL, fragments; default: %(default)g",
    )
    parser.add_argument("--bench", metavar="FILE", help="JSON of `hiera-video bench`, or the report of `check`")
    parser.add_argument("--gpu-clips-per-sec", type=_positive, metavar="N", help="clips that a GPU trains on")
    parser.add_argument("--clips-per-core", type=_positive, metavar="N", help="training clips/s that a CPU core makes")
    parser.add_argument("--num-videos", type=_whole, metavar="N", help="default: as the lists or the recipe say")
    parser.add_argument("--gpu-tflops", type=_positive, metavar="N", help="a GPU's best, to show which share is used")
    parser.add_argument("--sweep", action="store_true", help="also a table over numbers of GPUs and sharding")
    parser.add_argument("--json", metavar="FILE", help="write the plan for programs")
    return parse_with_config(parser, argv)


@report_errors(status=2)
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the plan; the exit status is 1 where the config does not fit, and 2 for wrong input."""
    args = parse_args(argv)
    import simplejson

    from hiera_video.config import load_config
    from hiera_video.engine.planning.plan import complete_config
    from hiera_video.report.cost_plan import format_plan
    from hiera_video.utils.files import write_whole

    plan = plan_run(complete_config(load_config(args.cfg_files, args.opts, is_complete=False)), args)
    print(format_plan(plan))
    if args.json:
        write_whole(Path(args.json), (simplejson.dumps(plan, indent=1) + "\n").encode())
    return 0 if plan["memory"]["fits"] else 1


def plan_run(cfg: CfgNode, args: argparse.Namespace) -> dict[str, Any]:
    """The plan of a complete config, with what the options say."""
    from hiera_video.engine.planning.measured import count_videos
    from hiera_video.engine.planning.plan import GB, make_plan

    num_videos, source = count_videos(cfg, cfg_files=args.cfg_files, num_videos=args.num_videos)
    return make_plan(
        cfg,
        num_gpus=args.gpus,
        gpu_memory_bytes=args.gpu_memory_gb * GB,
        margin=args.margin,
        num_videos=num_videos,
        videos_source=source,
        measured=gather_measured(cfg, args),
        gpu_tflops=args.gpu_tflops,
        sweep=args.sweep,
    )


def gather_measured(cfg: CfgNode, args: argparse.Namespace) -> Measured:
    """Rates from the file and from the options, which count before it."""
    from hiera_video.engine.planning.measured import Measured, read_measured

    measured = Measured()
    if args.bench:
        measured = read_measured(
            args.bench,
            model_name=cfg.MODEL.MODEL_NAME,
            num_frames=cfg.DATA.NUM_FRAMES,
            crop_size_px=cfg.DATA.TRAIN_CROP_SIZE,
            precision=cfg.TRAIN.PRECISION,
        )
    notes = list(measured.notes)
    if args.gpu_clips_per_sec:
        measured = replace(measured, gpu_clips_per_sec=args.gpu_clips_per_sec)
        notes.append(f"clips/s of a GPU: {args.gpu_clips_per_sec:g}, as given")
    if args.clips_per_core:
        measured = replace(measured, clips_per_sec_per_core=args.clips_per_core)
        notes.append(f"clips/s of a core: {args.clips_per_core:g}, as given")
    return replace(measured, notes=tuple(notes))


def _in_range(convert: Callable[[str], Any], accepts: Callable[[Any], bool], legal: str) -> Callable[[str], Any]:
    def read(word: str) -> Any:
        try:
            value = convert(word)
        except ValueError:
            value = None
        if value is None or not accepts(value):
            raise argparse.ArgumentTypeError(f"{word!r}: {legal} is legal")
        return value

    return read


_whole = _in_range(int, lambda n: n >= 1, "a whole number of at least 1")
_positive = _in_range(float, lambda x: 0 < x < float("inf"), "a number above 0")
_share = _in_range(float, lambda x: 0 <= x < 1, "a number in [0, 1)")

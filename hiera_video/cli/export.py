"""Exports a trained model to torch.export and ONNX, verified against the model itself.

    hiera-video export --checkpoint output/checkpoints/checkpoint_best.pyth --output-dir export
    hiera-video export --checkpoint hiera_base_16x224.pth --cfg Kinetics/HIERA_B_16x4.yaml \\
        --output features --formats onnx

Writes model.pt2 and model.onnx, each with a side-car model.*.json that says what goes in and what comes out. A graph
whose outputs differ by more than the tolerance is removed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hiera_video.cli.arguments import make_parser, parse_with_config, report_errors

if TYPE_CHECKING:
    from hiera_video.engine.export import Exported

# What `hiera_video.engine.export` offers; it is slow to import, and a test compares the two.
OUTPUTS, FORMATS, PRECISIONS = ("logits", "features"), ("torch", "onnx"), ("fp32", "fp16")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command."""
    usage = "--checkpoint FILE [--cfg FILE ...] [KEY VALUE ...] [options]"
    parser = make_parser("export", __doc__, usage=usage)
    parser.add_argument("--checkpoint", required=True, help="path or URL of the weights")
    parser.add_argument("--output", choices=OUTPUTS, default="logits", help="default: %(default)s")
    parser.add_argument("--formats", action="append", metavar="FORMAT", help="torch, onnx, or both; default: both")
    parser.add_argument("--output-dir", default="output/export", help="default: %(default)s")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default: %(default)s")
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest difference to the model's outputs, relative to the largest output where that is below 1; "
        "default: 1e-4, with fp16 5e-2",
    )
    parser.add_argument("--num-clips", type=int, default=4, help="random clips to compare on; default: %(default)s")
    args = parse_with_config(parser, argv, lists={"--formats": FORMATS.__contains__})
    args.formats = args.formats or list(FORMATS)
    return args


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Exports, verifies, and prints what was written."""
    args = parse_args(argv)
    from hiera_video.engine.export import export_model
    from hiera_video.engine.trained import load_trained
    from hiera_video.utils.logging import setup_logging

    setup_logging(None)
    optional = ("head.",) if args.output == "features" else ()
    trained = load_trained(args.checkpoint, cfg_files=args.cfg_files, opts=args.opts, optional=optional)
    results = export_model(
        trained,
        output_dir=args.output_dir,
        output=args.output,
        formats=args.formats,
        precision=args.precision,
        tolerance=args.tolerance,
        num_clips=args.num_clips,
    )
    for result in results:
        print(format_result(result))
    return 0


def format_result(result: Exported) -> str:
    """A file in words: how large it is, how much its outputs differ, how fast it is."""
    sizes = ", ".join(map(str, result.batch_sizes))
    return (
        f"{result.path} ({result.path.stat().st_size / 1e6:.1f} MB), side-car {result.path.name}.json\n"
        f"  largest difference to eager {result.max_difference:.3g}, with outputs up to {result.max_output:.3g} "
        f"(allowed: {result.allowed:.3g}), in batches of {sizes}\n"
        f"  {result.clip_ms:.1f} ms a clip, eager {result.eager_ms:.1f} ms (CPU, medians of alternating runs): "
        f"{result.eager_ms / result.clip_ms:.2f} times as fast"
    )

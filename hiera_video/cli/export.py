"""Exports a trained model to torch.export and ONNX, verified against the model itself.

    python tools/export_model.py --checkpoint output/checkpoints/checkpoint_best.pyth --output-dir export
    python tools/export_model.py --checkpoint hiera_base_16x224.pth --cfg configs/Kinetics/HIERA_B_16x4.yaml \\
        --output features --formats onnx

Writes model.pt2 and model.onnx, each with a side-car model.*.json that says what goes in and what comes out. A graph
that is off by more than the tolerance is removed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from hiera_video.config import parse_args as parse_config_args
from hiera_video.engine.export import FILE_NAMES, OUTPUTS, TOLERANCES, Exported, ExportMismatchError, export_model
from hiera_video.engine.trained import load_trained
from hiera_video.utils.logging import setup_logging


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of this tool; all other words are config files and KEY VALUE pairs, as for run_net.py."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s --checkpoint FILE [--cfg FILE ...] [KEY VALUE ...] [options]",
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", required=True, help="path or URL of the weights")
    parser.add_argument("--output", choices=OUTPUTS, default="logits", help="default: %(default)s")
    parser.add_argument("--formats", nargs="+", default=list(FILE_NAMES), help="default: torch onnx")
    parser.add_argument("--output-dir", default="output/export", help="default: %(default)s")
    parser.add_argument("--precision", choices=TOLERANCES, default="fp32", help="default: %(default)s")
    parser.add_argument(
        "--tolerance",
        type=float,
        help="largest difference to the model's outputs, relative to the largest output where that is below 1; "
        "default: 1e-4, with fp16 5e-2",
    )
    parser.add_argument("--num-clips", type=int, default=4, help="random clips to compare on; default: %(default)s")
    args, rest = parser.parse_known_args(argv)
    words = args.formats  # `--formats onnx KEY VALUE`: argparse hands the pairs to --formats
    count = next((i for i, word in enumerate(words) if "." in word), len(words))
    args.formats, rest = words[:count], [*rest, *words[count:]]
    config_args = parse_config_args(rest, description=__doc__)
    args.cfg_files, args.opts = config_args.cfg_files, config_args.opts
    return args


def format_result(result: Exported) -> str:
    """What a person wants to know of a file."""
    sizes = ", ".join(map(str, result.batch_sizes))
    return (
        f"{result.path} ({result.path.stat().st_size / 1e6:.1f} MB), side-car {result.path.name}.json\n"
        f"  largest difference to eager {result.max_difference:.3g}, with outputs up to {result.max_output:.3g} "
        f"(allowed: {result.allowed:.3g}), in batches of {sizes}\n"
        f"  {result.clip_ms:.1f} ms a clip, eager {result.eager_ms:.1f} ms (CPU, medians of alternating runs): "
        f"{result.eager_ms / result.clip_ms:.2f} times as fast"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Exports, verifies, and tells."""
    args = parse_args(argv)
    setup_logging(None)
    try:
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
    except (ValueError, FileNotFoundError, ImportError, ExportMismatchError) as error:
        sys.exit(f"error: {error}")
    for result in results:
        print(format_result(result))

"""Writes weights under the names of another package, loads them there, and compares what both compute.

    hiera-video convert output/checkpoints/checkpoint_best.pyth best.safetensors --to safetensors
    hiera-video convert hiera_base_224.pth hiera-base-hf --to hf
    hiera-video convert facebook/hiera-tiny-224-mae-hf mae_tiny.pth --to released
    hiera-video convert output/checkpoints/checkpoint_epoch_00100.dcp whole.pyth --to checkpoint

IN may be a checkpoint of ours, a released file, timm's, a folder of Hugging Face, or a URL. Nothing is written when the
other package cannot hold the weights, or computes something else with them. The last example puts a checkpoint that
several processes have written (TRAIN.SHARDING) into one file, with all that training needs to go on. All commands read
such a checkpoint as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from hiera_video.cli.arguments import make_parser, report_errors

TARGETS = ("released", "hf", "timm", "safetensors", "checkpoint")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command."""
    parser = make_parser("convert", __doc__)
    parser.add_argument("source", metavar="IN", help="the weights: path, folder or URL")
    parser.add_argument("path", metavar="OUT", help="the file to write; with --to hf a folder")
    parser.add_argument(
        "--to",
        dest="target",
        required=True,
        choices=TARGETS,
        help="released: hiera-transformer's names; hf: transformers'; timm: timm's; safetensors: our names; "
        "checkpoint: a sharded checkpoint of a training job as one file",
    )
    return parser.parse_args(argv)


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Converts, and prints the largest difference."""
    args = parse_args(argv)
    from hiera_video.engine.convert import convert_weights
    from hiera_video.utils.logging import setup_logging

    setup_logging(None)
    if args.target == "checkpoint":
        from hiera_video.engine.sharded_checkpoint import join_checkpoint

        print(
            f"{args.path}: all that {args.source} holds, in one file; digest {join_checkpoint(args.source, args.path)}"
        )
        return 0
    done = convert_weights(args.source, args.path, target=args.target)
    print(
        f"{done.path}: {done.model}; {done.compared} differ by at most {done.difference:.1e} "
        f"(the largest is {done.largest:.2g})"
    )
    return 0

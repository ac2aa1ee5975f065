"""Embeds videos of any length: a folder, a glob, a list or a manifest, on this machine or on a Ray cluster.

    hiera-video extract videos/ --checkpoint output/checkpoints/checkpoint_best.pyth --output-dir output/embeddings
    hiera-video extract videos.csv --checkpoint hiera_base_16x224.pth --cfg Kinetics/HIERA_B_16x4.yaml \\
        --window-sec 2 --stride-sec 1 --output-dir output/embeddings EXTRACT.BATCH_SIZE 64
    hiera-video extract s3.txt --checkpoint /shared/hiera_base_16x224.pth --cfg Kinetics/HIERA_B_16x4.yaml \\
        --output-dir /shared/embeddings --ray --decoders 64 --models 8 --gpus-per-model 1

VIDEOS is one word, so a glob stands in quotes; without it the lists of DATA.FORMAT are taken. A checkpoint of a job of
ours knows its config; a released file needs --cfg. Without --checkpoint the weights are those of
EXTRACT.CHECKPOINT_FILE_PATH, or the newest in the output folder. An interrupted extraction goes on when it is started
again. With --ray, actors on CPUs decode, actors on GPUs (or CPUs) embed, and this process writes the files; all nodes
must see the videos and the weights (pip install "hiera_video[ray]").
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hiera_video.cli.arguments import make_parser, parse_with_config, report_errors

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

ONLY_EXTRACT = ("TRAIN.ENABLE", "False", "TEST.ENABLE", "False", "EXTRACT.ENABLE", "True")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command; VIDEOS is still the first word of ``opts``."""
    usage = "[VIDEOS] --checkpoint FILE --output-dir DIR [options] [--cfg FILE ...] [KEY VALUE ...]"
    parser = make_parser("extract", __doc__, usage=usage)
    parser.add_argument("--checkpoint", default="", metavar="FILE", help="path or URL of the weights")
    parser.add_argument("--output-dir", metavar="DIR", help="gets the embeddings; default: the config's OUTPUT_DIR")
    parser.add_argument("--window-sec", type=float, help="length of a window; default: as long as clips in training")
    parser.add_argument("--stride-sec", type=float, help="from one window's start to the next; default: a window")
    ray = parser.add_argument_group("on a Ray cluster")
    ray.add_argument("--ray", action="store_true", help="run there")
    ray.add_argument("--address", help="of the cluster; default: what Ray finds, or a local one")
    ray.add_argument("--decoders", type=int, default=1, help="actors that decode, one CPU core each; default: 1")
    ray.add_argument("--models", type=int, default=1, help="actors that run the model; default: 1")
    ray.add_argument("--gpus-per-model", type=float, default=0, help="GPUs of each; 0: a CPU core; default: 0")
    return parse_with_config(parser, argv)


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the extraction job here or on a cluster."""
    args = parse_args(argv)
    if args.ray and importlib.util.find_spec("ray") is None:
        raise ImportError("--ray needs the package ray: pip install 'hiera_video[ray]'")
    cfg = make_config(args)
    if args.ray:
        from hiera_video.engine.extraction.ray import extract_on_ray

        extract_on_ray(
            cfg,
            address=args.address,
            num_decoders=args.decoders,
            num_models=args.models,
            gpus_per_model=args.gpus_per_model,
        )
        return 0
    from hiera_video.engine.extraction.job import extract
    from hiera_video.engine.launch import launch

    launch([extract], cfg)
    return 0


def make_config(args: argparse.Namespace) -> CfgNode:
    """The config of the job: that of the checkpoint, then config files, KEY VALUE pairs, and options.

    Raises:
        FileNotFoundError: no such checkpoint or config file.
        ValueError: the checkpoint cannot be read, a key or value is wrong, or VIDEOS is more than one word.
    """
    from hiera_video.config import load_config
    from hiera_video.config.defaults import KEYS
    from hiera_video.engine.trained import read_weights

    pairs = list(args.opts)
    options = {"EXTRACT.CHECKPOINT_FILE_PATH": args.checkpoint, "OUTPUT_DIR": args.output_dir}
    if pairs and pairs[0].partition("=")[0] not in KEYS:
        options["EXTRACT.VIDEOS"] = pairs.pop(0)
        if pairs and os.path.exists(pairs[0]):
            raise ValueError(
                f"VIDEOS is one word, but there are {options['EXTRACT.VIDEOS']}, {pairs[0]} and perhaps more: give a "
                "folder, a list, or a glob in quotes"
            )
    if args.window_sec is not None or args.stride_sec is not None:
        options |= {"EXTRACT.CLIPS": "windows", "EXTRACT.UNIT": "sec"}
        options |= {"EXTRACT.WINDOW": args.window_sec, "EXTRACT.STRIDE": args.stride_sec}
    words = [str(word) for pair in options.items() if pair[1] not in (None, "") for word in pair]
    file = read_weights(args.checkpoint, cfg_files=args.cfg_files, opts=pairs) if args.checkpoint else None
    stored = file.config if file else ""
    return load_config(args.cfg_files, [*pairs, *words, *ONLY_EXTRACT], stored=stored)

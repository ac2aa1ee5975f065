"""Cross-validates a config: each clip is tested once, by a model that was trained without it.

    hiera-video crossval --cfg Custom/FROZEN_16x4.yaml DATA.PATH_TO_DATA_DIR my_clips MODEL.NUM_CLASSES 5
    hiera-video crossval --cfg my.yaml --folds 10 --lists train val test --groups people.csv
    hiera-video crossval --cfg my.yaml --group-pattern '/(subject[0-9]+)_'

The clips of the lists are divided into folds with equal shares of each class. Each fold trains on the others, less a
part of them for validation, and tests on its own clips, in OUTPUT_DIR/fold_N. Clips of one group, such as those cut
from one video or showing one person, are never on both sides: a csv with the heading path,group says which they are, or
a regular expression finds the group's name in the path.

The table has each fold, the mean and standard deviation between folds, and all clips together with a 95 % interval;
crossval.json has the same for programs, crossval_predictions.parquet each clip's class probabilities. Started again,
the command goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hiera_video.cli.arguments import make_parser, parse_with_config, report_errors

if TYPE_CHECKING:
    from hiera_video.data.lists import VideoList

_SPLITS = ("train", "val", "test")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command."""
    parser = make_parser("crossval", __doc__, usage="[--cfg FILE [FILE ...]] [KEY VALUE ...] [options]")
    parser.add_argument("--folds", type=int, default=5, help="default: %(default)s")
    parser.add_argument(
        "--lists", action="append", metavar="LIST", help="train, val, test: whose clips are divided; default: train"
    )
    parser.add_argument("--groups", metavar="FILE", help="csv with the heading path,group")
    parser.add_argument("--group-pattern", metavar="REGEX", help="finds the group in a path; its first (...) if any")
    parser.add_argument(
        "--val-share",
        type=float,
        default=0.2,
        help="of a fold's training clips, for validation; default: %(default)s, and none with TRAIN.EVAL_PERIOD 0",
    )
    args = parse_with_config(parser, argv, lists={"--lists": _SPLITS.__contains__})
    args.lists = args.lists or ["train"]
    wrong = [name for name in args.lists if name not in _SPLITS]
    if wrong or len(set(args.lists)) != len(args.lists):
        parser.error(f"--lists {' '.join(args.lists)}: each of {', '.join(_SPLITS)} at most once")
    if args.folds < 2:
        parser.error(f"--folds is {args.folds}; it must be at least 2")
    if not 0 < args.val_share <= 0.5:
        parser.error(f"--val-share is {args.val_share}; it must be above 0 and at most 0.5")
    if args.groups and args.group_pattern:
        parser.error("give either --groups or --group-pattern")
    return args


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Trains and tests all folds, prints the table and writes the files."""
    args = parse_args(argv)
    from hiera_video.config import load_config
    from hiera_video.engine.crossval import check_can_cross_validate, cross_validate, join_lists, make_plan
    from hiera_video.engine.crossval_results import format_results, write_results
    from hiera_video.engine.output_lock import lock_output
    from hiera_video.utils.logging import setup_logging

    jobs = ["TRAIN.ENABLE", "True", "TEST.ENABLE", "True", "EXTRACT.ENABLE", "False"]
    cfg = load_config(args.cfg_files, [*args.opts, *jobs])
    check_can_cross_validate(cfg)
    setup_logging(None)
    videos = join_lists(cfg, args.lists)
    plan = make_plan(
        videos,
        num_folds=args.folds,
        seed=cfg.RNG_SEED,
        groups=find_groups(args, videos),
        val_share=args.val_share if cfg.TRAIN.EVAL_PERIOD else 0.0,
    )
    with lock_output(cfg.OUTPUT_DIR):
        cross_validate(cfg, plan)
        results = write_results(cfg, plan)
    print(format_results(results))
    print(f"\nresults: {cfg.OUTPUT_DIR}/crossval.json, crossval_predictions.parquet, fold_1 ... fold_{args.folds}")
    return 0


def find_groups(args: argparse.Namespace, videos: VideoList) -> list[str] | None:
    """The group of each clip as the command line says; None where each stands for itself.

    Raises:
        FileNotFoundError, ValueError: see `hiera_video.data.folds`.
    """
    from hiera_video.data.folds import load_groups, match_groups

    if args.groups:
        return load_groups(args.groups, videos.paths.tolist())
    return match_groups(args.group_pattern, videos.paths.tolist()) if args.group_pattern else None

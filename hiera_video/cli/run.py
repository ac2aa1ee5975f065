"""Pre-train, train, test and extract embeddings as config files and KEY VALUE pairs say.

    hiera-video run --list
    hiera-video run --cfg Kinetics/HIERA_B_16x4.yaml DATA.PATH_TO_DATA_DIR /data/kinetics400 OUTPUT_DIR output/k400
    hiera-video run --cfg my.yaml TRAIN.ENABLE False TEST.CHECKPOINT_FILE_PATH checkpoint_best.pyth
    torchrun --nproc_per_node 8 -m hiera_video run --cfg my.yaml

The jobs whose sections are enabled run one after the other: TRAIN, TEST, EXTRACT. On a machine with several GPUs each
job uses all of them. In a checkout `python tools/run_net.py` does the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from fvcore.common.config import CfgNode

from hiera_video.cli.arguments import make_parser, parse_with_config, report_errors


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command."""
    parser = make_parser("run", __doc__, usage="[--cfg FILE [FILE ...]] [KEY VALUE ...] [options]")
    parser.add_argument("--list", action="store_true", help="show the recipes that come with the package, and stop")
    parser.add_argument("--print-config", action="store_true", help="print the final config and stop")
    parser.add_argument("--keys", action="store_true", help="print every key with its default and meaning, and stop")
    return parse_with_config(parser, argv)


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs each enabled job of the config, in order."""
    args = parse_args(argv)
    if args.list:
        print(format_recipes())
        return 0
    from hiera_video.config import describe_keys, dump_config, load_config

    if args.keys:
        print(describe_keys())
        return 0
    cfg = load_config(args.cfg_files, args.opts, is_complete=not args.print_config)
    if args.print_config:
        print(dump_config(cfg), end="")
        return 0
    from hiera_video.engine.extraction.job import extract
    from hiera_video.engine.launch import launch

    if cfg.TRAIN.ENABLE and cfg.TEST.ENABLE:
        build_list = find_list_builder(cfg.TASK)
        build_list(cfg, cfg.TEST.SPLIT)  # a list that is missing shows now, and not after days of training
    train_job, test_job = find_jobs(cfg.TASK)
    jobs = ((train_job, cfg.TRAIN), (test_job, cfg.TEST), (extract, cfg.EXTRACT))
    launch([job for job, section in jobs if section.ENABLE], cfg)
    return 0


def find_jobs(task: str) -> tuple[Callable[[CfgNode], None], Callable[[CfgNode], None]]:
    """The training job and the test job of a TASK; the config's rules refuse a test of what has none."""
    if task == "detect":
        from hiera_video.engine.detection_test import run_detection_test
        from hiera_video.engine.training.detect import train_detector

        return train_detector, run_detection_test
    from hiera_video.engine.evaluate import test

    if task == "pretrain":
        from hiera_video.engine.training.pretrain import pretrain

        return pretrain, test
    if task == "detect_actions":
        from hiera_video.engine.action_test import run_action_test
        from hiera_video.engine.training.detect_actions import train_actions

        return train_actions, run_action_test
    from hiera_video.engine.training.classify import train

    return train, test


def find_list_builder(task: str) -> Callable[[CfgNode, str], object]:
    """What makes the list of a split for the jobs of a TASK."""
    if task == "detect_actions":
        from hiera_video.data.box_lists import build_key_frames

        return build_key_frames
    if task == "detect":
        from hiera_video.data.coco_lists import build_detection_list

        return build_detection_list
    from hiera_video.data.build_lists import build_video_list

    return build_video_list


def format_recipes() -> str:
    """The recipes as a table: what to give to --cfg, task, model, and the accuracy that the paper reports."""
    from hiera_video.config.recipes import list_recipes
    from hiera_video.utils.tables import format_table

    rows = [("recipe", "task", "model", "the paper reports")]
    rows += [(recipe.name, recipe.task, recipe.model, recipe.reported or "-") for recipe in list_recipes()]
    return format_table(rows, "<<<<")

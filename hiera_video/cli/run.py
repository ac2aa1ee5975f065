"""Pre-train, train, test and embed from configs: ``python tools/run_net.py --cfg FILE [FILE ...] [KEY VALUE ...]``."""

import sys

from hiera_video.config import describe_keys, dump_config, load_config, parse_args
from hiera_video.engine.evaluate import test
from hiera_video.engine.extraction.job import extract
from hiera_video.engine.launch import launch
from hiera_video.engine.training.classify import train
from hiera_video.engine.training.pretrain import pretrain


def main() -> None:
    """Runs each enabled job of the config, in order."""
    args = parse_args(description=__doc__)
    if args.keys:
        print(describe_keys())
        return
    try:
        cfg = load_config(args.cfg_files, args.opts)
        if args.print_config:
            print(dump_config(cfg), end="")
            return
        train_job = pretrain if cfg.TASK == "pretrain" else train
        jobs = ((train_job, cfg.TRAIN), (test, cfg.TEST), (extract, cfg.EXTRACT))
        launch([job for job, section in jobs if section.ENABLE], cfg)
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        sys.exit(f"error: {error}")

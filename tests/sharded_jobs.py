"""Runs training jobs one after the other in one group of processes: what the tests of TRAIN.SHARDING start.

    torchrun --nproc_per_node 2 tests/sharded_jobs.py JOBS.json

JOBS.json is a list of jobs. Each has the KEY VALUE pairs of its config under "options"; with "from", the path of a
checkpoint, that is first copied into its OUTPUT_DIR.
"""

import json
import shutil
import sys
from pathlib import Path

import torch.distributed as dist

from hiera_video.config import load_config
from hiera_video.engine.training.classify import train
from hiera_video.engine.training.detect import train_detector
from hiera_video.engine.training.detect_actions import train_actions
from hiera_video.engine.training.pretrain import pretrain
from hiera_video.utils.distributed import barrier, get_rank, is_main_process
from hiera_video.utils.logging import setup_logging

JOBS = {"classify": train, "pretrain": pretrain, "detect_actions": train_actions, "detect": train_detector}


def copy_checkpoint(path, output_dir):
    folder = Path(output_dir) / "checkpoints"
    folder.mkdir(parents=True)
    copy = shutil.copytree if Path(path).is_dir() else shutil.copy
    copy(path, folder / Path(path).name)


def main():
    dist.init_process_group("gloo")
    for job in json.loads(Path(sys.argv[1]).read_text()):
        cfg = load_config([], [word for pair in job["options"].items() for word in pair])
        if is_main_process() and "from" in job:
            copy_checkpoint(job["from"], cfg.OUTPUT_DIR)
        barrier()
        setup_logging(cfg.OUTPUT_DIR, rank=get_rank())
        JOBS[cfg.TASK](cfg)
        barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""Submits a run to Slurm, which starts it again when its time is over or when it is preempted.

    hiera-video submit --nodes 4 --gpus-per-node 8 --partition gpu --hours 24 \\
        --cfg Kinetics/HIERA_B_16x4.yaml DATA.PATH_TO_DATA_DIR /data/kinetics400 OUTPUT_DIR /shared/output/k400

The words after the options are those of `hiera-video run`. The config is checked before anything is submitted. Two
minutes before the end the job writes a checkpoint, and Slurm queues it again. Logs of Slurm lie in OUTPUT_DIR/slurm.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hiera_video.cli.arguments import make_parser, parse_with_config, report_errors
from hiera_video.utils.interrupt import EXIT_START_AGAIN

_WARNING_SEC = 120  # how long before the end Slurm warns a job


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command."""
    parser = make_parser("submit", __doc__, usage="[options] --cfg FILE [FILE ...] [KEY VALUE ...]")
    parser.add_argument("--nodes", type=int, default=1, help="machines; default: %(default)s")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="one process for each; default: %(default)s")
    parser.add_argument("--cpus-per-gpu", type=int, default=8, help="cores for decoding; default: %(default)s")
    parser.add_argument(
        "--hours", type=float, default=24.0, help="time until Slurm queues it again; default: %(default)s"
    )
    parser.add_argument("--partition", help="of the cluster; default: the cluster's own")
    parser.add_argument("--name", default="hiera_video", help="of the job; default: %(default)s")
    parser.add_argument("--local", action="store_true", help="run it here in the background, with one process, to try")
    return parse_with_config(parser, argv)


class RunJob:
    """`hiera-video run` as a task of Slurm: a process of its own, so that requests to stop reach it as signals.

    Args:
        words: the command line after `run`.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._process: subprocess.Popen | None = None

    def __call__(self) -> int:
        """Runs until the job ends. Raises RuntimeError for every exit status but 0 and 75."""
        self._process = subprocess.Popen([sys.executable, "-m", "hiera_video", "run", *self.words])
        status = self._process.wait()
        if status not in (0, EXIT_START_AGAIN):
            raise RuntimeError(f"hiera-video run {' '.join(self.words)} ended with status {status}")
        return status

    def checkpoint(self) -> Any:
        """Called shortly before the end: stops the run, which keeps its state, and says what to queue again."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.send_signal(signal.SIGUSR1)
            self._process.wait()
        return DelayedSubmission(RunJob(self.words))


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Checks the config, submits, and prints the number of the job."""
    args = parse_args(argv)
    from hiera_video.config import load_config

    cfg = load_config(args.cfg_files, args.opts)
    words = [*(word for path in args.cfg_files for word in ("--cfg", str(path))), *args.opts]
    folder = Path(cfg.OUTPUT_DIR) / "slurm"
    job = make_executor(args, folder).submit(RunJob(words))
    print(f"job {job.job_id} is submitted; its logs: {folder}, its progress: {cfg.OUTPUT_DIR}/stdout.log")
    return 0


def make_executor(args: argparse.Namespace, folder: Path) -> Any:
    """What submits: to Slurm, or to this machine.

    Raises:
        ImportError: submitit is not installed.
    """
    try:
        import submitit
    except ImportError as error:
        raise ImportError('`hiera-video submit` needs submitit: pip install "hiera_video[slurm]"') from error
    executor = submitit.AutoExecutor(folder=folder, cluster="local" if args.local else "slurm")
    executor.update_parameters(name=args.name, timeout_min=int(60 * args.hours))
    if not args.local:
        executor.update_parameters(
            nodes=args.nodes,
            tasks_per_node=args.gpus_per_node,
            gpus_per_node=args.gpus_per_node,
            cpus_per_task=args.cpus_per_gpu,
            slurm_signal_delay_s=_WARNING_SEC,
            **({"slurm_partition": args.partition} if args.partition else {}),
        )
    return executor

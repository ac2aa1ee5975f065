"""Trains, tests and embeds the motion data for MINUTES, kills the job at random moments, and checks every promise.

    python benchmarks/soak.py 20

A run is started again until it ends well. Then its weights, optimizer, metrics, test results and embeddings must be, to
the last bit (embeddings: but for rounding), those of a run that nobody disturbed. After each blow every checkpoint must
load, and none may be lost. The last line is one JSON object; the exit status is 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from hiera_video.cli.make_motion_dataset import main as make_motion_dataset
from hiera_video.embeddings.store import read_shards
from hiera_video.engine.checkpoint import compute_digest, list_checkpoints
from hiera_video.engine.output_lock import OutputInUse, lock_output
from hiera_video.models.checkpoint_file import read_checkpoint_file

BLOWS = {
    "SIGKILL": signal.SIGKILL,
    "SIGTERM": signal.SIGTERM,
    "SIGINT": signal.SIGINT,
    "SIGUSR1": signal.SIGUSR1,
}
TIMES = {
    "goodput",
    "clips_per_sec",
    "step_time_sec",
    "data_time_sec",
    "peak_memory_gb",
    "eta",
    "seconds",
    "test_seconds",
}
LIMIT_SEC = 180  # a job that takes longer hangs
SETTINGS = {
    "DATA.NUM_FRAMES": 4,
    "DATA.SAMPLING_RATE": 2,
    "DATA.TRAIN_JITTER_SCALES": [32, 40],
    "DATA.TRAIN_CROP_SIZE": 32,
    "DATA.TEST_CROP_SIZE": 32,
    "DATA_LOADER.NUM_WORKERS": 2,
    "HIERA.EMBED_DIM": 8,
    "HIERA.STAGES": [1, 1, 1, 1],
    "MODEL.MODEL_NAME": "hiera_tiny_16x224",
    "MODEL.NUM_CLASSES": 8,
    "MODEL.DROP_PATH_RATE": 0.1,
    "MIXUP.ENABLE": True,
    "SOLVER.EMA_DECAY": 0.9,
    "SOLVER.MAX_EPOCH": 50,
    "SOLVER.WARMUP_EPOCHS": 1,
    "AUG.NUM_SAMPLE": 2,
    "TRAIN.BATCH_SIZE": 16,
    "TRAIN.GRAD_ACCUM_STEPS": 2,
    "TRAIN.CHECKPOINT_PERIOD_MINUTES": 0.01,
    "TEST.ENABLE": True,
    "TEST.NUM_ENSEMBLE_VIEWS": 2,
    "EXTRACT.ENABLE": True,
    "EXTRACT.SPLIT": "test",
    "LOG_PERIOD": 3,
}


class Broken(Exception):
    """A promise that was not kept."""


class Soak:
    """Runs of one job, with and without blows, and what was counted."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.draw = folder, random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.broken: list[str] = []
        words = ["--output-dir", str(folder / "motion"), "--train", "96", "--val", "16", "--test", "24"]
        make_motion_dataset([*words, "--workers", "2"])
        for split, position in (("train", 5), ("val", 3), ("test", 4)):  # some files are bad from the start
            name = (folder / "motion" / f"{split}.csv").read_text().splitlines()[position].rsplit(" ", 1)[0]
            (folder / "motion" / name).write_bytes(b"<html>not found</html>")

    def start(self, output: Path, processes: int) -> subprocess.Popen:
        """The job, in a process group of its own."""
        pairs = {**SETTINGS, "DATA.PATH_TO_DATA_DIR": self.folder / "motion", "OUTPUT_DIR": output}
        if processes > 1:
            pairs["TRAIN.GRAD_ACCUM_STEPS"] = 1
        words = [str(word) for pair in pairs.items() for word in pair]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = [sys.executable, *(launcher if processes > 1 else []), "-m", "hiera_video", "run", *words]
        log = open(output.with_suffix(".log"), "a")  # noqa: SIM115  # the process writes to it
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def run_undisturbed(self, output: Path, processes: int) -> None:
        """Raises Broken if the job does not end well."""
        status = self.start(output, processes).wait(LIMIT_SEC)
        if status:
            raise Broken(f"an undisturbed job ended with status {status}, see {output.with_suffix('.log')}")

    def run_disturbed(self, output: Path, processes: int) -> None:
        """Starts the job again and again, and hits it each time, until it ends well."""
        longest_sec = 12.0
        while True:
            name = self.draw.choice(list(BLOWS))
            before = [read_progress(path) for path in list_checkpoints(output)]
            process = self.start(output, processes)
            try:
                status = process.wait(self.draw.uniform(2.0, longest_sec))
            except subprocess.TimeoutExpired:
                status = self.hit(process, name, processes)
            self.check_checkpoints(output, before)
            if status == 0:
                return
            longest_sec += 1.5  # so that every run comes to its end
            if self.draw.random() < 0.15:
                self.damage_newest(output, processes)

    def hit(self, process: subprocess.Popen, name: str, processes: int) -> int:
        """Sends a signal to the job, as a user or a cluster does; gives its exit status."""
        self.counts[name] += 1
        target = os.killpg if name == "SIGKILL" else os.kill
        if processes > 1 and name == "SIGUSR1":
            target = os.killpg  # torchrun passes only SIGTERM and SIGINT on
            signal_all_but(process.pid, BLOWS[name])
        else:
            target(process.pid, BLOWS[name])
        begin = time.monotonic()
        try:
            status = process.wait(LIMIT_SEC)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise Broken(f"{name} did not end the job within {LIMIT_SEC} s") from None
        self.counts["slowest end in s"] = max(self.counts["slowest end in s"], round(time.monotonic() - begin))
        if processes == 1 and name != "SIGKILL" and status not in (0, 75, -BLOWS[name]):
            raise Broken(f"{name} ended the job with status {status}")
        self.counts[f"status {status}"] += 1
        return status

    def check_checkpoints(self, output: Path, before: list[tuple[int, int]]) -> None:
        """Every file loads and is what was written; what was newest before is there, or newer ones are."""
        progress = []
        for path in list_checkpoints(output):
            file = read_checkpoint_file(path)
            content = {**file.training, "model_state": file.weights, "epoch": file.epoch}
            if compute_digest(content) != content["digest"]:
                raise Broken(f"{path} is damaged")
            progress.append(read_progress(path))
            self.counts["checkpoints that loaded"] += 1
        if before and (not progress or max(progress) < max(before)):
            raise Broken(f"checkpoint {max(before)} is lost; there are {progress}")

    def damage_newest(self, output: Path, processes: int) -> None:
        """Cuts the newest checkpoint off, as a broken disk might; there must be one before it to go on from."""
        paths = list_checkpoints(output)
        # Embeddings hold the digest of the last file, and refuse another one that is written in its place.
        if len(paths) > 1 and not (output / "extraction.json").exists():
            wait_until_free(output)  # processes of a killed torchrun live for a moment, and write another checkpoint
            paths = list_checkpoints(output)
            paths[-1].write_bytes(paths[-1].read_bytes()[:5000])
            self.counts["newest checkpoint cut off"] += 1
            # The next start must name it and take the one before; then it is overwritten or removed.
            log = output / "stdout.log"
            said_before = log.read_text().count("a checkpoint is damaged")
            process = self.start(output, processes)
            deadline = time.monotonic() + LIMIT_SEC
            while process.poll() is None and time.monotonic() < deadline:
                if log.read_text().count("a checkpoint is damaged") > said_before:
                    process.send_signal(signal.SIGTERM)
                    process.wait(LIMIT_SEC)
                time.sleep(0.2)
            if log.read_text().count("a checkpoint is damaged") == said_before:
                process.kill()
                raise Broken(f"nobody named {paths[-1]}")
            if paths[-1].exists() and paths[-1].stat().st_size == 5000:
                paths[-1].unlink()

    def compare(self, first: Path, second: Path) -> None:
        """Raises Broken where two finished runs differ in anything but times."""
        one, two = (read_checkpoint_file(list_checkpoints(folder)[-1]).training for folder in (first, second))
        for key in ("digest", "best_score", "bad_videos", "first_loss"):
            if one[key] != two[key]:
                raise Broken(f"{key} of {second} differs: {one[key]} and {two[key]}")
        for name in ("metrics.jsonl", "test_results.json"):
            if read_json(first / name) != read_json(second / name):
                raise Broken(f"{name} of {second} differs")
        tables = [pd.read_parquet(folder / "test_predictions.parquet") for folder in (first, second)]
        if not np.array_equal(*(np.stack(table.pop("probs")) for table in tables), equal_nan=True):
            raise Broken(f"test_predictions.parquet of {second} differs")
        rows = [read_embeddings(folder) for folder in (first, second)]
        # Batches go over the ends of videos, so that what is left makes other batches: rows agree but for rounding.
        if rows[0].keys() != rows[1].keys() or any(abs(rows[0][k] - rows[1][k]).max() > 1e-5 for k in rows[0]):
            raise Broken(f"embeddings of {second} differ")


def wait_until_free(output: Path) -> None:
    """Waits until no process holds the lock of a folder. Raises Broken if one does for too long."""
    deadline = time.monotonic() + LIMIT_SEC
    while time.monotonic() < deadline:
        with contextlib.suppress(OutputInUse), lock_output(output):
            return
        time.sleep(0.1)
    raise Broken(f"somebody still holds {output}")


def signal_all_but(leader: int, number: int) -> None:
    """Sends a signal to the processes of a group that run jobs: the children of its leader."""
    children = subprocess.run(["pgrep", "-P", str(leader)], capture_output=True, text=True).stdout.split()
    for child in children:
        os.kill(int(child), number)


def read_progress(path: Path) -> tuple[int, int]:
    """(epochs, steps) from a checkpoint's name."""
    numbers = [int(word) for word in path.stem.split("_") if word.isdigit()]
    return numbers[0], (numbers[1] if len(numbers) > 1 else 0)


def read_json(path: Path) -> list[dict]:
    """Objects of a file without times and places; of extraction only what training and testing share."""
    text = path.read_text()
    lines = [json.loads(text)] if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    lines = [line for line in lines if line.get("_type", "test") in ("train_iter", "val_epoch")] or lines[:1]
    drop = TIMES | {"checkpoint", "config_digest", "versions"}
    return [{key: value for key, value in line.items() if key not in drop} for line in lines]


def read_embeddings(folder: Path) -> dict[tuple, np.ndarray]:
    """(video, view) -> row."""
    table = read_shards(folder).to_pandas()
    keys = zip(table["path"], table["view"], strict=True)
    return dict(zip(keys, table["embedding"], strict=True))


def main() -> int:
    """Soaks, and prints what was done and what was broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", type=float)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as name:
        soak = Soak(Path(name), args.seed)
        for processes in (1, 2):
            soak.run_undisturbed(Path(name) / f"whole_{processes}", processes)
        while time.monotonic() < end:
            processes = soak.draw.choice([1, 1, 2])
            output = Path(name) / f"run_{soak.counts['runs']}"
            try:
                soak.run_disturbed(output, processes)
                soak.compare(Path(name) / f"whole_{processes}", output)
            except Broken as error:
                soak.broken.append(str(error))
                print(f"BROKEN: {error}", output.with_suffix(".log").read_text()[-3000:], sep="\n", flush=True)
            soak.counts["runs"] += 1
            print(f"{soak.counts['runs']} runs: {dict(soak.counts)}", flush=True)
            shutil.rmtree(output, ignore_errors=True)
    print(json.dumps({"minutes": args.minutes, "broken": soak.broken, **soak.counts}))
    return int(bool(soak.broken))


if __name__ == "__main__":
    sys.exit(main())

"""Compares three ways to fine-tune on few clips: a table of their top-1 with 3, 10 and 50 clips of each class.

    python benchmarks/bench_small_data.py
    python benchmarks/bench_small_data.py --counts 3 10 --ways frozen full --seeds 3
    python benchmarks/bench_small_data.py --weights output/demo/mae/checkpoints/checkpoint_epoch_00040.pyth

It makes the motion data set, pre-trains as configs/Demo/MOTION_MAE_8x2.yaml says (on all training videos, without
their labels), and fine-tunes from these weights in the ways of configs/Custom: the encoder frozen under an attentive
head, its lower stages frozen, and all of it with layer decay; `scratch` is all of it from random weights. As in the
recipes, training ends early by its validations and the best checkpoint is tested: on the 400 test videos, in one view.
Beside n clips of each class for training there are n, at most 20, for validation, since whoever has few clips has few
of those too. The model and the numbers of epochs are those of a demo. Seed s takes the s-th n clips of each class.

What is done already in the output folder is not done again. Intervals (95 %) are over test videos; with several seeds
the videos of all are taken together, and the spread is the standard deviation between seeds. The last line is one JSON
object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common

NUM_CLASSES = 8
BATCH = 8
MOST_FOR_VALIDATION = 20
WAYS = {
    "frozen": {"MODEL.FREEZE_STAGES": 4, "MODEL.HEAD": "attentive", "SOLVER.BASE_LR": 2e-3},
    "partial": {"MODEL.FREEZE_STAGES": 2, "SOLVER.BASE_LR": 5e-4, "SOLVER.LAYER_DECAY": 0.75},
    "full": {"SOLVER.BASE_LR": 5e-4, "SOLVER.LAYER_DECAY": 0.75},
    "scratch": {"SOLVER.BASE_LR": 5e-4},
}


def run(*words: str) -> None:
    print("$ hiera-video " + " ".join(words), flush=True)
    status = subprocess.run([sys.executable, "-m", "hiera_video", *words]).returncode
    if status:
        sys.exit(status)


def to_words(pairs: dict[str, object]) -> list[str]:
    return [str(word) for pair in pairs.items() for word in pair]


def pretrain(args: argparse.Namespace) -> str:
    """The checkpoint of the demo's masked autoencoder; one that is there is taken."""
    folder = args.output_dir / "mae"
    config = "Demo/MOTION_MAE_8x2.yaml"
    run("run", "--cfg", config, *to_words({"DATA.PATH_TO_DATA_DIR": args.data_dir, "OUTPUT_DIR": folder}))
    return str(max((folder / "checkpoints").glob("checkpoint_epoch_?????.pyth")))


def write_lists(data_dir: Path, folder: Path, count: int, seed: int) -> None:
    """Lists with ``count`` training clips of each class: their labels take turns in the data set's own lists."""
    folder.mkdir(parents=True, exist_ok=True)
    num_val = min(count, MOST_FOR_VALIDATION)
    train, val = ((data_dir / f"{split}.csv").read_text().splitlines(keepends=True) for split in ("train", "val"))
    start = count * NUM_CLASSES * seed
    chosen = train[start : start + count * NUM_CLASSES]
    if len(chosen) < count * NUM_CLASSES:
        sys.exit(f"error: the data set has no {seed + 1} x {count} training clips of each class")
    (folder / "train.csv").write_text("".join(chosen))
    (folder / "val.csv").write_text("".join(val[: num_val * NUM_CLASSES]))
    (folder / "test.csv").write_text((data_dir / "test.csv").read_text())


def fine_tune(args: argparse.Namespace, way: str, count: int, seed: int, weights: str) -> dict:
    """Trains and tests one cell of the table, or reads what an earlier run has written."""
    folder = args.output_dir / f"{way}_{count}_seed_{seed}"
    results = folder / "test_results.json"
    seconds = 0.0
    if not results.exists():
        write_lists(args.data_dir, folder / "lists", count, seed)
        epochs = max(1, min(args.epochs, args.most_steps // (count * NUM_CLASSES // BATCH)))
        pairs = {
            "DATA.PATH_TO_DATA_DIR": folder / "lists",
            "DATA.PATH_PREFIX": args.data_dir,
            "OUTPUT_DIR": folder,
            "RNG_SEED": seed,
            "TRAIN.BATCH_SIZE": BATCH,
            "TRAIN.CHECKPOINT_FILE_PATH": "" if way == "scratch" else weights,
            "TRAIN.EVAL_PERIOD": max(1, epochs // 15),
            "TRAIN.CHECKPOINT_PERIOD": epochs,
            "TRAIN.CHECKPOINT_KEEP_LAST": 1,
            "TRAIN.EARLY_STOP_VALIDATIONS": args.patience,
            "REPORT.ENABLE": False,
            "TEST.CHECKPOINT_FILE_PATH": "best",
            "TEST.NUM_ENSEMBLE_VIEWS": 1,
            "TEST.NUM_SPATIAL_CROPS": 1,
            "SOLVER.MAX_EPOCH": epochs,
            "SOLVER.WARMUP_EPOCHS": epochs / 5,
            **WAYS[way],
        }
        start = time.perf_counter()
        run("run", "--cfg", "Demo/MOTION_HIERA_8x2.yaml", *to_words(pairs))
        seconds = time.perf_counter() - start
    found = json.loads(results.read_text())
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    validated = [line["epoch"] for line in lines if line["_type"] == "val_epoch"]
    hits = round(found["top1"] * found["num_videos"] / 100)
    return {"top1": found["top1"], "hits": hits, "videos": found["num_videos"], "ended": validated[-1], "sec": seconds}


def make_table(args: argparse.Namespace, cells: dict[str, list[dict]]) -> str:
    from hiera_video.engine.metrics import compute_interval
    from hiera_video.utils.tables import format_table

    rows = [("clips a class", "way", "top-1", "95 % interval", "between seeds", "epochs")]
    for name, runs in cells.items():
        way, count = name.split("_")
        low, high = compute_interval(sum(run["hits"] for run in runs), sum(run["videos"] for run in runs))
        values = [run["top1"] for run in runs]
        spread = f"{statistics.stdev(values):.1f}" if len(values) > 1 else "-"
        ended = ", ".join(run["ended"] for run in runs)
        rows.append((count, way, f"{statistics.mean(values):.1f}", f"[{low:.1f}, {high:.1f}]", spread, ended))
    return format_table(rows, "><>>>>")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data/motion"), help="made unless it is there")
    parser.add_argument("--output-dir", type=Path, default=Path("output/small_data"))
    parser.add_argument("--weights", help="of a masked autoencoder; default: pre-train one as the demo does")
    parser.add_argument("--counts", type=int, nargs="+", default=[3, 10, 50], help="training clips of each class")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["frozen", "partial", "full"])
    parser.add_argument("--seeds", type=int, default=1, help="how many choices of training clips, and runs")
    parser.add_argument("--epochs", type=int, default=100, help="at most")
    parser.add_argument("--most-steps", type=int, default=2000, help="of the optimizer: 40 epochs of 50 clips a class")
    parser.add_argument("--patience", type=int, default=8, help="TRAIN.EARLY_STOP_VALIDATIONS, of about 15 in all")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    load = os.getloadavg()[0]
    run("make-motion-dataset", "--output-dir", str(args.data_dir))
    start = time.perf_counter()
    weights = args.weights or pretrain(args)
    mae_sec = time.perf_counter() - start
    cells: dict[str, list[dict]] = {}
    for count in args.counts:
        for way in args.ways:
            runs = [fine_tune(args, way, count, seed, weights) for seed in range(args.seeds)]
            cells[f"{way}_{count}"] = runs
            print(f"\n{make_table(args, cells)}\n", flush=True)
    args.data_dir, args.output_dir = str(args.data_dir), str(args.output_dir)
    described = common.describe_run(argparse.Namespace(**vars(args), threads=None))
    print(json.dumps({**described, "load_before": load, "weights": weights, "mae_sec": mae_sec, "cells": cells}))


if __name__ == "__main__":
    main()

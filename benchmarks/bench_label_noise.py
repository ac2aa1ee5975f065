"""How many wrong labels `hiera-video find-label-errors` finds: the motion data with 5 % of its labels changed.

    python benchmarks/bench_label_noise.py
    python benchmarks/bench_label_noise.py --data-dir data/motion --output-dir output/label_noise --page errors.html

The data set's training labels are right, so what is changed is known. The realistic case: the model that embeds the
clips has been trained on the wrong labels too. Then each clip is ranked by its neighbors, by a logistic regression that
is fitted to the other folds, and by both. Of each ranking are printed: the share of changed labels among its first 50
(precision at 50), the share of the changed labels that are among as many first places (recall), and how many of these
are suggested their true class; and, last, one line of JSON. By chance the first two are 5 %. Training takes about three
minutes on 2 cores; what the folder has is not done again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

CONFIG = "Demo/MOTION_HIERA_8x2.yaml"
NUM_CLASSES = 8


def change_labels(lines: list[str], *, fraction: float, seed: int) -> tuple[list[str], set[str]]:
    """Lines 'path label' with the given share of labels changed to another class; and the paths of the changed ones."""
    rng = np.random.default_rng(seed)
    changed = set(rng.permutation(len(lines))[: round(fraction * len(lines))].tolist())
    rows, paths = [], set()
    for position, line in enumerate(lines):
        path, label = line.split(" ")
        if position in changed:
            label = str((int(label) + int(rng.integers(1, NUM_CLASSES))) % NUM_CLASSES)
            paths.add(path)
        rows.append(f"{path} {label}")
    return rows, paths


def run(*words: str, quiet: bool = False) -> None:
    """Shows and runs a command; quiet: only what it has to complain about."""
    if not quiet:
        print("$ hiera-video " + " ".join(words), flush=True)
    output = subprocess.DEVNULL if quiet else None
    subprocess.run([sys.executable, "-m", "hiera_video", *words], check=True, stdout=output)


def embed_with_wrong_labels(data_dir: Path, output_dir: Path, *, fraction: float, seed: int, opts: list[str]) -> set:
    """Trains the demo's model on the changed list and embeds its videos; returns the changed paths."""
    lists = output_dir / "lists"
    lists.mkdir(parents=True, exist_ok=True)
    rows, changed = change_labels((data_dir / "train.csv").read_text().splitlines(), fraction=fraction, seed=seed)
    (lists / "train.csv").write_text("".join(f"{row}\n" for row in rows))
    for name in ("val.csv", "test.csv"):
        (lists / name).write_text((data_dir / name).read_text())
    data = ["DATA.PATH_TO_DATA_DIR", str(lists), "DATA.PATH_PREFIX", str(data_dir), "RNG_SEED", str(seed), *opts]
    common = ["run", "--cfg", CONFIG, *data, "TEST.ENABLE", "False", "REPORT.ENABLE", "False"]
    run(*common, "OUTPUT_DIR", str(output_dir / "training"))
    weights = sorted((output_dir / "training" / "checkpoints").glob("checkpoint_epoch_*.pyth"))[-1]
    embed = ["EXTRACT.ENABLE", "True", "EXTRACT.SPLIT", "train", "EXTRACT.CHECKPOINT_FILE_PATH", str(weights)]
    run(*common, "TRAIN.ENABLE", "False", *embed, "OUTPUT_DIR", str(output_dir / "embeddings"))
    return changed


def measure(found: Path, changed: set[str], data_dir: Path, *, top_k: int) -> dict[str, float]:
    """Precision among the first rows of a ranking, recall among as many rows as labels were changed, and the share of
    the changed ones there that are suggested their true class."""
    true = dict(line.split(" ") for line in (data_dir / "train.csv").read_text().splitlines())
    suspects = json.loads(found.read_text())["suspects"]
    names = [os.path.relpath(suspect["path"], data_dir) for suspect in suspects]
    hits = [name in changed for name in names]
    first = [(suspect, name) for suspect, name in zip(suspects, names, strict=True) if name in changed][: len(changed)]
    is_right = [str(suspect["suggested"]) == true[name] for suspect, name in first]
    return {
        f"precision_at_{top_k}": sum(hits[:top_k]) / top_k,
        "recall": sum(hits[: len(changed)]) / len(changed),
        "suggested_right": sum(is_right) / max(len(is_right), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data/motion"), help="made where it is missing")
    parser.add_argument("--output-dir", type=Path, default=Path("output/label_noise"))
    parser.add_argument("--fraction", type=float, default=0.05, help="of the labels that are changed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--top-k", type=int, default=50)
    parser.add_argument(
        "--page", metavar="FILE", help="the page of the first ones; default: label_errors.html in the folder"
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to change")
    args = parser.parse_args()
    run("make-motion-dataset", "--output-dir", str(args.data_dir))
    start = time.perf_counter()
    changed = embed_with_wrong_labels(
        args.data_dir, args.output_dir, fraction=args.fraction, seed=args.seed, opts=args.opts
    )
    result = {"num_videos": 0, "num_changed": len(changed), "seconds_training": round(time.perf_counter() - start, 1)}
    names = ["--class-names", str(args.data_dir / "classnames.json")]
    headings = (f"precision at {args.top_k}", f"recall in {len(changed)}", "suggested right")
    print(f"\n{'ranked by':12}" + "".join(f"{heading:>18}" for heading in headings))
    for ranking in ("neighbors", "classifier", "both"):
        found = args.output_dir / f"{ranking}.json"
        page = args.page or str(args.output_dir / "label_errors.html")
        words = ["--rank-by", ranking, "--json", str(found), "--html", page, *names]
        run("find-label-errors", str(args.output_dir / "embeddings"), *words, quiet=True)
        row = result[ranking] = measure(found, changed, args.data_dir, top_k=args.top_k)
        print(f"{ranking:12}" + "".join(f"{100 * value:16.1f} %" for value in row.values()))
    print(f"by chance   {100 * args.fraction:16.1f} %{100 * args.fraction:16.1f} %")
    result["num_videos"] = len((args.data_dir / "train.csv").read_text().splitlines())
    print(json.dumps(result))


if __name__ == "__main__":
    main()

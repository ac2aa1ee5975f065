"""The demo: makes videos, trains a small Hiera on them, tests it over several views, and prints what came out.

Every step is a command that can be typed by hand; it is printed before it runs.
"""

import argparse
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import simplejson

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/Demo/MOTION_HIERA_8x2.yaml"


def run(*words: str) -> float:
    """Shows and runs a command of this repository; gives its seconds, or stops with its exit status."""
    print("\n$ python " + shlex.join(words), flush=True)
    start = time.perf_counter()
    status = subprocess.run([sys.executable, *words], cwd=ROOT).returncode
    if status:
        sys.exit(status)
    return time.perf_counter() - start


def print_table(rows: dict[str, str]) -> None:
    """A two-column table."""
    width = max(map(len, rows))
    print("\n" + "-" * 72)
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")
    print("-" * 72)


def main() -> None:
    """Runs the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", default="data/motion", help="where the generated videos go")
    parser.add_argument("--output-dir", default="output/demo", help="emptied first")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys to change")
    args = parser.parse_args()
    output_dir = ROOT / args.output_dir
    shutil.rmtree(output_dir, ignore_errors=True)  # a demo starts from scratch; jobs of one's own resume
    common = ["DATA.PATH_TO_DATA_DIR", args.data_dir, "OUTPUT_DIR", args.output_dir, *args.opts]

    data_seconds = run("tools/make_motion_dataset.py", "--output-dir", args.data_dir)
    train_seconds = run("tools/run_net.py", "--cfg", CONFIG, *common, "TEST.ENABLE", "False")
    test_seconds = run("tools/run_net.py", "--cfg", CONFIG, *common, "TRAIN.ENABLE", "False")

    results = simplejson.loads((output_dir / "test_results.json").read_text())
    print_table(
        {
            "trained": f"{results['model']} (reduced by {CONFIG}) from scratch, 8 classes of motion",
            "tested": f"{results['num_videos']} videos x {results['num_views']} views "
            f"({results['num_ensemble_views']} clips x {results['num_spatial_crops']} crops), "
            f"{results['num_failed']} undecodable",
            "top-1 / top-5": f"{results['top1']:.2f} % / {results['top5']:.2f} %   (chance: 12.5 % / 62.5 %)",
            "time": f"videos {data_seconds:.0f} s, training {train_seconds:.0f} s, test {test_seconds:.0f} s",
            "videos": args.data_dir,
            "results": f"{args.output_dir}/test_results.json, test_predictions.parquet, metrics.jsonl",
            "weights": results["checkpoint"],
        }
    )
    summary = {name: results[name] for name in ("top1", "top5", "num_videos", "num_views")}
    seconds = {"train_seconds": round(train_seconds, 1), "test_seconds": round(test_seconds, 1)}
    print(simplejson.dumps({**summary, **seconds}))


if __name__ == "__main__":
    main()

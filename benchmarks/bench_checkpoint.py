"""How long training waits for a checkpoint: for its copy alone, as it does, or until the file is written.

    python benchmarks/bench_checkpoint.py --model hiera_base_16x224

Both ways write the same state, weights and Adam's two moments, in turns. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time

import torch

import hiera_video
from hiera_video.engine.checkpoint import CheckpointWriter, get_checkpoint_path


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="hiera_base_16x224")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    weights = hiera_video.build_model(args.model).state_dict()
    state = {number: {"exp_avg": w.clone(), "exp_avg_sq": w.clone()} for number, w in enumerate(weights.values())}
    content = {"model_state": weights, "optimizer_state": {"state": state}, "epoch": 1}
    size_mib = 3 * sum(w.numel() * w.element_size() for w in weights.values()) / 2**20
    seconds: dict[str, list[float]] = {"background": [], "foreground": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.rounds):
            for way in seconds:
                writer = CheckpointWriter(folder, keep_last=1, stop_on_failure=True)
                begin = time.perf_counter()
                writer.save(get_checkpoint_path(folder, number + 1), content, must_succeed=way == "foreground")
                seconds[way].append(time.perf_counter() - begin)
                writer.wait()
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    ratio = statistics.median(f / b for f, b in zip(seconds["foreground"], seconds["background"], strict=True))
    print(f"{args.model}, {size_mib:.0f} MiB, torch {torch.__version__}")
    print(f"training waits {medians['background']:.2f} s for the copy, {medians['foreground']:.2f} s for the file")
    print(json.dumps({"model": args.model, "mib": round(size_mib), **medians, "ratio": round(ratio, 2)}))


if __name__ == "__main__":
    main()

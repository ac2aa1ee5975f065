"""The demo of actions in boxes: scenes of several moving things, a model trained on them, and what a box is worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import simplejson

if TYPE_CHECKING:
    from hiera_video.cli.demo import Demo

CONFIG = "Demo/MOTION_AVA_8x1.yaml"
_TRUTH = "ava_val_v2.2.csv"
_SWAPPED = "swapped_truth.csv"


def run_actions(demo: Demo) -> None:
    """All commands of the demo, and its table."""
    from hiera_video.cli.demo import find_weights

    demo.run("scenes", "make-motion-dataset", "--task", "ava", "--output-dir", demo.data_dir)
    demo.run_jobs("training", CONFIG, "", "TEST.ENABLE", "False")
    only_test = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", find_weights(demo.output_dir)]
    demo.run_jobs("test", CONFIG, "", *only_test)
    swapped = Path(demo.output_dir, _SWAPPED).resolve()
    swapped.write_text(swap_labels(Path(demo.data_dir, _TRUTH).read_text()))
    demo.run_jobs("test with swapped boxes", CONFIG, "swapped", *only_test, "AVA.GROUNDTRUTH_FILE", str(swapped))
    report(demo)


def report(demo: Demo) -> None:
    """Prints the table, and one line of JSON."""
    from hiera_video.cli.demo import print_table

    results, other = demo.load_results(""), demo.load_results("swapped")
    right, swapped = (measure_boxes(Path(demo.output_dir, folder)) for folder in ("", "swapped"))
    seconds = {step: round(value, 1) for step, value in demo.seconds.items()}
    chance = 100.0 / results["num_classes_scored"]
    low, high = results["map_interval"]
    protocols = results["map_by_protocol"].items()
    print_table(
        {
            "trained": f"{results['model']} (reduced by {CONFIG}) from scratch, 8 classes of motion",
            "tested": f"{results['num_boxes']} predicted boxes of {results['num_key_frames']} key frames, "
            f"{results['num_failed']} undecodable, {results['num_outside']} boxes out of view",
            "mAP": f"{results['map']:.2f} %, 95 % interval [{low:.2f}, {high:.2f}] ({results['protocol']}'s protocol)",
            "by protocol": ", ".join(f"{name} {value['map']:.2f} %" for name, value in protocols),
            "boxes": f"{right['top1']:.2f} % have their own class on top   (chance: {chance:.1f} %)",
            "boxes swapped": f"{swapped['top1']:.2f} %, when the labels of the things of each frame change places; mAP "
            f"{other['map']:.2f} %",
            "box unknown": f"mAP {right['map_of_frames']:.2f} %, when all boxes of a frame get the mean of its scores",
            "time": ", ".join(f"{step} {value:.0f} s" for step, value in seconds.items()),
            "scenes": demo.data_dir,
            "results": f"{demo.output_dir}/test_results.json, test_detections.csv",
            "weights": results["checkpoint"],
        }
    )
    summary = {"map": results["map"], "map_swapped": other["map"], "map_box_unknown": right["map_of_frames"]}
    summary |= {"top1": right["top1"], "top1_swapped": swapped["top1"], "num_boxes": results["num_boxes"]}
    by_protocol = {"map_by_protocol": {name: value["map"] for name, value in protocols}}
    print(simplejson.dumps({**summary, **by_protocol, "seconds": seconds}))


def measure_boxes(output_dir: Path) -> dict[str, float]:
    """What a test's detections tell beside its mAP, in percent.

    Args:
        output_dir: of the test.

    Returns:
        ``top1``: of the boxes that overlap a box of truth with IoU >= 0.5, the share whose likeliest class is one of
        its labels. ``map_of_frames``: the mAP of a model that knew each frame and not the box, where all boxes of a
        frame have the mean of its scores.
    """
    import numpy as np
    import pandas as pd

    from hiera_video.config import load_config
    from hiera_video.data.action_lists import CORNERS
    from hiera_video.data.box_lists import build_truth
    from hiera_video.engine.action_ap import compute_action_ap
    from hiera_video.engine.tracks import compute_ious

    truth = build_truth(load_config([str(output_dir / "test_config.yaml")], []), "val")
    found = pd.read_parquet(output_dir / "test_detections.parquet")
    found["top"] = [int(np.argmax(row)) for row in found["probs"]]
    labels = dict(list(truth.boxes.groupby(["video", "time_sec"])))
    hits = []
    for moment, boxes in found.groupby(["video", "time_sec"]):
        there = labels[moment]
        ious = compute_ious(boxes[CORNERS].to_numpy(), there[CORNERS].to_numpy())
        for top, row in zip(boxes["top"], ious, strict=True):
            if row.max() >= 0.5:
                hits.append(top in there["label"].to_numpy()[row == row.max()])
    scores = np.stack(found["probs"].tolist())
    frames = found.groupby(["video", "time_sec"]).ngroup().to_numpy()
    means = np.stack([scores[frames == frame].mean(axis=0) for frame in range(frames.max() + 1)])[frames]
    unknown = compute_action_ap(truth.boxes, found, means, classes=sorted(truth.class_names), excluded=truth.excluded)
    return {"top1": 100.0 * float(np.mean(hits)), "map_of_frames": 100.0 * unknown.mean}


def swap_labels(truth: str) -> str:
    """AVA's truth in which, at each moment, each box has the labels of the box before it, the first those of the last.

    Args:
        truth: lines ``video,second,x1,y1,x2,y2,action_id,person_id``; persons are in the order of their first lines.

    Raises:
        ValueError: a moment has a single box, which cannot be swapped.
    """
    moments: dict[tuple[str, ...], dict[str, list[list[str]]]] = {}
    for line in truth.splitlines():
        cells = line.split(",")
        moments.setdefault(tuple(cells[:2]), {}).setdefault(cells[7], []).append(cells)
    lines = []
    for (video, second), persons in moments.items():
        things = list(persons.values())
        if len(things) < 2:
            raise ValueError(f"{video} at second {second} has a single box, and nothing to swap it with")
        for thing, source in zip(things, [things[-1], *things[:-1]], strict=True):
            lines += [",".join([*thing[0][:6], row[6], thing[0][7]]) for row in source]
    return "".join(f"{line}\n" for line in lines)

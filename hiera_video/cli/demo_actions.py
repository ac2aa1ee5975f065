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
    from hiera_video.cli.demo import find_weights, print_table

    demo.run("scenes", "make-motion-dataset", "--task", "ava", "--output-dir", demo.data_dir)
    demo.run_jobs("training", CONFIG, "", "TEST.ENABLE", "False")
    only_test = ["TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", find_weights(demo.output_dir)]
    demo.run_jobs("test", CONFIG, "", *only_test)
    swapped = Path(demo.output_dir, _SWAPPED).resolve()
    swapped.write_text(swap_labels(Path(demo.data_dir, _TRUTH).read_text()))
    demo.run_jobs("test with swapped boxes", CONFIG, "swapped", *only_test, "AVA.GROUNDTRUTH_FILE", str(swapped))
    results, other = demo.load_results(""), demo.load_results("swapped")
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
            "boxes swapped": f"{other['map']:.2f} %   (chance: about {chance:.1f} %): the labels of the things of each "
            "frame change places",
            "time": ", ".join(f"{step} {value:.0f} s" for step, value in seconds.items()),
            "scenes": demo.data_dir,
            "results": f"{demo.output_dir}/test_results.json, test_detections.csv",
            "weights": results["checkpoint"],
        }
    )
    summary = {"map": results["map"], "map_swapped": other["map"], "num_boxes": results["num_boxes"]}
    by_protocol = {"map_by_protocol": {name: value["map"] for name, value in protocols}}
    print(simplejson.dumps({**summary, **by_protocol, "seconds": seconds}))


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

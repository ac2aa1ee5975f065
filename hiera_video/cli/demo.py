"""The demo: makes videos, trains a small Hiera on them, tests it over several views, and prints what came out.

    hiera-video demo
    hiera-video demo --data-dir /tmp/motion --output-dir /tmp/demo RNG_SEED 1
    hiera-video demo images
    hiera-video demo images --mae
    hiera-video demo actions
    hiera-video demo coco

It also shows what pre-training is worth where labels are few: a masked autoencoder learns from the videos alone and is
fine-tuned on 3 labeled videos of each class, beside the same training from random weights. Then all videos are
embedded; probes measure what the embeddings tell, and a page shows the videos most similar to one of them.

`demo images` does it with pictures: it makes them, pre-trains on request, trains an image model and tests it.
`demo actions` makes scenes of several things, and trains a model that says of each box what moves how in it.
`demo coco` makes pictures of several shapes, trains a detector of boxes and masks, tests it, and draws what it finds.

Each step is a command that can be typed by hand; the demo prints it before it runs. Folders are those of the current
folder: data/motion and output/demo.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import simplejson

from hiera_video.cli.arguments import make_parser, report_errors
from hiera_video.cli.demo_actions import CONFIG as ACTION_CONFIG
from hiera_video.cli.demo_actions import run_actions

CONFIG = "Demo/MOTION_HIERA_8x2.yaml"
MAE_CONFIG = "Demo/MOTION_MAE_8x2.yaml"
FEW_LABELS_CONFIG = "Demo/MOTION_FEW_LABELS_8x2.yaml"
IMAGE_CONFIG = "Demo/SHAPES_HIERA_64.yaml"
IMAGE_MAE_CONFIG = "Demo/SHAPES_MAE_64.yaml"
DETECTION_CONFIG = "Demo/SHAPES_DETECT_128.yaml"
# Which demo -> where its data and its results go by default.
_PLACES = {
    "videos": ("data/motion", "output/demo"),
    "images": ("data/shapes", "output/demo_images"),
    "actions": ("data/motion_ava", "output/demo_actions"),
    "coco": ("data/shapes_coco", "output/demo_coco"),
}
_NUM_DRAWN = 4
_MARKER = ".hiera_video_demo"  # only a folder with this file is removed


class Demo:
    """Runs commands one after the other.

    Args:
        data_dir: where the generated videos go.
        output_dir: where results go.
        opts: config keys and values, for all commands.
    """

    def __init__(self, data_dir: str, output_dir: str, opts: list[str]) -> None:
        self.data_dir = data_dir
        self.output_dir = output_dir
        self.opts = opts
        self.seconds: dict[str, float] = {}

    def run(self, step: str, *words: str) -> None:
        """Shows and runs a command and notes its seconds; ends the demo with its exit status if it fails."""
        print("\n$ hiera-video " + shlex.join(words), flush=True)
        start = time.perf_counter()
        status = subprocess.run([sys.executable, "-m", "hiera_video", *words]).returncode
        if status:
            sys.exit(status)
        self.seconds[step] = time.perf_counter() - start

    def run_jobs(self, step: str, config: str, folder: str, *opts: str) -> None:
        """Runs the jobs of a config; results go to ``folder`` below the output folder."""
        data = ["DATA.PATH_TO_DATA_DIR", self.data_dir]
        if config == FEW_LABELS_CONFIG:
            data = ["DATA.PATH_TO_DATA_DIR", f"{self.data_dir}/few_labels", "DATA.PATH_PREFIX", self.data_dir]
        if config not in (IMAGE_CONFIG, IMAGE_MAE_CONFIG, ACTION_CONFIG, DETECTION_CONFIG):  # their data names classes
            data += ["DATA.CLASS_NAMES_PATH", f"{self.data_dir}/classnames.json"]
        output = ["OUTPUT_DIR", os.path.normpath(os.path.join(self.output_dir, folder))]
        self.run(step, "run", "--cfg", config, *data, *output, *opts, *self.opts)

    def load_results(self, folder: str) -> dict[str, Any]:
        """The results of the test job in ``folder`` below the output folder."""
        return simplejson.loads(Path(self.output_dir, folder, "test_results.json").read_text())

    def load_probes(self) -> dict[str, float]:
        """Top-1 of the probes on the embeddings, in percent."""
        scores = simplejson.loads(Path(self.output_dir, "probes.json").read_text())["scores"]
        return {score["probe"]: score["value"] for score in scores if score["metric"] == "top-1"}


def prepare_output(output_dir: str) -> None:
    """Removes what an earlier demo left, because jobs would go on with it, and marks the folder as a demo's.

    Raises:
        ValueError: the folder holds something else.
    """
    folder = Path(output_dir)
    if not folder.exists() or not any(folder.iterdir()):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _MARKER).touch()
        return
    if not (folder / _MARKER).is_file():
        raise ValueError(f"--output-dir {output_dir} is not empty and holds no results of a demo; take another folder")
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / _MARKER).touch()


def run_all(demo: Demo) -> None:
    """All commands of the demo."""
    demo.run("videos", "make-motion-dataset", "--output-dir", demo.data_dir)
    demo.run_jobs("training", CONFIG, "", "TEST.ENABLE", "False")
    demo.run_jobs("test", CONFIG, "", "TRAIN.ENABLE", "False")
    demo.run_jobs("pre-training", MAE_CONFIG, "mae")
    weights = find_weights(f"{demo.output_dir}/mae")
    start_from = ["TRAIN.CHECKPOINT_FILE_PATH", weights]
    demo.run_jobs("few labels, pre-trained", FEW_LABELS_CONFIG, "few_labels_mae", *start_from)
    demo.run_jobs("few labels, from scratch", FEW_LABELS_CONFIG, "few_labels_scratch")
    both = [f"{demo.output_dir}/few_labels_{start}" for start in ("scratch", "mae")]
    demo.run("comparison", "report", *both, "--html", f"{demo.output_dir}/few_labels.html")
    embed(demo)


def find_weights(output_dir: str) -> str:
    """The newest checkpoint of a job.

    Raises:
        FileNotFoundError: there is none, for example because KEY VALUE pairs turned the job off.
    """
    from hiera_video.engine.checkpoint import find_last_checkpoint  # slow to import

    path = find_last_checkpoint(output_dir)
    if path is None:
        raise FileNotFoundError(f"{output_dir} holds no checkpoint, so the demo cannot go on")
    return str(path)


def embed(demo: Demo) -> None:
    """Embeds all videos with the trained model, measures the embeddings, and searches among them."""
    weights = find_weights(demo.output_dir)
    folder = f"{demo.output_dir}/embeddings"
    only = ["TRAIN.ENABLE", "False", "TEST.ENABLE", "False", "EXTRACT.ENABLE", "True"]
    demo.run_jobs("embeddings", CONFIG, "embeddings", *only, "EXTRACT.CHECKPOINT_FILE_PATH", weights)
    demo.run("probes", "probe", folder, "--json", f"{demo.output_dir}/probes.json")
    example = Path(demo.data_dir, "test.csv").read_text().split(" ")[0]
    names = ["--class-names", f"{demo.data_dir}/classnames.json"]
    page = ["--exclude-same-video", "--group-by-video", *names, "--html", f"{demo.output_dir}/search.html"]
    demo.run("search", "search", folder, "--path", f"{demo.data_dir}/{example}", *page)


def run_images(demo: Demo, *, with_mae: bool) -> None:
    """All commands of the demo with pictures, and its table."""
    demo.run("pictures", "make-shape-dataset", "--output-dir", demo.data_dir)
    start_from: list[str] = []
    if with_mae:
        demo.run_jobs("pre-training", IMAGE_MAE_CONFIG, "mae")
        start_from = ["TRAIN.CHECKPOINT_FILE_PATH", find_weights(f"{demo.output_dir}/mae")]
    demo.run_jobs("training and test", IMAGE_CONFIG, "", *start_from)
    results = demo.load_results("")
    low, high = results["top1_interval"]
    seconds = {step: round(value, 1) for step, value in demo.seconds.items()}
    print_table(
        {
            "trained": f"{results['model']} (reduced by {IMAGE_CONFIG}) from "
            + ("its own pre-training" if with_mae else "scratch"),
            "tested": f"{results['num_videos']} pictures, {results['num_failed']} undecodable",
            "top-1": f"{results['top1']:.2f} %, 95 % interval [{low:.2f}, {high:.2f}]   (chance: 12.5 %)",
            "time": ", ".join(f"{step} {value:.0f} s" for step, value in seconds.items()),
            "pictures": demo.data_dir,
            "results": f"{demo.output_dir}/test_results.json",
            "weights": results["checkpoint"],
        }
    )
    print(simplejson.dumps({"top1": results["top1"], "num_pictures": results["num_videos"], "seconds": seconds}))


def run_coco(demo: Demo) -> None:
    """All commands of the demo with boxes and masks, and its table."""
    demo.run("pictures", "make-shape-dataset", "--task", "coco", "--output-dir", demo.data_dir)
    demo.run_jobs("training and test", DETECTION_CONFIG, "")
    results = demo.load_results("")
    pictures = [f"{demo.data_dir}/val2017/{number:06d}.png" for number in range(_NUM_DRAWN)]
    drawn = ["--output-dir", f"{demo.output_dir}/drawn", "--json", f"{demo.output_dir}/things.json"]
    demo.run("drawing", "predict", *pictures, "--checkpoint", results["checkpoint"], *drawn)
    seconds = {step: round(value, 1) for step, value in demo.seconds.items()}
    rows = {
        "trained": f"{results['model']} (reduced by {DETECTION_CONFIG}) with Mask R-CNN, from scratch",
        "tested": f"{results['num_pictures']} pictures with {results['num_instances']} shapes, {results['num_failed']} "
        "undecodable",
        "boxes": f"AP {results['box_ap']:.1f} %, AP50 {results['box_ap50']:.1f} %, AP75 {results['box_ap75']:.1f} %",
        "masks": f"AP {results['mask_ap']:.1f} %, AP50 {results['mask_ap50']:.1f} %, AP75 {results['mask_ap75']:.1f} %",
    }
    for name, own in results["per_class"].items():
        rows[f"  {name}"] = f"box AP {own['box_ap']:.1f} %, mask AP {own['mask_ap']:.1f} %"
    rows["time"] = ", ".join(f"{step} {value:.0f} s" for step, value in seconds.items())
    rows |= {"drawn": f"{demo.output_dir}/drawn", "results": f"{demo.output_dir}/test_results.json"}
    print_table({**rows, "weights": results["checkpoint"]})
    names = ("box_ap", "box_ap50", "mask_ap", "mask_ap50", "num_pictures")
    print(simplejson.dumps({**{name: results[name] for name in names}, "seconds": seconds}))


def print_table(rows: dict[str, str]) -> None:
    """A two-column table."""
    width = max(map(len, rows))
    print("\n" + "-" * 78)
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")
    print("-" * 78)


def report(demo: Demo) -> None:
    """Prints the table, and one line of JSON."""
    results = demo.load_results("")
    pretrained, scratch = (demo.load_results(f"few_labels_{start}") for start in ("mae", "scratch"))
    seconds = {step: round(value, 1) for step, value in demo.seconds.items()}
    print_table(
        {
            "trained": f"{results['model']} (reduced by {CONFIG}) from scratch, 8 classes of motion",
            "tested": f"{results['num_videos']} videos x {results['num_views']} views "
            f"({results['num_ensemble_views']} clips x {results['num_spatial_crops']} crops), "
            f"{results['num_failed']} undecodable",
            "top-1 / top-5": f"{results['top1']:.2f} % / {results['top5']:.2f} %   (chance: 12.5 % / 62.5 %)",
            "with few labels": "the same model, 3 labeled videos of each class, tested on 1 view; top-1:",
            "  pre-trained": f"{pretrained['top1']:.2f} %   (MAE on all training videos, without their labels)",
            "  from scratch": f"{scratch['top1']:.2f} %   (the same fine-tuning from random weights)",
            "embeddings": ", ".join(f"{name} {value:.1f} %" for name, value in demo.load_probes().items()),
            "pages": f"{demo.output_dir}/report.html (the run), few_labels.html (both starts), search.html",
            "time": ", ".join(f"{step} {value:.0f} s" for step, value in list(seconds.items())[:3]),
            "": ", ".join(f"{step} {value:.0f} s" for step, value in list(seconds.items())[3:6]),
            " ": ", ".join(f"{step} {value:.0f} s" for step, value in list(seconds.items())[6:]),
            "  ": f"{sum(seconds.values()):.0f} s in all",
            "videos": demo.data_dir,
            "results": f"{demo.output_dir}/test_results.json, test_predictions.parquet, metrics.jsonl",
            "weights": results["checkpoint"],
        }
    )
    summary = {name: results[name] for name in ("top1", "top5", "num_videos", "num_views")}
    few_labels = {"few_labels_top1": {"mae": pretrained["top1"], "scratch": scratch["top1"]}}
    print(simplejson.dumps({**summary, **few_labels, "probes": demo.load_probes(), "seconds": seconds}))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command."""
    parser = make_parser("demo", __doc__, usage="[options] [KEY VALUE ...]")
    places = ", ".join(f"{kind} {data}" for kind, (data, _) in _PLACES.items())
    parser.add_argument("--data-dir", help=f"where the data goes; default: {places}")
    results = ", ".join(f"{kind} {output}" for kind, (_, output) in _PLACES.items())
    parser.add_argument("--output-dir", help=f"emptied first; default: {results}")
    parser.add_argument("--mae", action="store_true", help="images: pre-train a masked autoencoder first")
    kinds = "|".join(list(_PLACES)[1:])
    parser.add_argument(
        "opts",
        nargs="*",
        metavar=f"[{kinds}] [KEY VALUE]",
        help="another demo than that of videos; config keys to change",
    )
    args = parser.parse_intermixed_args(argv)
    args.kind = args.opts[0] if args.opts and args.opts[0] in _PLACES else "videos"
    args.opts = args.opts[args.opts[:1] == [args.kind] :]
    if args.mae and args.kind != "images":
        parser.error("--mae is for `demo images`: the demo of videos always pre-trains")
    args.data_dir = args.data_dir or _PLACES[args.kind][0]
    args.output_dir = args.output_dir or _PLACES[args.kind][1]
    return args


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo."""
    args = parse_args(argv)
    prepare_output(args.output_dir)
    demo = Demo(args.data_dir, args.output_dir, args.opts)
    if args.kind == "images":
        run_images(demo, with_mae=args.mae)
        return 0
    if args.kind == "actions":
        run_actions(demo)
        return 0
    if args.kind == "coco":
        run_coco(demo)
        return 0
    run_all(demo)
    report(demo)
    return 0

"""Compares the input path of pictures with torchvision's and timm's, side by side on one core.

    python benchmarks/bench_images.py --video ../shared/videos/cleaning_pool_340x256.mp4 --runs 7

The pictures are frames of a real video, resized to ImageNet's usual 500 x 375 and written as JPEG of quality 90. Each
side does all of its work on them, from the file to a normalized float tensor: torchvision's ImageFolder with its
transforms on Pillow pictures, timm's data set with its own, and our data set with normalization as a job does it.
`crop` is what pre-training does (crop, resize, flip), `augment` has RandAugment (9, 0.5) besides, `evaluate` is resize
256 and a center crop. Times are medians of alternating runs, ratios medians of the ratios of neighboring runs (theirs
over ours). Decoders alone are compared below. The last line is one JSON object.
"""

import argparse
import contextlib
import io
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CASES = ("crop", "augment", "evaluate")
RAND_AUGMENT = "rand-m9-n2-mstd0.5-inc1"


def write_pictures(video: str, folder: Path, count: int) -> None:
    from hiera_video import VideoReader

    with VideoReader(video) as reader:
        frames = reader.get_frames([i * len(reader) // count for i in range(count)])
    for number, frame in enumerate(frames):
        path = folder / "train" / str(number % 2) / f"{number:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame.numpy()).resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)


def make_ours(folder: Path, case: str) -> Callable[[int], Any]:
    from hiera_video.config import load_config
    from hiera_video.data.build_lists import build_video_list
    from hiera_video.data.loader import build_train_dataset
    from hiera_video.data.transforms import build_eval_transform
    from hiera_video.engine.batch import to_model_input
    from hiera_video.video import VideoReader

    pairs = {"DATA.PATH_TO_DATA_DIR": folder, "MODEL.NUM_CLASSES": 2, "DATA_LOADER.NUM_WORKERS": 0}
    pairs |= {"AUG.AA_TYPE": RAND_AUGMENT if case == "augment" else "", "DATA.TRAIN_JITTER_SCALES_RELATIVE": [0.2, 1.0]}
    cfg = load_config(["ImageNet/HIERA_T_224.yaml"], [str(word) for pair in pairs.items() for word in pair])
    videos = build_video_list(cfg, "train")
    options = {"device": torch.device("cpu"), "mean": cfg.DATA.MEAN, "std": cfg.DATA.STD}
    if case == "evaluate":
        transform = build_eval_transform(cfg, num_crops=1, crop_size_px=224)

        def load(index: int) -> Any:
            with VideoReader(str(videos.paths[index])) as reader:
                return to_model_input(transform(reader.get_frames([0]))[None], **options)

        return load
    dataset = build_train_dataset(cfg, videos)
    return lambda index: to_model_input(dataset[0, index]["video"][None], **options)


def make_torchvision(folder: Path, case: str) -> Callable[[int], Any]:
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    bicubic = transforms.InterpolationMode.BICUBIC
    if case == "evaluate":
        steps: list[Any] = [transforms.Resize(256, bicubic), transforms.CenterCrop(224)]
    else:
        steps = [
            transforms.RandomResizedCrop(224, (0.2, 1.0), interpolation=bicubic),
            transforms.RandomHorizontalFlip(),
        ]
        steps += [transforms.RandAugment(2, 9)] if case == "augment" else []
    steps += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    dataset = ImageFolder(str(folder / "train"), transforms.Compose(steps))
    return lambda index: dataset[index]


def make_timm(folder: Path, case: str) -> Callable[[int], Any]:
    from timm.data import create_dataset, create_transform

    options = {"input_size": 224, "interpolation": "bicubic", "mean": MEAN, "std": STD}
    if case == "evaluate":
        transform = create_transform(**options, crop_pct=0.875)
    else:
        augment = RAND_AUGMENT if case == "augment" else None
        options |= {"is_training": True, "scale": (0.2, 1.0), "color_jitter": 0.0, "auto_augment": augment}
        transform = create_transform(**options)
    dataset = create_dataset("", root=str(folder), split="train", transform=transform)

    def load(index: int) -> Any:
        # timm posterizes to 0 bits at times, which newer Pillows refuse; such a picture counts as done.
        with contextlib.suppress(ValueError):
            return dataset[index]

    return load


SIDES = {"torchvision": make_torchvision, "timm": make_timm, "ours": make_ours}


def time_all(loaders: dict[str, Callable[[int], Any]], count: int, runs: int) -> dict[str, list[float]]:
    """Seconds of each side's runs over all pictures, the sides in turns; a first run of each is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    for run in range(runs + 1):
        for name, load in loaders.items():
            random.seed(run)
            torch.manual_seed(run)
            start = time.perf_counter()
            for index in range(count):
                load(index)
            if run:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def make_decoders(folder: Path) -> dict[str, Callable[[int], Any]]:
    from torchvision.io import ImageReadMode, decode_jpeg

    from hiera_video.video.image_backend import decode_image

    data = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]
    tensors = [torch.frombuffer(bytearray(d), dtype=torch.uint8) for d in data]

    def decode_draft(index: int) -> Any:
        with Image.open(io.BytesIO(data[index])) as picture:
            picture.draft("RGB", (224, 224))
            return picture.convert("RGB")

    def decode_pillow(index: int) -> Any:
        with Image.open(io.BytesIO(data[index])) as picture:
            return np.asarray(picture)

    return {
        "ours": lambda index: decode_image(data[index]),
        "Pillow": decode_pillow,
        "torchvision": lambda index: decode_jpeg(tensors[index], mode=ImageReadMode.RGB),
        "Pillow, scaled": decode_draft,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", default="../shared/videos/cleaning_pool_340x256.mp4")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    args.threads, args.dtypes = 1, ["uint8"]
    torch.set_num_threads(1)
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(args.video, folder, args.pictures)
        print(f"{args.pictures} pictures of 500 x 375, 1 thread, {args.runs} runs; pictures/s")
        print(f"{'':<10}{'torchvision':>13}{'timm':>9}{'ours':>9}{'/ torchvision':>15}{'/ timm':>9}")
        for case in CASES:
            seconds = time_all({side: make(folder, case) for side, make in SIDES.items()}, args.pictures, args.runs)
            row = {side: args.pictures / statistics.median(values) for side, values in seconds.items()}
            for side in ("torchvision", "timm"):
                pairs = zip(seconds[side], seconds["ours"], strict=True)
                row[f"/ {side}"] = statistics.median(theirs / ours for theirs, ours in pairs)
            results[case] = row
            rates = f"{row['torchvision']:>13.1f}{row['timm']:>9.1f}{row['ours']:>9.1f}"
            print(f"{case:<10}{rates}{row['/ torchvision']:>14.2f}x{row['/ timm']:>8.2f}x")
        seconds = time_all(make_decoders(folder), args.pictures, args.runs)
        results["decode"] = {side: args.pictures / statistics.median(values) for side, values in seconds.items()}
        for side, rate in results["decode"].items():
            print(f"decode, {side:<20}{rate:>8.1f}")
    print(json.dumps({"benchmark": "bench_images"} | common.describe_run(args) | {"results": results}))


if __name__ == "__main__":
    main()

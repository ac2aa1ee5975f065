"""What a training clip costs beyond decoding and copying it, piece by piece, on one core.

    python benchmarks/bench_transforms.py --video VIDEO.mp4 --runs 100

A clip of 16 x 4 frames, cropped at random, 224 px, with RandAugment: of the video as it is, and of the same video with
a key frame every 16 frames and settings that cost the decoder little, so that the rest shows. Frames are known from a
manifest. Each run takes another clip, the same one for all sides; sides alternate. Times are means of the processor
time that this process takes, so that other jobs on the machine count little. Sides:

    decoder         the packets decoded, with the same frames left out, nothing converted; the open file does not count
    decode          the file opened, and the frames as RGB: what VideoReader.get_frames gives
    decode + copy   and the same amount of pixels copied into a sample: no crop, no resize, no augmentation
    sample          what the data set gives

The last line is one JSON object.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from unittest.mock import patch

import av
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common
from bench_input import NUM_FRAMES, SIZE_PX, make_training_set

from hiera_video.data.dataset import VideoDataset
from hiera_video.data.rand_augment import OPERATIONS, RandAugment
from hiera_video.data.transforms import TrainTransform, Window
from hiera_video.inspection.inspect_video import inspect_video
from hiera_video.utils.rng import kept_generators, seed_cpu, seeded
from hiera_video.video import VideoReader
from hiera_video.video.manifest import load_manifest, open_video, write_manifest
from hiera_video.video.pyav_backend import PyavBackend, _plan_runs

FAST_DECODE = {"preset": "medium", "tune": "fastdecode", "crf": "23", "g": "16", "bf": "0", "refs": "1"}


def reencode(path: str, target: str) -> str:
    with av.open(path) as source, av.open(target, "w") as sink:
        stream = source.streams.video[0]
        stream.thread_type = "AUTO"
        new = sink.add_stream("libx264", rate=stream.average_rate, options=FAST_DECODE)
        new.width, new.height, new.pix_fmt = stream.width, stream.height, "yuv420p"
        for number, frame in enumerate(source.decode(stream)):
            frame.pts, frame.time_base = number, 1 / Fraction(stream.average_rate)
            sink.mux(new.encode(frame))
        sink.mux(new.encode(None))
    return target


def make_set(path: str, folder: str, **options) -> VideoDataset:
    manifest = Path(folder, "manifest.parquet")
    write_manifest(manifest, {path: inspect_video(path)}, splits={path: ["train"]}, labels={path: 0})
    dataset = make_training_set(path, 1, **options)
    dataset.manifest = load_manifest(str(manifest))
    return dataset


# ---- the sides


def decode_packets(dataset: VideoDataset, epoch: int) -> float:
    with kept_generators(), open_reader(dataset) as reader:
        positions, _ = dataset._choose_frames(reader, epoch, 0)
        start = time.process_time()
        for _ in iterate_decoded(reader, positions):
            pass
        return time.process_time() - start


def iterate_decoded(reader: VideoReader, positions: list[int]) -> Iterator[av.VideoFrame]:
    backend, pts = reader._main, reader.index.pts
    for key, wanted in _plan_runs(reader.index.keys, positions):
        wanted_pts = frozenset(pts[i] for i in wanted)
        for packet in backend._choose_packets(key, wanted_pts):
            yield from (frame for frame in backend._stream.codec_context.decode(packet) if frame.pts in wanted_pts)


def open_reader(dataset: VideoDataset) -> VideoReader:
    return open_video(str(dataset.videos.paths[0]), dataset.manifest)


def decode(dataset: VideoDataset, epoch: int) -> torch.Tensor:
    with kept_generators(), open_reader(dataset) as reader:
        positions, _ = dataset._choose_frames(reader, epoch, 0)
        return reader.get_frames(positions)


def decode_and_copy(dataset: VideoDataset, epoch: int) -> torch.Tensor:
    frames = decode(dataset, epoch).permute(3, 0, 1, 2)[..., :SIZE_PX, :SIZE_PX]  # (C, T, h, w)
    sample = torch.empty((3, NUM_FRAMES, SIZE_PX, SIZE_PX), dtype=torch.uint8)
    sample[:, : frames.shape[1], : frames.shape[2], : frames.shape[3]] = frames
    return sample


def compare_sides(dataset: VideoDataset, runs: int) -> dict[str, float]:
    """Means (ms) by side."""
    sides: dict[str, Callable[[int], float]] = {
        "decoder": lambda run: decode_packets(dataset, run),
        "decode": lambda run: measure(decode, dataset, run),
        "decode + copy": lambda run: measure(decode_and_copy, dataset, run),
        "sample": lambda run: measure(dataset.__getitem__, (run, 0)),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for run in range(runs + 2):
        for side in list(sides) if run % 2 else reversed(sides):
            seconds[side].append(sides[side](run))
    return {side: sum(values[2:]) / runs * 1e3 for side, values in seconds.items()}  # the first two warm up


def measure(run: Callable, *args) -> float:
    start = time.process_time()
    run(*args)
    return time.process_time() - start


# ---- the pieces of a sample

PIECES = {
    "opening": (VideoReader, "__init__"),
    "frames": (VideoReader, "get_frames"),
    "conversion to RGB": (PyavBackend, "_to_rgb"),
    "views": (TrainTransform, "write_views"),
    "draw of the window": (TrainTransform, "draw_window"),
    "crop and resize": (TrainTransform, "_cut"),
    "RandAugment": (RandAugment, "__call__"),
}


def split_sample(dataset: VideoDataset, runs: int) -> dict[str, float]:
    """Means (ms) of the pieces of a sample, which add up to it."""
    spent: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        for name, (owner, attribute) in PIECES.items():
            stack.enter_context(patch.object(owner, attribute, make_timed(getattr(owner, attribute), spent, name)))
        for run in range(runs):
            spent["sample"] += measure(dataset.__getitem__, (run, 0))
    ms = {name: seconds / runs * 1e3 for name, seconds in spent.items()}
    frames, views, sample = ms.pop("frames"), ms.pop("views"), ms.pop("sample")
    within = sum(ms.get(name, 0.0) for name in ("draw of the window", "crop and resize", "RandAugment"))
    return {
        "opening": ms["opening"],
        "decoding, and frames into one tensor": frames - ms["conversion to RGB"],
        **{name: ms[name] for name in PIECES if name in ms and name != "opening"},
        "copy into the sample, and flip": views - within,
        "randomness, choice of frames, Python": sample - ms["opening"] - frames - views,
    }


def make_timed(call: Callable, spent: Counter, name: str) -> Callable:
    def timed(*args, **options):
        start = time.process_time()
        result = call(*args, **options)
        spent[name] += time.process_time() - start
        return result

    return timed


def time_operations(dataset: VideoDataset, runs: int) -> dict[str, float]:
    """Medians (ms) of each operation of RandAugment on the clip of a sample."""
    view = dataset[0, 0]["video"][0]
    ms = {}
    for name, operation in OPERATIONS.items():
        with seeded(0):
            arguments = operation.draw_arguments(0.7)
        seconds = [measure(operation.apply, view.clone().transpose(0, 1), *arguments) for _ in range(runs)]
        ms[name] = sorted(seconds)[runs // 2] * 1e3
    return ms


# ---- what drawing only the rows and columns of the crop could save


def convert_parts(dataset: VideoDataset, runs: int) -> dict[str, float]:
    """Means (ms a clip) of converting whole frames; of frames cut from the planes, and of converting these."""
    spent: Counter[str] = Counter()
    with open_reader(dataset) as reader:
        for run in range(runs):
            with kept_generators():
                positions, _ = dataset._choose_frames(reader, run, 0)
                frames = list(iterate_decoded(reader, positions))
                seed_cpu(0, run, 0, 0, 1)
                window = dataset.transform.draw_window(frames[0].height, frames[0].width)
            for frame in frames:
                spent["whole frames"] += measure(reader._main._to_rgb, frame)
                start = time.process_time()
                part = cut_planes(frame, window)
                spent["cutting the planes"] += time.process_time() - start
                spent["the crop's part"] += measure(part.reformat, None, None, "rgb24", None, None, "BILINEAR")
    return {name: seconds / runs * 1e3 for name, seconds in spent.items()}


def cut_planes(frame: av.VideoFrame, window: Window) -> av.VideoFrame:
    """The part of a 4:2:0 frame that holds a window, from even rows and columns on."""
    top, left = window.top // 2 * 2, window.left // 2 * 2
    height, width = (
        min(side, -(-end // 2) * 2) - start
        for side, end, start in (
            (frame.height, window.top + window.height, top),
            (frame.width, window.left + window.width, left),
        )
    )
    part = av.VideoFrame(width, height, frame.format.name)
    for step, plane, target in zip((1, 2, 2), frame.planes, part.planes, strict=True):
        rows = slice(top // step, (top + height) // step)
        columns = slice(left // step, (left + width) // step)
        size = (height // step, width // step)
        view_plane(target)[: size[0], : size[1]] = view_plane(plane)[rows, columns]
    part.colorspace, part.color_range = frame.colorspace, frame.color_range
    return part


def view_plane(plane: av.video.plane.VideoPlane) -> np.ndarray:
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)


# ---- what is printed


def print_table(title: str, rows: dict[str, float], whole: float | None = None) -> None:
    print(f"\n{title}")
    for name, value in rows.items():
        print(f"    {name:38}{value:9.2f} ms" + (f"{value / whole:8.1%}" if whole else ""), flush=True)


def report(title: str, dataset: VideoDataset, runs: int) -> dict:
    sides = compare_sides(dataset, runs)
    print_table(title, sides)
    ratio = sides["sample"] / sides["decode + copy"]
    copy = sides["decode + copy"] - sides["decode"]
    strict = sides["sample"] / (sides["decoder"] + copy)
    print(f"    sample / (decode + copy): {ratio:.2f}x; sample / (decoder alone + copy): {strict:.2f}x")
    pieces = split_sample(dataset, runs)
    print_table("    where the time goes", pieces, sum(pieces.values()))
    parts = convert_parts(dataset, max(runs // 5, 3))
    saved = parts["whole frames"] - parts["cutting the planes"] - parts["the crop's part"]
    print_table("    conversion to RGB, of whole frames and of the crop alone (4:2:0)", parts)
    print(f"    saved by converting the crop alone: {saved:.2f} ms, {saved / sides['sample']:.1%} of the sample")
    return {"sides_ms": sides, "ratio": ratio, "strict_ratio": strict, "pieces_ms": pieces, "conversion_ms": parts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", default="../shared/videos/cleaning_pool_340x256.mp4", help="of 4:2:0, as nearly all")
    parser.add_argument("--runs", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    load = os.getloadavg()[0]
    results: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        original = str(Path(args.video).resolve())
        videos = {"as it is": original, "cheap to decode": reencode(original, str(Path(folder, "cheap.mp4")))}
        print(f"{Path(original).name}; one core; load of the machine {load:.1f}")
        for name, path in videos.items():
            for augment in (True, False):
                title = f"{name}, {'with' if augment else 'without'} RandAugment"
                results[title] = report(title, make_set(path, folder, rand_augment=augment), args.runs)
        results["operations_ms"] = time_operations(make_set(original, folder), max(args.runs // 5, 3))
    print_table("one operation on a clip; each comes to one clip in 14", results["operations_ms"])
    settings = argparse.Namespace(video=Path(args.video).name, runs=args.runs, load=load)
    print(json.dumps({"benchmark": "bench_transforms"} | common.describe_run(settings) | {"results": results}))


if __name__ == "__main__":
    main()

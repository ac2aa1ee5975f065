"""Embedding a folder of videos, end to end: our job against a straightforward loop, with the same model, side by side.

    python benchmarks/bench_extract.py            # videos a second
    python benchmarks/bench_extract.py --memory   # peak memory for a video of a minute and of an hour

The loop is what people write first: decode a video whole (PyAV with its own threads, or decord), cut its clips, run the
model on them, next video. Ours decodes what the clips need in other processes while the model runs. Both give the same
embeddings; the largest difference is printed. Videos are generated: 10 s at 30 frames a second, H.264 with B-frames.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import decord
import numpy as np
import torch
from common import describe_run

from hiera_video.config import load_config
from hiera_video.data.transforms import build_eval_transform
from hiera_video.embeddings.reading import read_embeddings
from hiera_video.engine.extraction.batching import build_compute
from hiera_video.engine.extraction.job import run_extraction
from hiera_video.models.build import build_model_from_cfg
from hiera_video.streams.collect import collect_videos
from hiera_video.streams.windows import build_clip_planner
from hiera_video.video import VideoReader

NUM_FRAMES, FPS = 300, 30
CASES = {"one clip a video": ("EXTRACT.CLIPS", "uniform", "EXTRACT.NUM_CLIPS", "1"), "sliding windows": ()}


def write_video(path: Path, size: tuple[int, int], seed: int) -> None:
    """A textured picture that pans, under noise: about as hard to compress as a hand-held shot."""
    width, height = size
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, height // 16 + 20, width // 16 + 40)).astype(np.float32))
    canvas = torch.nn.functional.interpolate(coarse, scale_factor=16, mode="bicubic")[0].permute(1, 2, 0).numpy()
    noise = rng.normal(0, 6, (8, height, width, 3)).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(NUM_FRAMES):
            left, top = 2 * i % 600, i % 300
            picture = canvas[top : top + height, left : left + width] + noise[i % 8]
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def decode_with_pyav(path: str) -> np.ndarray:
    with av.open(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def decode_with_decord(path: str) -> np.ndarray:
    reader = decord.VideoReader(path)
    return reader.get_batch(range(len(reader))).asnumpy()


def run_loop(cfg, model, paths: list[str], decode: Callable[[str], np.ndarray], plans: dict) -> Iterator[torch.Tensor]:
    """Embeddings (n, D) of one video after the other."""
    transform = build_eval_transform(cfg, num_crops=1, crop_size_px=cfg.DATA.TEST_CROP_SIZE)
    compute = build_compute(cfg, model)
    for path in paths:
        frames = torch.from_numpy(decode(path))  # (300, H, W, C)
        yield compute(torch.cat([transform(frames[clip]) for clip in plans[path].frames]))


def compare(args: argparse.Namespace, size: tuple[int, int], case: str, folder: Path) -> dict:
    """Videos a second of each way, medians of alternating runs, and how busy ours was."""
    words = [
        "MODEL.MODEL_NAME",
        args.model,
        "TRAIN.ENABLE",
        "False",
        "EXTRACT.BATCH_SIZE",
        str(args.batch),
        *CASES[case],
    ]
    words += ["EXTRACT.BATCH_SIZE", str(args.batch), "DATA_LOADER.NUM_WORKERS", str(args.workers)]
    cfg = load_config([], words)
    torch.manual_seed(0)
    model = build_model_from_cfg(cfg, crop_size=cfg.DATA.TEST_CROP_SIZE).eval()
    collection = collect_videos(str(folder))
    paths = sorted(map(str, collection.paths))
    plans = {}
    for path in paths:
        with VideoReader(path) as reader:
            plans[path] = build_clip_planner(cfg).plan(reader.index)
    seconds = {"ours": [], "PyAV": [], "decord": []}
    results, stats = {}, []
    for _ in range(args.runs):
        for side, decode in (("PyAV", decode_with_pyav), ("decord", decode_with_decord)):
            start = time.perf_counter()
            results[side] = torch.cat(list(run_loop(cfg, model, paths, decode, plans)))
            seconds[side].append(time.perf_counter() - start)
        with tempfile.TemporaryDirectory() as output:
            job = load_config([], [*words, "OUTPUT_DIR", output])
            start = time.perf_counter()
            stats.append(run_extraction(job, model, collection, checkpoint="random", sha256="0"))
            seconds["ours"].append(time.perf_counter() - start)
            results["ours"] = read_embeddings(output).vectors
    difference = max((results["ours"] - results[side]).abs().max().item() for side in ("PyAV", "decord"))
    median = {side: statistics.median(values) for side, values in seconds.items()}
    ratios = {
        side: statistics.median(a / b for a, b in zip(seconds[side], seconds["ours"], strict=True))
        for side in ("PyAV", "decord")
    }
    busy = {key: statistics.median(s[key] for s in stats) for key in stats[0] if key.endswith("_percent")}
    row = {"size": f"{size[0]}x{size[1]}", "case": case, "clips": len(results["ours"])}
    return {**row, "seconds": median, "ratio": ratios, "difference": difference, **busy}


def print_row(row: dict, num_videos: int) -> None:
    rates = "".join(f"{num_videos / row['seconds'][side]:10.2f}" for side in ("PyAV", "decord", "ours"))
    ratios = f"{row['ratio']['PyAV']:9.2f}x{row['ratio']['decord']:9.2f}x"
    busy = f"{row['decoder_busy_percent']:9.0f}%{row['model_busy_percent']:8.0f}%{row['both_idle_percent']:8.1f}%"
    print(f"{row['size']:>10} {row['case']:17}{rates}{ratios}{busy}{row['difference']:11.1e}", flush=True)


def write_long_video(path: Path, seconds: int) -> None:
    """A small picture that pans, for as long as wanted."""
    canvas = np.random.default_rng(0).integers(0, 255, (72, 512, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "crf": "30"})
        stream.width, stream.height, stream.pix_fmt = 128, 72, "yuv420p"
        for i in range(seconds * FPS):
            picture = np.ascontiguousarray(canvas[:, i % 384 : i % 384 + 128])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def embed_alone(video: str) -> None:
    """Embeds one video with a small model in this process and its decoding process: the sum of their peaks, MiB."""
    with tempfile.TemporaryDirectory() as output:
        words = ["MODEL.MODEL_NAME", "hiera_tiny_16x224", "TRAIN.ENABLE", "False", "DATA_LOADER.NUM_WORKERS", "1"]
        words += ["DATA.TRAIN_CROP_SIZE", "64", "DATA.TEST_CROP_SIZE", "64", "DATA.TRAIN_JITTER_SCALES", "[72,72]"]
        cfg = load_config([], [*words, "HIERA.EMBED_DIM", "24", "OUTPUT_DIR", output])
        model = build_model_from_cfg(cfg, crop_size=64)
        run_extraction(cfg, model, collect_videos(video), checkpoint="random", sha256="0")
        peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        print(len(read_embeddings(output)), sum(peaks) / 2**10)


def compare_memory() -> None:
    """Peak memory for a minute, ten minutes and an hour of video, each in fresh processes."""
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for seconds in (60, 600, 3600):
            path = Path(folder) / f"{seconds}.mp4"
            write_long_video(path, seconds)
            child = [sys.executable, __file__, "--child", str(path)]
            output = subprocess.run(child, check=True, capture_output=True, text=True).stdout
            windows, peaks[seconds] = (float(word) for word in output.split()[-2:])
            ratio = peaks[seconds] / peaks[60]
            print(
                f"{seconds:5} s of video, {windows:5.0f} windows: {peaks[seconds]:7.0f} MiB  {ratio:.2f}x", flush=True
            )
    print(json.dumps({"peak_mib": peaks}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="hiera_tiny_16x224")
    parser.add_argument("--sizes", nargs="+", default=["340x256", "1280x720"])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--workers", type=int, default=-1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return embed_alone(args.child)
    if args.memory:
        return compare_memory()
    print("videos a second, and our job's ratio to each loop; how busy decoder and model of our job were\n")
    print(f"{'':28}{'PyAV':>10}{'decord':>10}{'ours':>10}{'/ PyAV':>10}{'/ decord':>10}", end="")
    print(f"{'decoder':>10}{'model':>9}{'neither':>9}{'difference':>11}")
    rows = []
    for text in args.sizes:
        size = tuple(map(int, text.split("x")))
        with tempfile.TemporaryDirectory() as folder:
            for i in range(args.videos):
                write_video(Path(folder) / f"{i:03d}.mp4", size, seed=i)
            for case in args.cases:
                rows.append(compare(args, size, case, Path(folder)))
                print_row(rows[-1], args.videos)
    print(json.dumps({**describe_run(args), "rows": rows}))


if __name__ == "__main__":
    main()

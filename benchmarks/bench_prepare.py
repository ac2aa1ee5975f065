"""What `hiera-video prepare` gains: training clips and test views from prepared videos and from the originals.

    python benchmarks/bench_prepare.py --runs 15            # the rows
    python benchmarks/bench_prepare.py --grid --runs 9      # what each setting costs and brings

The originals are a Kinetics clip of 340x256, and the same clip enlarged to 1280x720 as x264 writes it by default, with
a key frame every 250 frames. Sides alternate, each run takes another clip, the same one for all sides, and opens the
file anew, without a manifest. Times are medians of CPU time of one core, since other jobs may run beside this one; a
ratio is the median of the ratios of neighboring runs (above 1 the prepared video is faster). The last line is one JSON
object.
"""

import argparse
import importlib.metadata
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import torch
from av.video.reformatter import Interpolation

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench_input
import common

from hiera_video.preparation.quality import compare_samples
from hiera_video.video import VideoReader
from hiera_video.video.reencode import Encoding, reencode

NUM_FRAMES, RATE = bench_input.NUM_FRAMES, bench_input.RATE
GRID = [
    Encoding(b_frames=b_frames, key_distance_frames=distance, fast_decode=fast, preset=preset, crf=crf)
    for b_frames, distance, fast, preset, crf in (
        (0, 16, True, "medium", 19),
        (1, 16, True, "medium", 19),
        (3, 16, True, "medium", 19),
        (7, 16, True, "medium", 19),
        (3, 8, True, "medium", 19),
        (3, 12, True, "medium", 19),
        (3, 32, True, "medium", 19),
        (3, 64, True, "medium", 19),
        (3, 16, False, "medium", 19),
        (3, 16, True, "veryfast", 19),
        (3, 16, True, "slow", 19),
        (3, 16, True, "medium", 17),
        (3, 16, True, "medium", 22),
        (3, 16, True, "medium", 25),
    )
]


def enlarge(path: str, target: Path, *, width: int = 1280, height: int = 720) -> str:
    """The same clip with larger pictures, written as x264 does by default: a key frame every 250 frames, B-frames."""
    with av.open(path) as source, av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "23", "preset": "medium"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", 250
        for number, frame in enumerate(source.decode(video=0)):
            larger = frame.reformat(width=width, height=height, interpolation=Interpolation.LANCZOS)
            larger.pts, larger.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(larger))
        container.mux(stream.encode())
    return str(target)


def time_cpu(run: Callable, number: int) -> float:
    start = time.process_time()
    run(number)
    return time.process_time() - start


def compare(sides: dict[str, Callable], runs: int) -> dict:
    """Medians (ms) by side, and how many times as long as each side the first one takes."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(runs + 1):
        for side in list(sides) if number % 2 else reversed(sides):
            seconds[side].append(time_cpu(sides[side], number))
    seconds = {side: values[1:] for side, values in seconds.items()}  # the first run warms up
    first = next(iter(seconds.values()))
    return {
        side: {
            "ms": statistics.median(values) * 1e3,
            "faster": statistics.median(a / b for a, b in zip(first, values, strict=True)),
        }
        for side, values in seconds.items()
    }


def make_clip_reader(path: str) -> Callable:
    """Reads the frames of another random clip at each call, as RGB."""
    with VideoReader(path) as reader:
        length = len(reader)

    def read(number: int) -> torch.Tensor:
        start = random.Random(number).randrange(length - (NUM_FRAMES - 1) * RATE)
        return bench_input.read_ours(path, [start + i * RATE for i in range(NUM_FRAMES)])

    return read


def compare_prepared(original: str, folder: Path, encoding: Encoding, runs: int) -> dict:
    """A training clip, its frames alone, and 5 x 3 test views."""
    prepared = str(folder / f"prepared_{Path(original).stem}.mp4")
    reencode(original, prepared, encoding)
    paths = {"original": original, "prepared": prepared}
    training = {side: bench_input.make_training_set(path, 1) for side, path in paths.items()}
    tests = {side: bench_input.make_test_set(path) for side, path in paths.items()}
    rows = {
        "training clip": {side: lambda run, data=data: data[run, 0] for side, data in training.items()},
        "its frames": {side: make_clip_reader(path) for side, path in paths.items()},
        "5 x 3 views": {side: lambda run, data=data: data[0] for side, data in tests.items()},
    }
    results = {name: compare(sides, runs) for name, sides in rows.items()}
    bytes_ratio = os.path.getsize(prepared) / os.path.getsize(original)
    for name, row in results.items():
        before, after = row["original"], row["prepared"]
        print(f"    {name:16}{before['ms']:9.1f} ms{after['ms']:9.1f} ms{after['faster']:8.2f}x", flush=True)
    print(f"    {'bytes':16}{os.path.getsize(original):12,}{os.path.getsize(prepared):12,}{bytes_ratio:8.2f}x")
    return results | {"bytes": bytes_ratio}


def measure_grid(originals: dict[str, str], folder: Path, runs: int) -> list[dict]:
    """Each setting: milliseconds of a clip's frames, bytes, PSNR and SSIM, seconds of encoding."""
    rows = []
    for title, original in originals.items():
        files, facts = {}, {}
        for number, encoding in enumerate(GRID):
            files[number] = str(folder / f"grid_{number}.mp4")
            start = time.process_time()
            made = reencode(original, files[number], encoding, num_samples=6)
            seconds = time.process_time() - start
            psnr, ssim = compare_samples(files[number], made.samples)
            facts[number] = {"encode_sec": seconds, "psnr_db": psnr, "ssim": ssim}
        sides = {"original": make_clip_reader(original)} | {
            name: make_clip_reader(path) for name, path in files.items()
        }
        times = compare(sides, runs)
        print(f"\n{title}: {times['original']['ms']:.1f} ms a clip, {os.path.getsize(original):,} bytes")
        print("    b-frames  keys  fast  preset    crf      ms  faster  bytes  PSNR    SSIM   encode s")
        for number, encoding in enumerate(GRID):
            row = facts[number] | times[number] | {"title": title, "encoding": encoding.__dict__}
            row["bytes"] = os.path.getsize(files[number]) / os.path.getsize(original)
            rows.append(row)
            fast = "yes" if encoding.fast_decode else "no"
            print(
                f"    {encoding.b_frames:8}{encoding.key_distance_frames:6}  {fast:4}"
                f"  {encoding.preset:8}{encoding.crf:5}{row['ms']:8.1f}{row['faster']:7.2f}x{row['bytes']:7.2f}"
                f"{row['psnr_db']:6.1f}{row['ssim']:8.4f}{row['encode_sec']:9.1f}",
                flush=True,
            )
    return rows


def measure_prepared(small: str, folder: Path, runs: int, encoding: Encoding) -> dict:
    """Training clips and test views of a video, and of the same enlarged, each prepared and not."""
    results = {}
    for title, original in make_originals(small, folder).items():
        print(f"\n{title}: original, prepared, faster; CPU time, medians")
        results[title] = compare_prepared(original, folder, encoding, runs)
    return results


def make_originals(small: str, folder: Path) -> dict[str, str]:
    with VideoReader(small) as reader:
        title = f"{reader.width}x{reader.height}"
    return {title: small, "1280x720": enlarge(small, folder / "large.mp4")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", default="../shared/videos/cleaning_pool_340x256.mp4")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--short-side", type=int, default=Encoding.short_side_px)
    parser.add_argument("--grid", action="store_true", help="try many settings instead of those of the command")
    args = parser.parse_args()
    small = str(Path(args.video).resolve())
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(f"load of the machine: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.grid:
            results: dict | list = measure_grid(make_originals(small, folder), folder, args.runs)
        else:
            results = measure_prepared(small, folder, args.runs, Encoding(short_side_px=args.short_side))
    machine = common.describe_run(argparse.Namespace(video=Path(small).name, runs=args.runs, grid=args.grid))
    versions = {name: importlib.metadata.version(name) for name in ("torch", "av")}
    print(json.dumps({"benchmark": "bench_prepare"} | machine | {"versions": versions, "results": results}))


if __name__ == "__main__":
    main()

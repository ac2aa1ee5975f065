"""Compares videos in a tar file with the same videos as single files: opens/s, clips/s, and what is fetched for them.

    python benchmarks/bench_shards.py --video ../shared/videos/cleaning_pool_340x256.mp4 --count 64 --runs 5

The same video lies there many times, as files and as members of one shard, on a local disk and behind a web server of
this machine, which counts requests and bytes. `open` opens a video whose frames a manifest knows; `scan` one that
nothing is known of; `clip` opens it as `open` does and decodes 16 frames, every fourth, from its middle. With a cache,
the first pass is fetched and the others are read from the disk. The sides run in turns; rates are medians, ratios
medians of the ratios of neighboring runs (shard over files). How long a lookup among a million members takes, and what
memory of its own that costs a process, is measured in a fresh process. The last line is one JSON object.
"""

import argparse
import http.server
import json
import multiprocessing
import os
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common

MILLION = 1_000_000
PLACES = ("disk", "web", "web, cached")
CASES = ("open", "scan", "clip")


def serve(folder: str, port: Any, counts: Any) -> None:
    """Serves a folder with ranges; adds requests and bytes up."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = Path(folder) / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            total = path.stat().st_size
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)?", self.headers.get("Range", ""))
            start, end = (int(asked[1]), min(int(asked[2] or total - 1), total - 1)) if asked else (0, total - 1)
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{end}/{total}")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{total}"')
            self.send_header("Content-Length", str(end + 1 - start))
            self.end_headers()
            counts[0] += 1
            if self.command == "GET":
                counts[1] += end + 1 - start
                with open(path, "rb") as file:
                    file.seek(start)
                    self.wfile.write(file.read(end + 1 - start))

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.value = server.server_port
    server.serve_forever()


def use_videos(paths: list[str], case: str, index: Any, cache: Any) -> None:
    from hiera_video import VideoReader

    for path in paths:
        with VideoReader(path, index=None if case == "scan" else index, cache=cache) as reader:
            if case == "clip":
                first = max(len(reader) // 2 - 32, 0)
                reader.get_frames([min(first + 4 * i, len(reader) - 1) for i in range(16)])


def compare(paths: dict[str, list[str]], case: str, index: Any, caches: Any, counts: Any, runs: int) -> dict[str, Any]:
    """Videos/s of both sides in turns, and what the last run of each has asked of the server, per video."""
    seconds: dict[str, list[float]] = {side: [] for side in paths}
    row: dict[str, Any] = {}
    for run in range(runs + 1):
        for side in list(paths) if run % 2 else reversed(paths):
            counts[0], counts[1] = 0, 0
            order = random.Random(run).sample(paths[side], len(paths[side]))
            elapsed = common.time_run(use_videos, order, case, index, caches.get(side))
            if run:
                seconds[side].append(elapsed)
            elif caches:
                row[f"{side}, first"] = len(order) / elapsed
            row |= {f"{side}, requests": counts[0] / len(order), f"{side}, bytes": counts[1] / len(order)}
    for side, values in seconds.items():
        row[side] = len(paths[side]) / statistics.median(values)
    row["shard / files"] = statistics.median(a / b for a, b in zip(seconds["files"], seconds["shard"], strict=True))
    return row


def measure_lookup(folder: str) -> dict[str, float]:
    """Microseconds of finding one of a million members, and KiB of memory of its own that a process needs for it."""
    from hiera_video.video.shard_index import ShardIndex, load_index

    path = Path(folder) / "million.index"
    members = ((f"{i % 400:03}/{i:08}.mp4", 1024 * i + 512, 512, i) for i in range(MILLION))
    ShardIndex.from_members(list(members), size_bytes=1024 * MILLION, source="").write(path)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_look_up, (str(path), load_index(path, size_bytes=1024 * MILLION).size_bytes))


def _look_up(path: str, size_bytes: int) -> dict[str, float]:
    from hiera_video.video.shard_index import load_index

    load_index(Path(path), size_bytes=size_bytes).find("000/00000000.mp4")  # imports and warms up
    numbers = random.Random(0).choices(range(MILLION), k=20_000)
    before = _read_own_kib()
    index = load_index(Path(path), size_bytes=size_bytes)
    start = time.perf_counter()
    is_right = all(index.find(f"{i % 400:03}/{i:08}.mp4") == (1024 * i + 512, 512, i) for i in numbers)
    elapsed = time.perf_counter() - start
    if not is_right:
        raise ValueError("the index gives wrong places")
    return {"lookup_us": 1e6 * elapsed / len(numbers), "own_kib": _read_own_kib() - before}


def _read_own_kib() -> int:
    """Memory of this process that is no file's, which others would share."""
    lines = Path("/proc/self/smaps_rollup").read_text().split("\n")
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


def print_row(place: str, case: str, row: dict[str, Any]) -> None:
    fetched = [
        f"{row[f'{side}, requests']:>8.1f} / {row[f'{side}, bytes'] / 1000:<8.0f}" for side in ("files", "shard")
    ]
    rates = f"{row['files']:>9.1f}{row['shard']:>9.1f}{row['shard / files']:>9.2f}x"
    print(f"{place:<12}{case:<6}{rates}  {''.join(fetched)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", default="../shared/videos/cleaning_pool_340x256.mp4")
    parser.add_argument("--count", type=int, default=64, help="how many times the video lies there")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    args.threads, args.dtypes = 1, ["uint8"]
    torch.set_num_threads(1)
    from hiera_video import VideoReader
    from hiera_video.data.pack import pack
    from hiera_video.video.file_cache import FileCache

    context = multiprocessing.get_context("fork")
    port, counts = context.Value("i", 0), context.Array("q", 2)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FVCORE_CACHE"] = f"{folder}/indexes"
        server = context.Process(target=serve, args=(folder, port, counts), daemon=True)
        server.start()
        names = [f"{i:04}.mp4" for i in range(args.count)]
        for name in names:
            shutil.copy(args.video, f"{folder}/{name}")
        members = pack([f"{folder}/{name}" for name in names], [0] * args.count, output_dir=folder).members
        while not port.value:
            time.sleep(0.01)
        with VideoReader(args.video) as reader:
            index = reader.index
        roots = {"disk": folder, "web": f"http://127.0.0.1:{port.value}"}
        roots["web, cached"] = roots["web"]
        print(f"{args.count} x {args.video}, {args.runs} runs; videos/s, and requests / kB fetched per video")
        print(f"{'':<18}{'files':>9}{'shard':>9}{'ratio':>10}  {'files fetch':>17} {'shard fetches':>17}")
        for place in PLACES:
            paths = {
                "files": [f"{roots[place]}/{name}" for name in names],
                "shard": [f"{roots[place]}/{member}" for member in members],
            }
            for case in CASES:
                caches = {}
                if place == "web, cached":
                    size = 2 * args.count * os.path.getsize(args.video)
                    caches = {side: FileCache(f"{folder}/kept {side} {case}", size) for side in paths}
                row = compare(paths, case, index, caches, counts, args.runs)
                results[f"{place}, {case}"] = row
                print_row(place, case, row)
        results["million"] = measure_lookup(folder)
        print(
            "a million members: {lookup_us:.0f} us a lookup, {private_kib} KiB of its own".format(**results["million"])
        )
        server.kill()
    print(json.dumps({"benchmark": "bench_shards"} | common.describe_run(args) | {"results": results}))


if __name__ == "__main__":
    main()

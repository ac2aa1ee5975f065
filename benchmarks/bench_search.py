"""Measures search among more rows than the memory may hold: making the index, its recall, a query, the peak memory.

    python benchmarks/bench_search.py --rows 2000000 --dim 768 --memory-gb 4

Makes embeddings in shards, as an extraction writes them: videos of several windows, whose rows lie around their video's
center, as those do around one of their class; noise alone would have no neighbors worth finding. Then it runs
`hiera-video search --memory-gb` in fresh processes: the first makes the index, the others use it. Peak memory is the
resident set of the whole process (VmHWM, with the libraries), beside that of a process that has only imported what
search needs. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import common

from hiera_video.cli.search import main as search
from hiera_video.embeddings.disk_index import FOLDER, SIDE_CAR
from hiera_video.embeddings.store import ShardWriter, VideoInfo, prepare_folder, write_side_car

CLASSES, ROWS_PER_VIDEO, VIDEOS_AT_ONCE = 1000, 10, 2000
VIDEO_NOISE, WINDOW_NOISE = 0.9, 0.5  # of each value, where a class has 1


def make_folder(folder: Path, num_rows: int, dim: int, dtype: str) -> None:
    draw = np.random.default_rng(0)
    classes = draw.standard_normal((CLASSES, dim), np.float32)
    prepare_folder(folder)
    writer = ShardWriter(folder, dim=dim, dtype=dtype, flush_sec=1e9)
    times = np.stack([np.arange(ROWS_PER_VIDEO), np.arange(ROWS_PER_VIDEO) + 2], axis=1).astype(float)
    for first in range(0, num_rows // ROWS_PER_VIDEO, VIDEOS_AT_ONCE):
        numbers = np.arange(first, min(first + VIDEOS_AT_ONCE, num_rows // ROWS_PER_VIDEO))
        labels = draw.integers(0, CLASSES, len(numbers))
        videos = classes[labels] + VIDEO_NOISE * draw.standard_normal((len(numbers), dim), np.float32)
        rows = WINDOW_NOISE * draw.standard_normal((len(numbers), ROWS_PER_VIDEO, dim), np.float32) + videos[:, None]
        for number, label, values in zip(numbers.tolist(), labels.tolist(), rows, strict=True):
            info = VideoInfo(f"/data/videos/class_{label:04d}/{number:08d}.mp4", f"{number:08d}", label, "train")
            writer.add(info, first_view=0, spans_sec=times, embeddings=values)
            writer.complete(info.path)
    writer.flush()
    write_side_car(folder, {"settings": {}, "shape": [dim]})


def run_child(kind: str, args: argparse.Namespace, folder: Path) -> dict:
    words = [sys.executable, __file__, *sys.argv[1:], "--child", kind, "--child-folder", str(folder)]
    child = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(child.stdout.splitlines()[-1])


def run_nothing() -> dict:
    """What the process takes that has imported all, and found nothing to do."""
    import faiss  # noqa: F401

    import hiera_video.embeddings.shard_query
    import hiera_video.report.search_results  # noqa: F401

    return {"peak_gb": common.read_status_kib("VmHWM") / 2**20}


def run_search(args: argparse.Namespace) -> dict:
    """As many searches as there are queries, each as the command does it; the first may make the index."""
    row, seconds, found = 17, [], {}
    for number in range(args.queries):
        begin = time.perf_counter()
        output = io.StringIO()
        row = (row * 7919 + number) % args.rows
        with contextlib.redirect_stdout(output):
            words = [args.child_folder, "--row", str(row), "--memory-gb", str(args.memory_gb), "--json", "-"]
            if search(words):
                raise SystemExit("the search failed")
        seconds.append(time.perf_counter() - begin)
        found = json.loads(output.getvalue())
    same = sum(result["path"] == found["query"]["path"] for result in found["results"])
    return {"seconds": seconds, "peak_gb": common.read_status_kib("VmHWM") / 2**20, "own_video_in_10": same}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float16", help="of the rows on disk")
    parser.add_argument("--memory-gb", type=float, default=4.0)
    parser.add_argument("--queries", type=int, default=5)
    parser.add_argument("--folder", help="where the rows are made, and removed; default: a temporary one")
    parser.add_argument("--child", choices=["nothing", "search"], help=argparse.SUPPRESS)
    parser.add_argument("--child-folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(run_nothing() if args.child == "nothing" else run_search(args)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        begin = time.perf_counter()
        make_folder(folder, args.rows, args.dim, args.dtype)
        size_gb = sum(path.stat().st_size for path in (folder / "embeddings").iterdir()) / 2**30
        print(
            f"{args.rows:,} rows of {args.dim} made in {time.perf_counter() - begin:.0f} s: {size_gb:.2f} GB",
            flush=True,
        )
        nothing = run_child("nothing", args, folder)
        first = run_child("search", args, folder)
        again = run_child("search", args, folder)
        index = json.loads((folder / FOLDER / SIDE_CAR).read_text())
        index_gb = sum(path.stat().st_size for path in (folder / FOLDER).iterdir()) / 2**30
    plan, kept = index["plan"], first["seconds"][1:] + again["seconds"]
    on_disk = plan["part_rows"] < args.rows
    lists = f"{plan['num_lists']} lists, {plan['num_probes']} probed"
    print(f"{plan['coding']} codes of {plan['code_bytes']} bytes in {lists}")
    print(f"{'the lists on disk' if on_disk else 'the lists in memory'}; index {index_gb:.2f} GB")
    print(f"recall@{index['recall_at']} {index['recall']:.3f} of {index['recall_queries']} queries")
    print(f"made in {first['seconds'][0] - kept[0]:.0f} s; a search with the kept index {np.median(kept):.2f} s")
    peaks = f"{first['peak_gb']:.2f} GB, searching {again['peak_gb']:.2f} GB, imports alone {nothing['peak_gb']:.2f} GB"
    print(f"peak memory making it {peaks}; allowed {args.memory_gb:g} GB")
    sizes = {key: value for key, value in vars(args).items() if not key.startswith("child")}
    sides = {"nothing": nothing, "first": first, "again": again}
    index = {key: index[key] for key in ("plan", "recall", "recall_at", "recall_queries")}
    print(json.dumps({**sizes, "rows_gb": size_gb, "index_gb": index_gb, **index, **sides}))


if __name__ == "__main__":
    main()

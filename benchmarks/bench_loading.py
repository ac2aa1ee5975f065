"""Measures what decoding processes cost in memory when the list is long: the training loader over a million videos.

    python benchmarks/bench_loading.py --videos 1000000 --workers 64 --samples 20000

Makes a list and a manifest of as many distinct paths (folders and names that are links to a few small videos, so that
every sample decodes), and starts `build_train_loader` in a fresh process. Memory is the proportional set size of each
decoding process (Linux: a page that n processes share counts 1/n for each). It is compared with that of an empty one:
torch's own loader of a trivial data set in a process that has imported torch alone, with as many workers. A list of a
thousand videos tells what is due to the length of the list. Growth is that of memory which holds no file ("anonymous"),
since what is shared with other programs changes as they come and go; it is counted over --samples, after as many
--warm-up ones. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # an empty worker has no more than this

MIB = 2**20
FEW = 1000  # videos of the short list
FOLDERS, FILES = 1000, 4  # links to one folder; real videos
ROWS_AT_ONCE = 100_000  # of the manifest


class Nothing(torch.utils.data.Dataset):
    """The trivial data set of an empty worker."""

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, index: int) -> int:
        return index


# ---- a data set of many paths


def make_data(folder: Path, num_videos: int, num_frames: int, size_px: tuple[int, int]) -> None:
    """Writes train.csv and manifest.parquet of distinct paths, all of which can be opened."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from hiera_video.inspection.inspect_video import inspect_video
    from hiera_video.video.manifest import write_manifest

    names_per_folder = -(-num_videos // FOLDERS)
    real = folder / "real"
    real.mkdir()
    for number in range(FILES):
        write_video(real / f"{number}.mp4", num_frames, size_px, seed=number)
    records = {str(path): inspect_video(str(path)) for path in sorted(real.iterdir())}
    known = folder / "real.parquet"
    write_manifest(known, records, splits={path: ["train"] for path in records}, labels=dict.fromkeys(records, 0))
    draw = random.Random(0)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
    names = [f"{''.join(draw.choices(letters, k=11))}_{i:06d}_{i + 10:06d}.mp4" for i in range(names_per_folder)]
    (folder / "all").mkdir()
    for number, name in enumerate(names):
        os.link(real / f"{number % FILES}.mp4", folder / "all" / name)
    classes = [f"playing_a_musical_instrument_{number:03d}" for number in range(FOLDERS)]
    (folder / "train").mkdir()
    for name in classes:
        (folder / "train" / name).symlink_to(folder / "all")
    table = pq.read_table(known)
    with open(folder / "train.csv", "w") as file, pq.ParquetWriter(folder / "manifest.parquet", table.schema) as writer:
        for start in range(0, num_videos, ROWS_AT_ONCE):
            rows = range(start, min(start + ROWS_AT_ONCE, num_videos))
            paths = [f"train/{classes[row // names_per_folder]}/{names[row % names_per_folder]}" for row in rows]
            file.writelines(f"{path} {row // names_per_folder}\n" for path, row in zip(paths, rows, strict=True))
            part = table.take(pa.array([row % names_per_folder % FILES for row in rows]))
            writer.write_table(part.set_column(0, "path", pa.array([str(folder / path) for path in paths])))


def write_video(path: Path, num_frames: int, size_px: tuple[int, int], seed: int) -> None:
    import numpy as np

    from hiera_video.video.writer import VideoWriter

    width, height = size_px
    picture = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    picture = picture.repeat(8, axis=0).repeat(8, axis=1)
    with VideoWriter(path, width_px=width, height_px=height, fps=30) as writer:
        for number in range(num_frames):
            writer.write(np.roll(picture, number, axis=1), number / 30)


# ---- what is measured, each in a fresh process


def read_memory(pid: int) -> dict[str, float]:
    """Proportional set size and what the process shares with nobody, in MiB."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().split("\n")[1:-1])
    kib = {key: int(value.split()[0]) for key, value in lines.items()}
    own = kib["Private_Clean"] + kib["Private_Dirty"]
    return {"pss": kib["Pss"] / 1024, "own": own / 1024, "anonymous": kib["Anonymous"] / 1024}


def measure_processes(iterator) -> dict[str, float]:
    """Over the decoding processes of torch's iterator: mean and largest."""
    pids = [worker.pid for worker in iterator._workers]
    found = [read_memory(pid) for pid in pids]
    own = read_memory(os.getpid())
    return {
        "pss": statistics.mean(m["pss"] for m in found),
        "pss_max": max(m["pss"] for m in found),
        "own": statistics.mean(m["own"] for m in found),
        "anonymous": statistics.mean(m["anonymous"] for m in found),
        "parent_anonymous": own["anonymous"],
        "parent_pss": own["pss"],
        "parent_rss_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def run_empty(args: argparse.Namespace) -> dict:
    begin = time.perf_counter()
    loader = torch.utils.data.DataLoader(Nothing(), batch_size=1, num_workers=args.workers, prefetch_factor=2)
    iterator = iter(loader)
    for _ in range(4 * args.workers):
        next(iterator)
    return {"start_sec": time.perf_counter() - begin, "idle": measure_processes(iterator)}


def build_cfg(args: argparse.Namespace, folder: Path):
    from hiera_video.config.defaults import get_cfg

    cfg = get_cfg()
    cfg.DATA.PATH_TO_DATA_DIR, cfg.DATA.MANIFEST = str(folder), str(folder / "manifest.parquet")
    cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE = args.frames, 4
    cfg.DATA.TRAIN_CROP_SIZE = args.crop
    cfg.DATA.TRAIN_JITTER_SCALES = [args.crop, args.crop * 5 // 4]
    cfg.DATA_LOADER.NUM_WORKERS, cfg.DATA_LOADER.PIN_MEMORY = args.workers, False
    cfg.TRAIN.BATCH_SIZE = args.batch
    cfg.MODEL.NUM_CLASSES = FOLDERS
    return cfg


def run_ours(args: argparse.Namespace) -> dict:
    """Builds the loader, waits for the first batch, then measures idle processes, and again after many samples."""
    from hiera_video.data.loader import build_train_loader

    begin = time.perf_counter()
    loader = build_train_loader(build_cfg(args, Path(args.child_data)))
    built = time.perf_counter()
    parent_before = read_memory(os.getpid())["pss"]
    batches = endless(loader)
    next(batches)
    first = time.perf_counter()
    result = {
        "list_sec": built - begin,
        "start_sec": first - built,
        "first_batch_sec": first - begin,
        "parent_before": parent_before,
    }
    counts = {"idle": 4 * args.workers * args.batch, "warm": args.warm_up, "end": args.samples}
    for moment, count in counts.items():
        for _ in range(count // args.batch):
            next(batches)
        result[moment] = measure_processes(loader._loader._iterator)
    result["growth"] = result["end"]["anonymous"] / result["warm"]["anonymous"] - 1
    result["parent_growth"] = result["end"]["parent_anonymous"] / result["warm"]["parent_anonymous"] - 1
    result["samples_per_sec"] = sum(counts.values()) / (time.perf_counter() - first)
    return result


def endless(loader) -> Iterator[dict]:
    """Batches of one epoch after the other."""
    epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def run_child(args: argparse.Namespace, kind: str, folder: Path | None) -> dict:
    command = [
        sys.executable,
        "-W",
        "ignore",
        __file__,
        *sys.argv[1:],
        "--child",
        kind,
        *(["--child-data", str(folder)] if folder else []),
    ]
    child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(child.stdout.splitlines()[-1])


def print_row(title: str, row: dict[str, float], empty: float) -> None:
    more = row["pss"] - empty
    print(
        f"{title:44}{row['pss']:9.1f}{more:+9.1f}{row['pss_max']:9.1f}{row['own']:9.1f}{row['parent_pss']:10.0f}"
        f"{row['parent_rss_peak']:10.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--warm-up", type=int, default=10_000, help="samples before growth is counted")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--frames", type=int, default=4, help="of a clip")
    parser.add_argument("--crop", type=int, default=32, help="px")
    parser.add_argument("--video-frames", type=int, default=60)
    parser.add_argument("--video-size", type=int, nargs=2, default=[64, 48], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument(
        "--folder", help="where the list, the manifest and the links are made; default: a temporary one"
    )
    parser.add_argument("--child", choices=["empty", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--child-data", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        torch.set_num_threads(1)
        print(json.dumps(run_empty(args) if args.child == "empty" else run_ours(args)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folders = {count: Path(name) / str(count) for count in (FEW, args.videos)}
        for count, folder in folders.items():
            folder.mkdir(exist_ok=True)
            make_data(folder, count, args.video_frames, tuple(args.video_size))
        empty = run_child(args, "empty", None)
        few, many = (run_child(args, "ours", folder) for folder in folders.values())
    zero = empty["idle"]["pss"]
    print(f"{args.workers} processes; MiB of each: PSS, over the empty one, largest, its own; parent: PSS, peak RSS")
    print_row("empty worker", empty["idle"], zero)
    for title, rows in ((f"{FEW:,} videos", few), (f"{args.videos:,} videos", many)):
        for moment in ("idle", "warm", "end"):
            print_row(f"{title}, {moment}", rows[moment], zero)
        print(
            f"{'':4}list and manifest {rows['list_sec']:.1f} s, start to first batch {rows['start_sec']:.1f} s, "
            f"growth of processes {rows['growth']:+.2%}, of the parent {rows['parent_growth']:+.2%}, "
            f"{rows['samples_per_sec']:.0f} samples/s"
        )
    sizes = {key: value for key, value in vars(args).items() if not key.startswith("child")}
    print(json.dumps({**sizes, "empty": empty, "few": few, "many": many, "over_empty": many["end"]["pss"] - zero}))


if __name__ == "__main__":
    main()

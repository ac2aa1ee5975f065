"""Packs the videos of a data set into tar files of about 1 GB, which this package and WebDataset read.

    hiera-video pack --cfg my.yaml DATA.PATH_TO_DATA_DIR /data/k400 --output-dir /data/k400_shards
    hiera-video pack /data/videos.csv --output-dir /data/shards --shard-gb 2
    hiera-video pack --index '/data/others/*.tar'

It writes the shards (train-000000.tar and so on), each with an index; the lists (train.csv and so on) with the paths of
the members, such as train-000000.tar#a/b.mp4; a manifest; and packed.yaml, a config file that reads all of it. Nothing
is encoded again: the samples are the same as before. The folder can be moved or uploaded as it is. Videos that cannot
be packed stay in the lists under their old paths, and failures.parquet says why. An interrupted run goes on when it is
started again. VIDEOS is one word: a folder, a glob in quotes, a list, a manifest; without it the lists of DATA.FORMAT
are packed. With --index, it only writes the index of tar files that are there, so that no job has to scan them.
"""

from __future__ import annotations

import argparse
import glob
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hiera_video.cli.arguments import make_parser, parse_with_config, report_errors
from hiera_video.utils.machine import count_cores

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from hiera_video.data.lists import VideoList
    from hiera_video.data.pack import Label, Packed
    from hiera_video.video.manifest import VideoRecord

SPLITS = ("train", "val", "test")
CONFIG, FAILURES = "packed.yaml", "failures.parquet"
_BYTES_PER_GB = 10**9


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command; VIDEOS is still the first word of ``opts``."""
    usage = "[VIDEOS] --output-dir DIR [options] [--cfg FILE ...] [KEY VALUE ...]"
    parser = make_parser("pack", __doc__, usage=usage)
    parser.add_argument("--output-dir", metavar="DIR", help="gets the shards and lists")
    parser.add_argument("--shard-gb", type=float, default=1.0, help="size of a tar file, 10^9 bytes; default: 1")
    parser.add_argument(
        "--keep-order", action="store_true", help="as listed; by default the order is drawn by RNG_SEED"
    )
    parser.add_argument("--workers", type=int, default=count_cores(), help="processes that check; default: %(default)s")
    parser.add_argument("--timeout-sec", type=float, default=300.0, help="to check one video; default: %(default)s")
    parser.add_argument("--index", metavar="TARS", help="a tar file or a glob in quotes: only write the indexes")
    args = parse_with_config(parser, argv)
    if not args.index and not args.output_dir:
        parser.error("--output-dir is missing")
    if args.shard_gb <= 0:
        parser.error(f"--shard-gb is {args.shard_gb:g}; it must be above 0")
    return args


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Packs, checks what was packed, and writes lists and manifest; the exit status is 1 if a video is left out."""
    args = parse_args(argv)
    if args.index:
        return index(args.index)
    from hiera_video.config import load_config
    from hiera_video.config.defaults import KEYS
    from hiera_video.engine.output_lock import lock_output
    from hiera_video.utils.interrupt import stop_on_signals
    from hiera_video.utils.logging import setup_logging

    setup_logging(None)
    pairs = list(args.opts)
    videos = pairs.pop(0) if pairs and pairs[0].partition("=")[0] not in KEYS else ""
    if pairs and os.path.exists(pairs[0]):
        raise ValueError(
            f"VIDEOS is one word, but there are {videos}, {pairs[0]} and perhaps more: give a glob in quotes"
        )
    cfg = load_config(args.cfg_files, [*pairs, "TRAIN.ENABLE", "False", "TEST.ENABLE", "False"])
    with stop_on_signals(), lock_output(args.output_dir):
        packed = pack_lists(
            cfg,
            build_lists(cfg, videos),
            output_dir=args.output_dir,
            shard_gb=args.shard_gb,
            keeps_order=args.keep_order,
            num_workers=args.workers,
            timeout_sec=args.timeout_sec,
        )
    print(format_packed(packed))
    folder = os.path.abspath(args.output_dir)
    if num_failures := count_failures(packed):
        print(f"{num_failures:,} videos could not be packed: {folder}/{FAILURES} says why", file=sys.stderr)
    print(f"to use them: hiera-video run --cfg YOURS.yaml {folder}/{CONFIG}")
    return int(num_failures > 0)


def index(pattern: str) -> int:
    """Writes an index beside each tar file."""
    from hiera_video.video.shards import index_shard

    shards = sorted(glob.glob(pattern, recursive=True))
    if not shards:
        raise FileNotFoundError(f"{pattern}: there is no such tar file")
    for shard in shards:
        print(f"{shard}: {index_shard(shard):,} members")
    return 0


def build_lists(cfg: CfgNode, videos: str) -> dict[str, VideoList]:
    """Name of each list to pack -> its videos."""
    from hiera_video.data.lists import VideoList
    from hiera_video.inspection.run import build_lists as build_config_lists
    from hiera_video.streams.collect import collect_videos

    if videos:
        separator = cfg.DATA.PATH_LABEL_SEPARATOR
        found = collect_videos(videos, separator=separator, path_prefix=cfg.DATA.PATH_PREFIX)
        return {"videos": VideoList(found.paths, found.labels)}
    if not cfg.DATA.PATH_TO_DATA_DIR:
        raise ValueError("what is to be packed? Name VIDEOS, or lists by --cfg and DATA.PATH_TO_DATA_DIR")
    lists, _, findings = build_config_lists(cfg, ())
    if findings:
        raise ValueError("; ".join(dict.fromkeys(finding.reason for finding in findings)))
    return lists


def get_labels(videos: VideoList) -> list[Label]:
    """The label of each video, or the tuple of its labels where the list allows several."""
    sets = videos.label_sets
    if sets is None:
        return videos.labels.tolist()
    return [tuple(sets.get(position).tolist()) for position in range(len(videos))]


def pack_lists(
    cfg: CfgNode,
    lists: dict[str, VideoList],
    *,
    output_dir: str,
    shard_gb: float = 1.0,
    keeps_order: bool = False,
    num_workers: int = 1,
    timeout_sec: float = 300.0,
) -> dict[str, Packed]:
    """Packs the lists and writes everything beside the shards; returns what has become of each list.

    Args:
        cfg: DATA.MANIFEST names what is known of the videos; RNG_SEED draws their order.
        lists: name of each, with which its shards begin -> its videos.
        output_dir: gets everything.
        shard_gb: size of a tar file, in 10^9 bytes.
        keeps_order: the order is that of the lists.
        num_workers: processes that look at members of which nothing is known.
        timeout_sec: for one of them.
    """
    import numpy as np
    from tqdm import tqdm

    from hiera_video.data.pack import pack

    folder = Path(os.path.abspath(output_dir))
    packed: dict[str, Packed] = {}
    for name, videos in lists.items():
        same = [other for other in packed if np.array_equal(lists[other].paths, videos.paths)]
        if same and get_labels(lists[same[0]]) == get_labels(videos):
            packed[name] = packed[same[0]]  # as the one list that serves Charades for validation and testing
            continue
        with tqdm(desc=f"packing {name}", unit="B", unit_scale=True, mininterval=_get_interval_sec()) as bar:
            packed[name] = pack(
                videos.paths.tolist(),
                get_labels(videos),
                output_dir=folder,
                prefix=name,
                class_names=videos.class_names,
                shard_bytes=int(shard_gb * _BYTES_PER_GB),
                seed=None if keeps_order else cfg.RNG_SEED,
                on_video=bar.update,
            )
    write_manifest(cfg, folder, lists, packed, num_workers=num_workers, timeout_sec=timeout_sec)
    write_lists(folder, lists, packed)
    write_failures(folder, packed)
    return packed


def format_packed(packed: dict[str, Packed]) -> str:
    """A line for each list: how many of its videos are in how many shards."""
    return "\n".join(
        f"{name}: {sum(member is not None for member in result.members):,} of {len(result.members):,} videos in "
        f"{result.num_shards:,} shards, {result.num_bytes / _BYTES_PER_GB:.3f} GB"
        for name, result in packed.items()
    )


def count_failures(packed: dict[str, Packed]) -> int:
    """How many videos of all lists could not be packed."""
    return sum(len(result.failures) for result in packed.values())


def write_manifest(
    cfg: CfgNode,
    folder: Path,
    lists: dict[str, VideoList],
    packed: dict[str, Packed],
    *,
    num_workers: int,
    timeout_sec: float,
) -> None:
    """Checks the members as `hiera-video check` does, but for what DATA.MANIFEST knows of their sources."""
    from dataclasses import replace

    from hiera_video.inspection.run import inspect_all
    from hiera_video.video.manifest import load_manifest, write_manifest

    known = load_manifest(cfg.DATA.MANIFEST) if cfg.DATA.MANIFEST else None
    splits: dict[str, list[str]] = {}
    labels: dict[str, int] = {}
    records: dict[str, VideoRecord] = {}
    shown: dict[str, str] = {}  # path -> path as the manifest has it
    for name, videos in lists.items():
        columns = videos.paths.tolist(), videos.labels.tolist(), packed[name].members
        for source, label, member in zip(*columns, strict=True):
            path = str(folder / member) if member else _make_absolute(source)
            shown[path] = member or path
            splits.setdefault(shown[path], []).append(name)
            labels.setdefault(shown[path], label)
            record = known.get_entry(source) if known is not None else None
            if record is not None:
                shard = folder / member.partition("#")[0] if member else None
                records[path] = replace(record, mtime_sec=shard.stat().st_mtime) if shard else record
    records = inspect_all(
        list(shown), num_workers=num_workers, full_decode=False, timeout_sec=timeout_sec, known=records
    )
    write_manifest(
        folder / "manifest.parquet",
        {shown[path]: record for path, record in records.items()},
        splits=splits,
        labels=labels,
        is_relative=True,
    )


def write_lists(folder: Path, lists: dict[str, VideoList], packed: dict[str, Packed]) -> None:
    """Writes the lists with the members' paths, and a config that reads them."""
    import yaml

    from hiera_video.data.lists import UNLABELED, write_class_names
    from hiera_video.data.multilabel_lists import NO_CLASS
    from hiera_video.utils.files import write_whole

    keys = {"FORMAT": "kinetics", "PATH_TO_DATA_DIR": str(folder), "PATH_PREFIX": "", "PATH_LABEL_SEPARATOR": " "}
    keys["MANIFEST"] = str(folder / "manifest.parquet")
    for name, videos in lists.items():
        lines, columns = [], (videos.paths.tolist(), get_labels(videos), packed[name].members)
        for source, label, member in zip(*columns, strict=True):
            path = member or _make_absolute(source)
            text = (",".join(map(str, label)) or NO_CLASS) if isinstance(label, tuple) else str(label)
            lines.append(path if label == UNLABELED else f"{path} {text}")
        write_whole(folder / f"{name}.csv", ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))
        if videos.class_names:
            keys["CLASS_NAMES_PATH"] = str(folder / "class_names.json")
            write_class_names(folder / "class_names.json", videos.class_names)
    write_whole(folder / CONFIG, yaml.safe_dump({"DATA": keys}, allow_unicode=True).encode())


def write_failures(folder: Path, packed: dict[str, Packed]) -> None:
    """Writes failures.parquet, with path, list and reason."""
    import pyarrow as pa

    from hiera_video.utils.files import write_parquet

    rows = [(path, name, why) for name, result in packed.items() for path, why in sorted(result.failures.items())]
    names = ("path", "list", "reason")
    columns = [pa.array([row[i] for row in rows], pa.string()) for i in range(len(names))]
    write_parquet(folder / FAILURES, pa.Table.from_arrays(columns, names))


def _make_absolute(path: str) -> str:
    """A path as it stays right in another folder's list."""
    from hiera_video.utils.pathmgr import is_url

    return path if is_url(path) else os.path.abspath(path)


def _get_interval_sec() -> float:
    return 0.2 if sys.stderr.isatty() else 10.0

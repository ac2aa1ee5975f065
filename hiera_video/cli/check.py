"""Checks every video of a config's lists before days of training, and writes down what it finds out.

    python tools/check_dataset.py --cfg configs/Kinetics/HIERA_B_16x4.yaml DATA.PATH_TO_DATA_DIR /data/k400

It names what is missing, broken, cut off, too short, mislabelled or there twice, describes the videos, and forecasts
how many cores training will need. Give the manifest to jobs as DATA.MANIFEST. The exit status is 1 when there are
errors, 2 when nothing could be checked.
"""

from __future__ import annotations

import argparse
import functools
import logging
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import simplejson
from fvcore.common.config import CfgNode
from tqdm import tqdm

from hiera_video.config import load_config
from hiera_video.config import parse_args as parse_config_args
from hiera_video.data.lists import VideoList, build_unchecked_video_list
from hiera_video.data.loader import build_train_dataset
from hiera_video.inspection.inspect_video import hash_whole_file, inspect_video
from hiera_video.inspection.pool import WorkFailedError, map_paths
from hiera_video.inspection.report import format_summary
from hiera_video.inspection.survey import (
    ERROR,
    KINDS,
    Finding,
    build_needed_frames,
    compare_with_known,
    compute_distributions,
    find_ambiguous,
    find_faulty_videos,
    find_label_faults,
    find_repeats,
    find_short_videos,
    measure_clip_rate,
)
from hiera_video.utils.logging import get_logger, setup_logging
from hiera_video.utils.versions import get_versions
from hiera_video.video.manifest import OK, VideoRecord, load_manifest, write_manifest

SPLITS = ("train", "val", "test")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of this tool; all other words are config files and KEY VALUE pairs, as for run_net.py."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s --cfg FILE [FILE ...] [KEY VALUE ...] [options]",
        allow_abbrev=False,
    )
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="default: those of train, val, test that exist")
    parser.add_argument("--output", help="the manifest; default: OUTPUT_DIR/manifest.parquet")
    parser.add_argument("--json", help="the report for programs; default: OUTPUT_DIR/dataset_report.json")
    parser.add_argument(
        "--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes; default: %(default)s"
    )
    parser.add_argument(
        "--full-decode", action="store_true", help="decode every frame: finds damage inside, takes long"
    )
    parser.add_argument("--timeout-sec", type=float, default=300.0, help="for one video; default: %(default)s")
    parser.add_argument("--gpu-clips-per-sec", type=float, default=300.0, help="what a GPU takes; default: %(default)s")
    parser.add_argument("--forecast-sec", type=float, default=5.0, help="time to measure for; 0: no forecast")
    args, rest = parser.parse_known_args(argv)
    words = args.splits or []  # `--splits train val KEY VALUE`: argparse hands the pairs to --splits
    count = next((i for i, word in enumerate(words) if word not in SPLITS), len(words))
    args.splits, rest = words[:count], [*rest, *words[count:]]
    config_args = parse_config_args(rest, description=__doc__)
    args.cfg_files, args.opts = config_args.cfg_files, config_args.opts
    return args


def load_lists(cfg: CfgNode, splits: Sequence[str]) -> tuple[dict[str, VideoList], dict[str, str], list[Finding]]:
    """Split -> its list, split -> where that came from, and what cannot be read.

    Raises:
        FileNotFoundError: there is no list at all.
    """
    lists, sources, findings, absent = {}, {}, [], []
    for split in splits or SPLITS:
        try:
            videos, sources[split] = build_unchecked_video_list(cfg, split, require_labels=False)
            if len(videos):
                lists[split] = videos
            else:
                findings.append(Finding("unreadable_list", split, (split,), f"{sources[split]} lists no videos"))
        except FileNotFoundError as error:
            absent.append(error)
            if splits:
                findings.append(Finding("unreadable_list", split, (split,), str(error)))
        except ValueError as error:
            findings.append(Finding("unreadable_list", split, (split,), str(error)))
    if not lists and not findings:
        raise absent[0]
    return lists, sources, findings


def probe_all(
    paths: Sequence[str], *, num_workers: int, full_decode: bool, timeout_sec: float
) -> dict[str, VideoRecord]:
    """Path -> record, in the order of ``paths``."""
    records: dict[str, VideoRecord] = {}
    faults: Counter[str] = Counter()
    pool = {"num_workers": max(min(num_workers, len(paths)), 1), "timeout_sec": timeout_sec}
    inspect = functools.partial(inspect_video, full_decode=full_decode)
    interval_sec = 0.2 if sys.stderr.isatty() else 10.0
    with tqdm(total=len(paths), desc="checking", unit="video", mininterval=interval_sec) as bar:
        for path, result in map_paths(inspect, paths, **pool):
            failed = isinstance(result, WorkFailedError)
            records[path] = VideoRecord(result.status, str(result)) if failed else result
            faults[records[path].status] += 1
            bar.set_postfix_str(", ".join(f"{n} {name}" for name, n in faults.items() if name != OK), refresh=False)
            bar.update()
    for path, content_hash in map_paths(hash_whole_file, find_ambiguous(records), **pool):
        if isinstance(content_hash, str):
            records[path] = replace(records[path], content_hash=content_hash)
    return {path: records[path] for path in paths}


def find_all(
    cfg: CfgNode, lists: dict[str, VideoList], records: dict[str, VideoRecord], splits: dict[str, list[str]]
) -> list[Finding]:
    """Everything that is wrong with the lists and their videos."""
    findings = [*find_faulty_videos(records, splits)]
    if cfg.TASK != "pretrain":
        findings += find_label_faults(lists, num_classes=cfg.MODEL.NUM_CLASSES)
    findings += find_repeats(lists, records)
    findings += find_short_videos(records, splits, count_needed=build_needed_frames(cfg))
    return findings


def forecast(
    cfg: CfgNode, videos: VideoList | None, records: dict[str, VideoRecord], args: argparse.Namespace
) -> dict[str, Any] | None:
    """Clips a second of one core, and what follows; None where there is nothing to measure."""
    if videos is None or not args.forecast_sec:
        return None
    is_good = [records[path].status == OK for path in videos.paths.tolist()]
    if not any(is_good):
        return None
    good = VideoList(videos.paths[is_good], videos.labels[is_good])
    get_logger("hiera_video").setLevel(logging.ERROR)  # what training would warn of is told already
    rate = measure_clip_rate(
        build_train_dataset(cfg, good, manifest=load_manifest(str(args.output))), seconds=args.forecast_sec
    )
    return {
        **rate,
        "gpu_clips_per_sec": args.gpu_clips_per_sec,
        "cores_per_gpu": math.ceil(args.gpu_clips_per_sec / rate["clips_per_sec"]),
        "cores_here": len(os.sched_getaffinity(0)),
    }


def make_report(
    cfg: CfgNode,
    lists: dict[str, VideoList],
    sources: dict[str, str],
    records: dict[str, VideoRecord],
    findings: list[Finding],
) -> dict[str, Any]:
    """What is told, apart from the forecast."""
    known = [record for record in records.values() if record.index is not None]
    found = {kind: [finding for finding in findings if finding.kind == kind] for kind in KINDS}
    return {
        "path_prefix": cfg.DATA.PATH_PREFIX or cfg.DATA.PATH_TO_DATA_DIR,
        "num_videos": len(records),
        "num_classes": cfg.MODEL.NUM_CLASSES,
        "splits": {
            split: {
                "source": sources[split],
                "listed": len(videos),
                "usable": sum(not records[path].is_broken for path in videos.paths.tolist()),
                "classes": len({label for label in videos.labels.tolist() if label >= 0}),
            }
            for split, videos in lists.items()
        },
        "status": dict(Counter(record.status for record in records.values()).most_common()),
        "findings": {
            kind: {
                "severity": KINDS[kind][0],
                "meaning": KINDS[kind][1],
                "found": [{"subject": f.subject, "splits": list(f.splits), "reason": f.reason} for f in group],
            }
            for kind, group in found.items()
            if group
        },
        "distributions": compute_distributions(known),
        "codecs": dict(Counter(record.codec for record in known).most_common()),
        "sizes": dict(Counter(f"{record.width}x{record.height}" for record in known).most_common()),
        "num_counted": sum(not record.index.keys and record.codec != "pictures" for record in known),
        "known_data_sets": compare_with_known(
            lists, records, num_classes=cfg.MODEL.NUM_CLASSES, is_ssv2=cfg.DATA.FORMAT in ("ssv2", "ssv2_frames")
        ),
        "versions": get_versions(),
    }


def check(cfg: CfgNode, args: argparse.Namespace) -> dict[str, Any]:
    """Checks, writes manifest and report, and returns the report."""
    start = time.perf_counter()
    args.output = Path(args.output or Path(cfg.OUTPUT_DIR) / "manifest.parquet")
    args.json = Path(args.json or Path(cfg.OUTPUT_DIR) / "dataset_report.json")
    lists, sources, findings = load_lists(cfg, args.splits)
    splits: dict[str, list[str]] = {}
    labels: dict[str, int] = {}
    for split, videos in lists.items():
        for path, label in zip(videos.paths.tolist(), videos.labels.tolist(), strict=True):
            labels.setdefault(path, label)
            if split not in splits.setdefault(path, []):
                splits[path].append(split)
    records = probe_all(
        list(splits), num_workers=args.workers, full_decode=args.full_decode, timeout_sec=args.timeout_sec
    )
    findings += find_all(cfg, lists, records, splits)
    write_manifest(args.output, records, splits=splits, labels=labels)
    report = make_report(cfg, lists, sources, records, findings)
    report["forecast"] = forecast(cfg, lists.get("train"), records, args)
    report["written"] = {"manifest": str(args.output), "report": str(args.json)}
    report["seconds"] = round(time.perf_counter() - start, 2)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(simplejson.dumps(report, indent=1) + "\n")
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 nothing to complain about but warnings, 1 errors found, 2 nothing could be checked."""
    args = parse_args(argv)
    setup_logging(None)
    try:
        report = check(load_config(args.cfg_files, args.opts), args)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(format_summary(report))
    return int(any(group["severity"] == ERROR for group in report["findings"].values()))

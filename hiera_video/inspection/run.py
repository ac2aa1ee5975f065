"""The check of a data set: inspects every video of its lists, names faults, forecasts the cores that training needs."""

from __future__ import annotations

import functools
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode
from tqdm import tqdm

from hiera_video.data.build_lists import build_unchecked_video_list
from hiera_video.data.lists import VideoList
from hiera_video.data.samples import SampleDataset
from hiera_video.inspection.inspect_video import hash_whole_file, inspect_video
from hiera_video.inspection.pool import WorkFailedError, map_paths
from hiera_video.inspection.survey import (
    KINDS,
    Finding,
    compare_with_known,
    compute_distributions,
    find_ambiguous,
    find_faulty_videos,
    find_label_faults,
    find_repeats,
    find_short_videos,
    measure_clip_rate,
)
from hiera_video.utils.interrupt import get_stop_reason, raise_if_stopped
from hiera_video.utils.logging import get_logger
from hiera_video.utils.versions import get_versions
from hiera_video.video.manifest import OK, VideoRecord

SPLITS = ("train", "val", "test")
_KEEP_SEC = 30.0


def build_lists(cfg: CfgNode, splits: Sequence[str]) -> tuple[dict[str, VideoList], dict[str, str], list[Finding]]:
    """Reads the lists of a data set.

    Args:
        cfg: the section DATA says where they are.
        splits: the splits to read; if empty, all that exist.

    Returns:
        Split -> its list, split -> the file or folder that it came from, and findings about lists that cannot be read.

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


def merge_lists(lists: Mapping[str, VideoList]) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Path -> the splits that list it, and path -> the first label that a list gives it."""
    splits: dict[str, list[str]] = {}
    labels: dict[str, int] = {}
    for split, videos in lists.items():
        for path, label in zip(videos.paths.tolist(), videos.labels.tolist(), strict=True):
            labels.setdefault(path, label)
            if split not in splits.setdefault(path, []):
                splits[path].append(split)
    return splits, labels


def inspect_all(
    paths: Sequence[str],
    *,
    num_workers: int,
    full_decode: bool,
    timeout_sec: float,
    known: Mapping[str, VideoRecord] | None = None,
    keep: Callable[[dict[str, VideoRecord]], None] | None = None,
) -> dict[str, VideoRecord]:
    """Inspects videos in processes that may die, and shows progress.

    Args:
        paths: of the videos, each only once.
        num_workers: number of processes.
        full_decode: decode every frame.
        timeout_sec: time limit for one video; after that it counts as stuck.
        known: path -> what an earlier check found out, which stands.
        keep: writes what is known so far; called every half a minute, and when the check is asked to stop.

    Returns:
        Path -> what was found out, in the order of ``paths``.

    Raises:
        Interrupted: the process was asked to stop; ``keep`` has what is known.
    """
    records: dict[str, VideoRecord] = dict(known or {})
    todo = [path for path in paths if path not in records]
    kept_at = time.monotonic()
    faults: Counter[str] = Counter()
    inspect = functools.partial(inspect_video, full_decode=full_decode)
    num_workers = max(min(num_workers, len(paths)), 1)
    interval_sec = 0.2 if sys.stderr.isatty() else 10.0
    with tqdm(total=len(paths), initial=len(records), desc="checking", unit="video", mininterval=interval_sec) as bar:
        for path, result in map_paths(inspect, todo, num_workers=num_workers, timeout_sec=timeout_sec):
            failed = isinstance(result, WorkFailedError)
            records[path] = VideoRecord(result.status, str(result)) if failed else result
            faults[records[path].status] += 1
            bar.set_postfix_str(", ".join(f"{n} {name}" for name, n in faults.items() if name != OK), refresh=False)
            bar.update()
            if keep and (get_stop_reason() or time.monotonic() - kept_at > _KEEP_SEC):
                keep(records)
                kept_at = time.monotonic()
            raise_if_stopped(f"{len(records)} of {len(paths)} videos are checked")
    ambiguous = find_ambiguous(records)
    for path, content_hash in map_paths(hash_whole_file, ambiguous, num_workers=num_workers, timeout_sec=timeout_sec):
        if isinstance(content_hash, str):
            records[path] = replace(records[path], content_hash=content_hash)
    return {path: records[path] for path in paths}


def find_faults(
    lists: dict[str, VideoList],
    records: dict[str, VideoRecord],
    splits: dict[str, list[str]],
    *,
    num_classes: int,
    needs_labels: bool,
    count_needed: Callable[[float], int],
) -> list[Finding]:
    """Everything that is wrong with the lists and their videos.

    Args:
        lists: by split.
        records: by path.
        splits: by path, the splits that list it.
        num_classes: labels are legal below this.
        needs_labels: whether wrong and missing labels are faults.
        count_needed: frames that a clip needs; see `find_short_videos`.
    """
    findings = [*find_faulty_videos(records, splits)]
    if needs_labels:
        findings += find_label_faults(lists, num_classes=num_classes)
    findings += find_repeats(lists, records)
    findings += find_short_videos(records, splits, count_needed=count_needed)
    return findings


def select_good(videos: VideoList, records: Mapping[str, VideoRecord]) -> VideoList:
    """The videos of a list that nothing is wrong with."""
    return videos.select(np.array([records[path].status == OK for path in videos.paths.tolist()]))


def forecast_cores(
    dataset: SampleDataset, *, seconds: float, gpu_clips_per_sec: float, cores_here: int
) -> dict[str, Any]:
    """Forecasts how many cores must load training clips so that a GPU does not wait for them.

    Args:
        dataset: for training; all of its videos decode.
        seconds: how long to measure.
        gpu_clips_per_sec: clips per second that a GPU trains on.
        cores_here: cores of this machine, which the report shows beside the forecast.
    """
    get_logger("hiera_video").setLevel(logging.ERROR)  # the report already names what training would warn of
    rate = measure_clip_rate(dataset, seconds=seconds)
    return {
        **rate,
        "gpu_clips_per_sec": gpu_clips_per_sec,
        "cores_per_gpu": math.ceil(gpu_clips_per_sec / rate["clips_per_sec"]),
        "cores_here": cores_here,
    }


def make_report(
    lists: dict[str, VideoList],
    sources: Mapping[str, str],
    records: dict[str, VideoRecord],
    findings: Sequence[Finding],
    *,
    path_prefix: str,
    num_classes: int,
    is_ssv2: bool,
) -> dict[str, Any]:
    """The report as JSON takes it, apart from the forecast.

    Args:
        lists: by split.
        sources: by split, where its list came from.
        records: by path.
        findings: everything that is wrong.
        path_prefix: folder of the videos.
        num_classes: of the model.
        is_ssv2: whether the data set is known to be Something-Something V2, however many videos it lists.
    """
    known = [(record, record.index) for record in records.values() if record.index is not None]
    found = {kind: [finding for finding in findings if finding.kind == kind] for kind in KINDS}
    return {
        "path_prefix": path_prefix,
        "num_videos": len(records),
        "num_classes": num_classes,
        "splits": {split: _describe_split(videos, sources[split], records) for split, videos in lists.items()},
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
        "distributions": compute_distributions([record for record, _ in known]),
        "codecs": dict(Counter(record.codec for record, _ in known).most_common()),
        "sizes": dict(Counter(f"{record.width}x{record.height}" for record, _ in known).most_common()),
        "num_counted": sum(not index.keys and record.codec != "pictures" for record, index in known),
        "known_data_sets": compare_with_known(lists, records, num_classes=num_classes, is_ssv2=is_ssv2),
        "versions": get_versions(),
    }


def _describe_split(videos: VideoList, source: str, records: Mapping[str, VideoRecord]) -> dict[str, Any]:
    labels = videos.labels if videos.label_sets is None else videos.label_sets.values
    return {
        "source": source,
        "listed": len(videos),
        "usable": sum(not records[path].is_broken for path in videos.paths.tolist()),
        "classes": len({label for label in labels.tolist() if label >= 0}),
    }

"""Finds what is wrong with a data set as a whole, given its lists and a record of each video."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from fvcore.common.config import CfgNode

from hiera_video.data.clip_sampling import compute_clip_length_frames
from hiera_video.data.lists import UNLABELED, VideoList
from hiera_video.data.samples import SampleDataset
from hiera_video.video.manifest import BROKEN, IMPAIRED, VideoRecord

ERROR, WARNING = "error", "warning"

# Kind of finding -> how bad it is, and what it says about the videos named with it.
KINDS: dict[str, tuple[str, str]] = {
    "unreadable_list": (ERROR, "lists that cannot be read"),
    **{status: (ERROR, meaning) for status, meaning in {**BROKEN, **IMPAIRED}.items()},
    "label_out_of_range": (ERROR, "labels that the model's head does not have (MODEL.NUM_CLASSES)"),
    "no_label": (ERROR, "lines without a label (DATA.PATH_LABEL_SEPARATOR must stand before the label)"),
    "untrained_class": (ERROR, "classes without a video to train on"),
    "bad_box": (ERROR, "boxes that are empty, reversed, outside of the frame, or no numbers"),
    "absent_moment": (ERROR, "videos that do not have the moments of their boxes (AVA.START_SEC says when they begin)"),
    "leak": (ERROR, "the same video in training and in validation or test"),
    "unseen_class": (WARNING, "classes without a video in this list"),
    "unlabeled_list": (WARNING, "lists without labels cannot be tested on"),
    "overlap": (WARNING, "the same video in validation and test"),
    "listed_twice": (WARNING, "the same path more than once in a list"),
    "duplicate": (WARNING, "different paths of a list with the same content"),
    "unscored_label": (WARNING, "labels that are trained, and do not count in a test (AVA.LABEL_MAP_FILE)"),
    "no_persons": (WARNING, "lists without predicted persons: tests take the boxes of the truth, which is easier"),
    "missed_moment": (WARNING, "moments of the truth at which nobody is predicted: their actions count as missed"),
    "short": (WARNING, "shorter than a clip: the last frame is repeated"),
}


@dataclass(frozen=True)
class Finding:
    """One fault: its kind (a key of `KINDS`), the video or list that has it, the splits concerned, and the reason."""

    kind: str
    subject: str
    splits: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class KnownDataSet:
    """How many videos of a data set other projects have."""

    name: str
    num_classes: int
    sizes: Mapping[str, int]
    source: str


KNOWN_DATA_SETS = (
    KnownDataSet(
        "Kinetics-400",
        400,
        {"train": 240_436, "val": 19_796},
        "the copy that MMAction2 and VideoMAE report on; at its release 246,535 and 19,907",
    ),
    KnownDataSet("Kinetics-600", 600, {"train": 383_393, "val": 27_910}, "the copy that MMAction2 reports on"),
    KnownDataSet("Kinetics-700", 700, {"train": 542_357, "val": 34_824}, "the copy that MMAction2 reports on"),
    KnownDataSet(
        "Something-Something V2", 174, {"train": 168_913, "val": 24_777, "test": 27_157}, "the official lists"
    ),
)
_NEAR = (0.5, 1.1)  # a list is taken for a known one if its length, divided by the known one's, is in this range
_PERCENTILES = {"min": 0, "p5": 5, "median": 50, "p95": 95, "max": 100}
_NAMED_CLASSES = 20


def find_faulty_videos(records: Mapping[str, VideoRecord], splits: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Videos that are broken or impaired, by path; ``splits`` says which lists a path is in."""
    for path in sorted(records):
        if records[path].status in KINDS:
            yield Finding(records[path].status, path, tuple(splits[path]), records[path].reason)


def find_short_videos(
    records: Mapping[str, VideoRecord], splits: Mapping[str, Sequence[str]], *, count_needed: Callable[[float], int]
) -> Iterator[Finding]:
    """Videos with fewer frames than a clip; ``count_needed`` gives a clip's length in frames at a frame rate."""
    for path in sorted(records):
        index = records[path].index
        is_picture = records[path].codec == "image"  # a clip of one frame, whatever DATA.SAMPLING_RATE is
        if index is not None and not is_picture and index.num_frames < count_needed(index.fps):
            reason = f"{index.num_frames} frames at {index.fps:.4g} fps; a clip has {count_needed(index.fps)}"
            yield Finding("short", path, tuple(splits[path]), reason)


def find_label_faults(lists: Mapping[str, VideoList], *, num_classes: int) -> Iterator[Finding]:
    """Labels outside of [0, num_classes), classes without videos, and videos without labels."""
    for split, videos in lists.items():
        if videos.label_sets is not None:  # whose labels have been looked at when they were read
            yield from _find_absent_classes(split, videos, videos.label_sets.values, num_classes)
            continue
        labels, has_label = videos.labels, videos.labels != UNLABELED
        if split != "train" and not has_label.any():
            yield Finding("unlabeled_list", split, (split,), "as in the official test list of Something-Something V2")
            continue
        for i in np.flatnonzero(~has_label):
            yield Finding("no_label", str(videos.paths[i]), (split,), "")
        for i in np.flatnonzero(has_label & ((labels < 0) | (labels >= num_classes))):
            reason = f"label {labels[i]}; legal are 0 to {num_classes - 1}"
            yield Finding("label_out_of_range", str(videos.paths[i]), (split,), reason)
        yield from _find_absent_classes(split, videos, labels, num_classes)


def _find_absent_classes(split: str, videos: VideoList, labels: np.ndarray, num_classes: int) -> Iterator[Finding]:
    """Classes of [0, num_classes) that are not among the labels of a list."""
    absent = sorted(set(range(num_classes)) - set(labels.tolist()))
    if absent:
        kind = "untrained_class" if split == "train" else "unseen_class"
        names = [_name_class(label, videos.class_names) for label in absent[:_NAMED_CLASSES]]
        more = f" and {len(absent) - _NAMED_CLASSES} more" if len(absent) > _NAMED_CLASSES else ""
        yield Finding(kind, split, (split,), f"{len(absent)} of {num_classes}: {', '.join(names)}{more}")


def find_repeats(lists: Mapping[str, VideoList], records: Mapping[str, VideoRecord]) -> Iterator[Finding]:
    """Videos that occur several times, by path or by content, within one list or in several."""
    groups: dict[str, list[tuple[str, str, int]]] = defaultdict(list)  # content or path -> split, path, label
    for split, videos in lists.items():
        for path, label in zip(videos.paths.tolist(), videos.labels.tolist(), strict=True):
            record = records[path]
            content = None if record.is_broken else record.content_hash
            groups[f"path {path}" if content is None else content].append((split, path, label))
    for group in groups.values():
        if len(group) > 1:
            yield from _judge_group(group)


def _judge_group(group: list[tuple[str, str, int]]) -> Iterator[Finding]:
    """Findings about listings of one and the same video."""
    paths_of = {split: [path for s, path, _ in group if s == split] for split, _, _ in group}
    labels = sorted({label for _, _, label in group if label != UNLABELED})
    clash = f", with different labels: {', '.join(map(str, labels))}" if len(labels) > 1 else ""
    for split, paths in paths_of.items():
        times = Counter(paths)
        for path, count in times.items():
            if count > 1:
                yield Finding("listed_twice", path, (split,), f"{count} times{clash}")
        first, *others = times
        if others:
            yield Finding("duplicate", first, (split,), f"same content as {_join_few(others)}{clash}")
    if len(paths_of) > 1:
        (_, (first, *_)), *rest = paths_of.items()
        places = [f"in {split} as {_join_few(paths)}" for split, paths in rest if paths != [first]]
        places += [f"in {split} too" for split, paths in rest if paths == [first]]
        kind = "leak" if "train" in paths_of else "overlap"
        yield Finding(kind, first, tuple(paths_of), "; ".join(places) + clash)


def find_ambiguous(records: Mapping[str, VideoRecord]) -> list[str]:
    """Paths of large files whose compared blocks equal those of another file, so that only the whole files decide."""
    hashes = {path: record.content_hash or "" for path, record in records.items()}
    counts = Counter(hashes.values())
    return [path for path, text in hashes.items() if text.startswith("blocks:") and counts[text] > 1]


def compute_distributions(records: Iterable[VideoRecord]) -> dict[str, dict[str, float]]:
    """Smallest, 5 %, median, 95 % and largest value of each property, and ``count``: how many videos have it."""
    records = list(records)
    known = [record.index for record in records if record.index is not None]
    sides = [(r.width, r.height) for r in records if r.width is not None and r.height is not None]
    values: dict[str, list[float]] = {
        "duration_sec": [index.duration_sec for index in known if index.duration_sec > 0],
        "frames": [index.num_frames for index in known],
        "fps": [index.fps for index in known if index.fps > 0],
        "short_side_px": [min(pair) for pair in sides],
        "long_side_px": [max(pair) for pair in sides],
        "key_frame_distance_frames": [index.num_frames / len(index.keys) for index in known if index.is_seek_safe],
    }
    return {name: _describe(numbers) for name, numbers in values.items() if numbers}


def compare_with_known(
    lists: Mapping[str, VideoList], records: Mapping[str, VideoRecord], *, num_classes: int, is_ssv2: bool
) -> list[dict[str, object]]:
    """A row for each list that looks like one of a known data set: how many of its usual videos are missing."""
    rows = []
    for known in KNOWN_DATA_SETS:
        if known.num_classes != num_classes:
            continue
        for split, videos in lists.items():
            official = known.sizes.get(split)
            is_near = official and _NEAR[0] <= len(videos) / official <= _NEAR[1]
            if official and (is_near or (is_ssv2 and known.name.startswith("Something"))):
                usable = sum(not records[path].is_broken for path in videos.paths.tolist())
                rows.append(
                    {
                        "data_set": known.name,
                        "split": split,
                        "official": official,
                        "listed": len(videos),
                        "usable": usable,
                        "missing": max(official - usable, 0),
                        "source": known.source,
                    }
                )
    return rows


def measure_clip_rate(dataset: SampleDataset, *, seconds: float, seed: int = 0, start: int = 0) -> dict[str, float]:
    """How fast one core makes a training set's samples: in this process, with one thread, in random order.

    Args:
        dataset: of any kind.
        seconds: how long to measure; at least one sample is made.
        seed: of the order.
        start: where in this order to begin; after its end it begins anew.

    Returns:
        ``clips``, ``seconds`` that they took, ``clips_per_sec``, and ``cpu_share`` of that time (the rest is waiting).
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    order = np.random.default_rng(seed).permutation(len(dataset)).tolist()
    dataset[0, order[start % len(order)]]  # the first sample also pays for what happens only once
    count, began, cpu_start = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - began) < seconds or not count:
        epoch, place = divmod(start + count, len(order))
        dataset[epoch, order[place]]
        count += 1
    clips = count * dataset.num_samples
    cpu_share = (time.process_time() - cpu_start) / elapsed
    torch.set_num_threads(num_threads)
    return {"clips": clips, "seconds": elapsed, "clips_per_sec": clips / elapsed, "cpu_share": cpu_share}


def _describe(numbers: Sequence[float]) -> dict[str, float]:
    points = np.percentile(numbers, list(_PERCENTILES.values())).tolist()
    return {"count": len(numbers), **dict(zip(_PERCENTILES, points, strict=True))}


def _name_class(label: int, class_names: Sequence[str] | None) -> str:
    return f"{label} ({class_names[label]})" if class_names and label < len(class_names) else str(label)


def _join_few(paths: Sequence[str], few: int = 3) -> str:
    more = f" and {len(paths) - few} more" if len(paths) > few else ""
    return ", ".join(paths[:few]) + more


def build_needed_frames(cfg: CfgNode) -> Callable[[float], int]:
    """The function from a video's frame rate to the frames that a clip of this config spans."""
    data = cfg.DATA
    if data.SAMPLING == "segment":
        return lambda fps: data.NUM_FRAMES
    return lambda fps: math.floor(
        compute_clip_length_frames(
            num_frames=data.NUM_FRAMES, sampling_rate=data.SAMPLING_RATE, fps=fps, target_fps=data.TARGET_FPS
        )
    )

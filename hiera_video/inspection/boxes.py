"""Lists of boxes looked at: what of them cannot be meant, and which moments their videos do not have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from fvcore.common.config import CfgNode

from hiera_video.data.box_checks import describe_box, find_bad_boxes
from hiera_video.data.box_lists import build_exclusions, build_label_map, build_person_tables, build_truth_tables
from hiera_video.data.box_videos import build_start_secs, build_video_paths
from hiera_video.data.key_frame_clips import KeyFrameSampler
from hiera_video.data.lists import UNLABELED, VideoList, make_list
from hiera_video.inspection.survey import Finding
from hiera_video.video.manifest import VideoRecord

Tables = list[tuple[str, pd.DataFrame]]  # files, and what they hold

_SPLITS = {"ava": ("train", "val"), "boxes": ("train", "val", "test")}  # AVA's validation and test are the same lists


@dataclass
class BoxSurvey:
    """What lists of boxes say, and what is wrong with them.

    Attributes:
        lists: split -> its videos, each once.
        sources: split -> its first list.
        findings: faults of the lists.
        counts: split -> how many key frames, boxes and labels its truth has, and predicted persons.
        moments_sec: path -> when it has boxes, in seconds since its first frame.
    """

    lists: dict[str, VideoList] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    moments_sec: dict[str, np.ndarray] = field(default_factory=dict)


def build_box_survey(cfg: CfgNode, splits: Sequence[str]) -> BoxSurvey:
    """Reads lists of boxes; what cannot be read becomes a finding.

    Args:
        cfg: DATA.FORMAT is ava or boxes.
        splits: the splits to read; if empty, all that exist.

    Raises:
        FileNotFoundError: there is no list at all.
    """
    survey, absent = BoxSurvey(), []
    for split in splits or _SPLITS[cfg.DATA.FORMAT]:
        try:
            truth, _ = build_truth_tables(cfg, split)
        except FileNotFoundError as error:
            absent.append(error)
            if splits or cfg.DATA.FORMAT == "ava":
                survey.findings.append(Finding("unreadable_list", split, (split,), str(error)))
            continue
        except ValueError as error:
            survey.findings.append(Finding("unreadable_list", split, (split,), str(error)))
            continue
        survey.sources[split] = truth[0][0]
        try:
            _build_split(cfg, split, survey, truth)
        except (FileNotFoundError, ValueError) as error:
            survey.findings.append(Finding("unreadable_list", split, (split,), str(error)))
    if absent and not survey.sources and len(survey.findings) <= len(absent):
        raise absent[0]
    return survey


def _build_split(cfg: CfgNode, split: str, survey: BoxSurvey, truth: Tables) -> None:
    """Adds what a split's lists say. Raises what the readers raise, after what could be read is added."""
    first, num_classes = int(cfg.DATA.FORMAT == "ava"), cfg.MODEL.NUM_CLASSES
    persons: Tables = []
    try:
        persons = build_person_tables(cfg, split)
    except (FileNotFoundError, ValueError) as error:
        survey.findings.append(Finding("unreadable_list", split, (split,), str(error)))
    for source, table in [*truth, *persons]:
        survey.findings += _find_faults(table, source, split, num_classes=num_classes, first=first)
    boxes = pd.concat([table for _, table in [*truth, *persons]])
    labels = boxes["label"][boxes["label"] != UNLABELED]
    survey.counts[split] = {**_count(truth), "persons": sum(len(table) for _, table in persons)}
    if split == "train":
        survey.findings += _find_untrained(labels, num_classes=num_classes, first=first)
    else:
        survey.findings += _find_missed(truth, persons, split)
    paths = build_video_paths(cfg, split, boxes["video"].unique().tolist())
    survey.lists[split] = make_list(list(paths.values()), [UNLABELED] * len(paths), None)
    if cfg.DATA.FORMAT == "ava":
        survey.findings += _find_unscored(labels, split, build_label_map(cfg), num_classes=num_classes)
        if split != "train":
            build_exclusions(cfg)
    start_secs = build_start_secs(cfg, boxes, paths, None)
    for name, times_sec in boxes.groupby("video", sort=False)["time_sec"].unique().items():
        path, start_sec = paths[str(name)], start_secs[str(name)]
        survey.moments_sec[path] = np.union1d(survey.moments_sec.get(path, np.empty(0)), times_sec - start_sec)


def find_absent_moments(
    survey: BoxSurvey,
    records: Mapping[str, VideoRecord],
    splits: Mapping[str, Sequence[str]],
    *,
    get_length_sec: Callable[[Any], float],
) -> Iterator[Finding]:
    """Videos that do not last as long as their boxes say.

    Args:
        survey: the lists.
        records: by path.
        splits: by path, the splits that list it.
        get_length_sec: how long a video of these frames lasts.
    """
    for path, moments_sec in sorted(survey.moments_sec.items()):
        index = records[path].index
        if index is None:
            continue
        length_sec = get_length_sec(index)
        absent = moments_sec[(moments_sec < 0) | (moments_sec > length_sec)]
        if len(absent):
            reason = (
                f"{len(absent)} of {len(moments_sec)} moments, such as {absent[0]:g} s after the first frame; it lasts "
                f"{length_sec:.1f} s"
            )
            yield Finding("absent_moment", path, tuple(splits[path]), reason)


def _find_faults(table: pd.DataFrame, source: str, split: str, *, num_classes: int, first: int) -> Iterator[Finding]:
    for line, reason in find_bad_boxes(table).items():
        yield Finding("bad_box", f"{source}:{line}", (split,), f"{describe_box(table, line)} {reason}")
    wrong = table[table["label"] >= num_classes]
    for line, label in wrong["label"].items():
        reason = f"label {label + first}; legal are {first} to {num_classes - 1 + first}"
        yield Finding("label_out_of_range", f"{source}:{line}", (split,), reason)


def _find_unscored(labels: pd.Series, split: str, names: Mapping[int, str], *, num_classes: int) -> Iterator[Finding]:
    unscored = labels[~labels.isin(list(names)) & (labels < num_classes)]
    if len(unscored):
        ids = ", ".join(str(label + 1) for label in sorted(unscored.unique()))
        yield Finding("unscored_label", split, (split,), f"{len(unscored):,} of {len(labels):,} labels: ids {ids}")


def _find_untrained(labels: pd.Series, *, num_classes: int, first: int) -> Iterator[Finding]:
    absent = sorted(set(range(num_classes)) - set(labels.tolist()))
    if absent:
        numbers = ", ".join(str(label + first) for label in absent)
        yield Finding("untrained_class", "train", ("train",), f"{len(absent)} of {num_classes}: {numbers}")


def _find_missed(truth: Tables, persons: Tables, split: str) -> Iterator[Finding]:
    """Moments at which the truth has somebody and nobody is predicted."""
    if not persons:
        yield Finding("no_persons", split, (split,), "")
        return
    wanted = {key for _, table in truth for key in zip(table["video"], table["time_sec"], strict=True)}
    found = {key for _, table in persons for key in zip(table["video"], table["time_sec"], strict=True)}
    missed = sorted(wanted - found)
    if missed:
        video, time_sec = missed[0]
        reason = f"{len(missed):,} of {len(wanted):,} moments, such as {time_sec:g} s of {video}"
        yield Finding("missed_moment", split, (split,), reason)


def _count(truth: Tables) -> dict[str, int]:
    boxes = pd.concat([table for _, table in truth])
    return {
        "key_frames": len(boxes[["video", "time_sec"]].drop_duplicates()),
        "boxes": len(boxes[["video", "time_sec", "x1", "y1", "x2", "y2"]].drop_duplicates()),
        "labels": int((boxes["label"] != UNLABELED).sum()),
    }


def build_length_sec(cfg: CfgNode) -> Callable[[Any], float]:
    """The function from frames to how long they last; pictures come at DATA.TARGET_FPS."""
    sampler = KeyFrameSampler(num_frames=1, sampling_rate=1, target_fps=cfg.DATA.TARGET_FPS)
    return sampler.compute_length_sec

"""Tables of boxes, files and times of a config with DATA.FORMAT ava or boxes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from fvcore.common.config import CfgNode

from hiera_video.data.action_lists import (
    KeyFrames,
    load_ava_persons,
    load_ava_truth,
    load_exclusions,
    load_frame_lists,
    load_label_map,
    make_key_frames,
)
from hiera_video.data.box_checks import check_boxes, check_labels, describe_box, find_bad_boxes
from hiera_video.data.frame_lists import find_series
from hiera_video.data.key_frame_clips import KeyFrameSampler, find_start_sec
from hiera_video.data.lists import join_prefix, read_text
from hiera_video.data.loader import build_manifest
from hiera_video.data.video_folder import VideoFolder, is_there
from hiera_video.utils.logging import get_logger
from hiera_video.utils.pathmgr import pathmgr
from hiera_video.video import VideoDecodeError
from hiera_video.video.manifest import Manifest, open_video

logger = get_logger(__name__)

_FILE_NAMES = "ava_file_names_trainval_v2.1.txt"
_VALIDATED_PERIOD_SEC = 4  # every fourth second, as SlowFast validates
_MAX_TRIES = 20


class Truth(NamedTuple):
    """What a test is measured with.

    Attributes:
        boxes: a table with `action_lists.COLUMNS`; bad boxes are in it too, as in the file.
        excluded: (video, time_sec) of moments that count neither way.
        class_names: label, counted from 0 -> name, of the classes that count: of AVA's 80, 60.
    """

    boxes: pd.DataFrame
    excluded: set[tuple[str, float]]
    class_names: dict[int, str]


def build_truth(cfg: CfgNode, split: str) -> Truth:
    """The truth of a split ("train", "val" or "test").

    Raises:
        FileNotFoundError: one of its files is missing.
        ValueError: a file cannot be read, or has a label outside MODEL.NUM_CLASSES.
    """
    ava = cfg.AVA
    is_train = split == "train"
    sources = [_build_path(cfg, name) for name in (ava.TRAIN_GT_BOX_LISTS if is_train else [ava.GROUNDTRUTH_FILE])]
    tables = []
    for source in sources:
        table = load_ava_truth(source)
        check_labels(table, source, num_classes=cfg.MODEL.NUM_CLASSES, first=1)
        if is_train:
            check_boxes(table, source)
        tables.append(table)
    names = {number - 1: name for number, name in load_label_map(_build_path(cfg, ava.LABEL_MAP_FILE)).items()}
    if min(names) < 0 or max(names) >= cfg.MODEL.NUM_CLASSES:
        raise ValueError(
            f"AVA.LABEL_MAP_FILE = {ava.LABEL_MAP_FILE} has ids {min(names) + 1} to {max(names) + 1}; with "
            f"MODEL.NUM_CLASSES = {cfg.MODEL.NUM_CLASSES} they must be in [1, {cfg.MODEL.NUM_CLASSES}]"
        )
    excluded = set()
    if ava.EXCLUSION_FILE and not is_train:
        excluded = load_exclusions(_build_path(cfg, ava.EXCLUSION_FILE))
    return Truth(_build_thinned(cfg, split, pd.concat(tables)), excluded, names)


def build_key_frames(cfg: CfgNode, split: str) -> KeyFrames:
    """The key frames of a split: of training, those that have boxes in truth or among predicted persons; of validation
    and testing, those with predicted persons, whether the truth has them or not.

    Raises:
        FileNotFoundError: a list is missing, or all videos are.
        ValueError: a list cannot be read; in training, a box cannot be meant; a label is outside MODEL.NUM_CLASSES.
    """
    return build_listed_key_frames(cfg, split)[0]


def build_listed_key_frames(cfg: CfgNode, split: str) -> tuple[KeyFrames, Manifest | None]:
    """As `build_key_frames`, with the manifest that knows their videos. Training leaves out the broken ones."""
    truth = build_truth(cfg, split)
    boxes = _build_train_boxes(cfg, truth) if split == "train" else _build_proposals(cfg, split, truth)
    paths = build_video_paths(cfg, split, boxes["video"].unique().tolist())
    manifest = build_manifest(cfg, np.array(list(paths.values()), dtype=np.str_))
    if split == "train":
        boxes = boxes[boxes["video"].isin(_build_good_videos(cfg, paths, manifest))]
    names = tuple(truth.class_names.get(label, f"class {label}") for label in range(cfg.MODEL.NUM_CLASSES))
    key_frames = make_key_frames(
        boxes,
        paths=paths,
        start_secs=_build_start_secs(cfg, boxes, paths, manifest),
        num_classes=cfg.MODEL.NUM_CLASSES,
        class_names=names,
    )
    _describe(key_frames, split)
    return key_frames, manifest


def build_video_paths(cfg: CfgNode, split: str, videos: list[str]) -> dict[str, str]:
    """How lists name a video -> its file, folder or series of pictures.

    Raises:
        FileNotFoundError: none of them is there.
    """
    ava, data = cfg.AVA, cfg.DATA
    if ava.FRAME_DIR and ava.FRAME_LIST_DIR:
        lists = ava.TRAIN_LISTS if split == "train" else ava.TEST_LISTS
        series = load_frame_lists([join_prefix(ava.FRAME_LIST_DIR, name) for name in lists])
        paths = {video: join_prefix(ava.FRAME_DIR, series.get(video, video)) for video in videos}
    elif ava.FRAME_DIR:
        paths = {video: find_series(join_prefix(ava.FRAME_DIR, video)) for video in videos}
    else:
        folder = data.PATH_PREFIX or data.PATH_TO_DATA_DIR
        inner = os.path.join(folder, "videos")
        folder = inner if not data.PATH_PREFIX and os.path.isdir(inner) else folder
        listed = _build_path(cfg, _FILE_NAMES)
        names = read_text(listed).split() if pathmgr.isfile(listed) else []
        find = VideoFolder(folder, file_names=names).find
        paths = {video: find(video) for video in videos}
    missing = [path for path in paths.values() if not is_there(path)]
    if missing and len(missing) == len(paths):
        where = "AVA.FRAME_DIR" if ava.FRAME_DIR else "DATA.PATH_PREFIX"
        raise FileNotFoundError(f"none of the {len(paths)} videos of the split {split} is there, such as {missing[0]}; "
                                f"{where} says where they lie")  # fmt: skip
    if missing:
        logger.warning("%s: %d of %d videos are not there, such as %s", split, len(missing), len(paths), missing[0])
    return paths


def _build_path(cfg: CfgNode, name: str) -> str:
    return join_prefix(cfg.AVA.ANNOTATION_DIR or cfg.DATA.PATH_TO_DATA_DIR, name)


def _build_thinned(cfg: CfgNode, split: str, boxes: pd.DataFrame) -> pd.DataFrame:
    if split != "val" or cfg.AVA.FULL_TEST_ON_VAL:
        return boxes
    return boxes[boxes["time_sec"] % _VALIDATED_PERIOD_SEC == 0]


def _build_train_boxes(cfg: CfgNode, truth: Truth) -> pd.DataFrame:
    """Truth and predicted persons, as SlowFast: these have the actions that their file gives them, or none."""
    tables = [truth.boxes]
    for name in cfg.AVA.TRAIN_PREDICT_BOX_LISTS:
        source = _build_path(cfg, name)
        table = _build_persons(cfg, source)
        check_boxes(table, source)
        check_labels(table, source, num_classes=cfg.MODEL.NUM_CLASSES, first=1)
        tables.append(table)
    return pd.concat(tables)


def _build_proposals(cfg: CfgNode, split: str, truth: Truth) -> pd.DataFrame:
    """The boxes whose actions are predicted in validation and testing; they have no labels."""
    sources = [_build_path(cfg, name) for name in cfg.AVA.TEST_PREDICT_BOX_LISTS]
    if not sources:
        logger.warning(
            "%s: AVA.TEST_PREDICT_BOX_LISTS is []: the boxes of the truth stand in for predicted persons. Nobody is "
            "missed and nobody made up, so results are higher than with a detector",
            split,
        )
    found = [(source, _build_thinned(cfg, split, _build_persons(cfg, source))) for source in sources]
    tables = []
    for source, table in found or [("the truth", truth.boxes)]:
        bad = find_bad_boxes(table)
        if len(bad):
            logger.warning(
                "%s: %d of %d rows have bad boxes, and no actions are predicted for them, such as line %d: %s %s",
                *(source, len(bad), len(table), bad.index[0], describe_box(table, bad.index[0]), bad.iloc[0]),
            )
        tables.append(table[~table.index.isin(bad.index)])
    return pd.concat(tables)


def _build_persons(cfg: CfgNode, source: str) -> pd.DataFrame:
    """The persons of a predicted list whose score is high enough."""
    table = load_ava_persons(source)
    return table[table["score"] >= cfg.AVA.DETECTION_SCORE_THRESH]


def _build_good_videos(cfg: CfgNode, paths: Mapping[str, str], manifest: Manifest | None) -> list[str]:
    """The videos to train on: those that are there and not known to be broken."""
    places = np.array(list(paths.values()))
    broken = set(manifest.find_broken(places)) if manifest is not None else set()
    good = [video for number, (video, path) in enumerate(paths.items()) if number not in broken and is_there(path)]
    num_bad = len(paths) - len(good)
    if num_bad > cfg.DATA.MAX_BAD_VIDEOS:
        raise ValueError(
            f"{num_bad} of {len(paths)} videos to train on are missing or broken, more than DATA.MAX_BAD_VIDEOS = "
            f"{cfg.DATA.MAX_BAD_VIDEOS}. Add or repair them, or raise the limit"
        )
    if num_bad:
        logger.warning("left out of training: %d of %d videos, which are missing or broken", num_bad, len(paths))
    return good


def _build_start_secs(
    cfg: CfgNode, boxes: pd.DataFrame, paths: Mapping[str, str], manifest: Manifest | None
) -> dict[str, float]:
    """Time of each file's first frame: AVA.START_SEC, or what the first video that opens shows."""
    start_sec = cfg.AVA.START_SEC
    if start_sec < 0:
        start_sec = _build_found_start_sec(cfg, boxes, paths, manifest)
    return dict.fromkeys(paths, start_sec)


def _build_found_start_sec(
    cfg: CfgNode, boxes: pd.DataFrame, paths: Mapping[str, str], manifest: Manifest | None
) -> float:
    sampler = KeyFrameSampler(num_frames=1, sampling_rate=1, target_fps=cfg.DATA.TARGET_FPS)
    reasons = []
    last_secs = boxes.groupby("video", sort=False)["time_sec"].max().head(_MAX_TRIES)
    for video, last_sec in last_secs.items():
        try:
            with open_video(paths[video], manifest) as reader:
                duration_sec = sampler.compute_length_sec(reader.index)
        except (VideoDecodeError, OSError) as error:
            reasons.append(str(error))
            continue
        try:
            start_sec = find_start_sec(duration_sec, last_sec)
        except ValueError as error:
            raise ValueError(f"{paths[video]}: {error}") from error
        logger.info(
            "%s lasts %.0f s: files are taken to begin at second %g of the film (AVA.START_SEC)",
            *(paths[video], duration_sec, start_sec),
        )
        return start_sec
    raise ValueError(f"AVA.START_SEC = -1, but no video opens that would show when files begin: {'; '.join(reasons)}")


def _describe(key_frames: KeyFrames, split: str) -> None:
    counts = len(key_frames), len(set(key_frames.videos.tolist())), len(key_frames.boxes), key_frames.actions.sum()
    logger.info("%s: %d key frames of %d videos, %d boxes, %d labels", split, *counts)
    empty = np.flatnonzero(~key_frames.actions.any(axis=0))
    if split == "train" and len(empty):
        logger.warning("%d of %d classes have no box to train on, such as %s", len(empty), key_frames.actions.shape[1],
                       (key_frames.class_names or empty)[empty[0]])  # fmt: skip

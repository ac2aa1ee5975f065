"""Truth, predicted persons and key frames of a config with DATA.FORMAT ava or boxes."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import pandas as pd
from fvcore.common.config import CfgNode

from hiera_video.data.action_lists import (
    KeyFrames,
    load_ava_persons,
    load_ava_truth,
    load_exclusions,
    load_label_map,
    make_key_frames,
)
from hiera_video.data.box_checks import check_boxes, check_labels, describe_box, find_bad_boxes
from hiera_video.data.box_tables import load_box_csv, load_box_table, load_table_classes
from hiera_video.data.box_videos import (
    build_facts,
    build_good_videos,
    build_list_path,
    build_start_secs,
    build_video_paths,
)
from hiera_video.data.lists import load_class_names
from hiera_video.data.loader import build_manifest
from hiera_video.utils.logging import get_logger
from hiera_video.utils.pathmgr import pathmgr
from hiera_video.video.manifest import Manifest

logger = get_logger(__name__)

_VALIDATED_PERIOD_SEC = 4  # every fourth second, as SlowFast validates
_PERSONS = "_persons.csv"


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
        ValueError: a file cannot be read, or has a label outside MODEL.NUM_CLASSES; in training also if a box cannot be
            meant.
    """
    num_classes, (tables, names) = cfg.MODEL.NUM_CLASSES, build_truth_tables(cfg, split)
    for source, table in tables:
        _build_checked(cfg, split, table, source)
    boxes = _build_thinned(cfg, split, pd.concat([table for _, table in tables]))
    if cfg.DATA.FORMAT == "boxes":
        if names and len(names) != num_classes:
            raise ValueError(
                f"{tables[0][0]} has {len(names)} classes, MODEL.NUM_CLASSES is {num_classes}: labels would not mean "
                "what the model's outputs mean; DATA.CLASS_NAMES_PATH lists classes that no box of training has"
            )
        return Truth(boxes, set(), dict(enumerate(names or map(str, range(num_classes)))))
    excluded = build_exclusions(cfg) if split != "train" else set()
    return Truth(boxes, excluded, build_label_map(cfg))


def build_truth_tables(cfg: CfgNode, split: str) -> tuple[list[tuple[str, pd.DataFrame]], tuple[str, ...] | None]:
    """Files of truth of a split, with what they hold, and the names that files of one's own give to classes.

    Neither boxes nor labels are checked.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file cannot be read.
    """
    if cfg.DATA.FORMAT == "boxes":
        source = _build_own_source(cfg, split)
        table, names = load_box_table(source, build_facts(cfg), class_names=_build_class_names(cfg))
        return [(source, table)], names
    listed = cfg.AVA.TRAIN_GT_BOX_LISTS if split == "train" else [cfg.AVA.GROUNDTRUTH_FILE]
    sources = [build_list_path(cfg, name) for name in listed]
    return [(source, load_ava_truth(source)) for source in sources], None


def _build_class_names(cfg: CfgNode) -> tuple[str, ...] | None:
    if cfg.DATA.CLASS_NAMES_PATH:
        return load_class_names(cfg.DATA.CLASS_NAMES_PATH)
    return load_table_classes(_build_own_source(cfg, "train"))


def _build_own_source(cfg: CfgNode, split: str) -> str:
    folder = cfg.DATA.PATH_TO_DATA_DIR
    sources = [os.path.join(folder, f"{split}{ending}") for ending in (".csv", ".json")]
    found = [source for source in sources if pathmgr.isfile(source)]
    if len(found) != 1:
        fault = "both lie there" if found else "there is neither"
        raise FileNotFoundError(f"DATA.FORMAT boxes takes {' or '.join(sources)}; {fault}")
    return found[0]


def _build_checked(cfg: CfgNode, split: str, table: pd.DataFrame, source: str) -> None:
    first = 0 if cfg.DATA.FORMAT == "boxes" else 1
    check_labels(table, source, num_classes=cfg.MODEL.NUM_CLASSES, first=first)
    if split == "train":
        check_boxes(table, source)


def build_exclusions(cfg: CfgNode) -> set[tuple[str, float]]:
    """AVA's moments that count neither way, see `load_exclusions`; none where no file is named."""
    name = cfg.AVA.EXCLUSION_FILE
    return load_exclusions(build_list_path(cfg, name)) if name else set()


def build_label_map(cfg: CfgNode) -> dict[int, str]:
    """AVA's classes that count in a test: label, counted from 0 -> name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or has ids that MODEL.NUM_CLASSES has not.
    """
    path, num_classes = build_list_path(cfg, cfg.AVA.LABEL_MAP_FILE), cfg.MODEL.NUM_CLASSES
    names = load_label_map(path)
    if min(names) < 1 or max(names) > num_classes:
        raise ValueError(
            f"{path} has ids {min(names)} to {max(names)}; with MODEL.NUM_CLASSES = {num_classes} they must be in "
            f"[1, {num_classes}]"
        )
    return {number - 1: name for number, name in names.items()}


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
    if not len(boxes):
        raise ValueError(
            f"the split {split} has no boxes: its lists are empty, or no predicted person has a score of at least "
            f"AVA.DETECTION_SCORE_THRESH = {cfg.AVA.DETECTION_SCORE_THRESH}"
        )
    paths = build_video_paths(cfg, split, boxes["video"].unique().tolist())
    manifest = build_manifest(cfg, np.array(list(paths.values()), dtype=np.str_))
    if split == "train":
        boxes = boxes[boxes["video"].isin(build_good_videos(cfg, paths, manifest))]
    names = tuple(truth.class_names.get(label, f"class {label}") for label in range(cfg.MODEL.NUM_CLASSES))
    key_frames = make_key_frames(
        boxes,
        paths=paths,
        start_secs=build_start_secs(cfg, boxes, paths, manifest),
        num_classes=cfg.MODEL.NUM_CLASSES,
        class_names=names,
    )
    _describe(key_frames, split)
    return key_frames, manifest


def _build_thinned(cfg: CfgNode, split: str, boxes: pd.DataFrame) -> pd.DataFrame:
    if split != "val" or cfg.AVA.FULL_TEST_ON_VAL or cfg.DATA.FORMAT == "boxes":
        return boxes
    return boxes[boxes["time_sec"] % _VALIDATED_PERIOD_SEC == 0]


def _build_train_boxes(cfg: CfgNode, truth: Truth) -> pd.DataFrame:
    """Truth and predicted persons, as SlowFast: these have the actions that their file gives them, or none."""
    tables = [truth.boxes]
    for source, table in build_person_tables(cfg, "train"):
        _build_checked(cfg, "train", table, source)
        tables.append(table)
    return pd.concat(tables)


def _build_proposals(cfg: CfgNode, split: str, truth: Truth) -> pd.DataFrame:
    """The boxes whose actions are predicted in validation and testing."""
    found = [(source, _build_thinned(cfg, split, table)) for source, table in build_person_tables(cfg, split)]
    if not found:
        logger.warning(
            "%s: there are no predicted persons (%s), so the boxes of the truth stand in for them. Nobody is missed "
            "and nobody made up: results are higher than with a detector",
            *(split, "AVA.TEST_PREDICT_BOX_LISTS" if cfg.DATA.FORMAT == "ava" else f"{split}{_PERSONS}"),
        )
    tables = []
    for source, table in found or [("the truth", truth.boxes)]:
        bad = find_bad_boxes(table)
        if len(bad):
            logger.warning(
                "%s: %d of %d rows have bad boxes, and no actions are predicted for them, such as line %s: %s %s",
                *(source, len(bad), len(table), bad.index[0], describe_box(table, bad.index[0]), bad.iloc[0]),
            )
        tables.append(table[~table.index.isin(bad.index)])
    return pd.concat(tables)


def build_person_tables(cfg: CfgNode, split: str) -> list[tuple[str, pd.DataFrame]]:
    """Lists of predicted persons of a split, and their persons whose score is high enough. Boxes are not checked.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file cannot be read, or is one of truth.
    """
    least_score = cfg.AVA.DETECTION_SCORE_THRESH
    if cfg.DATA.FORMAT == "boxes":
        source = os.path.join(cfg.DATA.PATH_TO_DATA_DIR, f"{split}{_PERSONS}")
        if split == "train" or not pathmgr.isfile(source):
            return []
        tables = [(source, load_box_csv(source, build_facts(cfg), class_names=_build_class_names(cfg))[0])]
    else:
        names = cfg.AVA.TRAIN_PREDICT_BOX_LISTS if split == "train" else cfg.AVA.TEST_PREDICT_BOX_LISTS
        sources = [build_list_path(cfg, name) for name in names]
        tables = [(source, load_ava_persons(source)) for source in sources]
    return [(source, table[table["score"] >= least_score]) for source, table in tables]


def _describe(key_frames: KeyFrames, split: str) -> None:
    counts = len(key_frames), len(set(key_frames.videos.tolist())), len(key_frames.boxes), key_frames.actions.sum()
    logger.info("%s: %d key frames of %d videos, %d boxes, %d labels", split, *counts)
    empty = np.flatnonzero(~key_frames.actions.any(axis=0))
    if split == "train" and len(empty):
        logger.warning("%d of %d classes have no box to train on, such as %s", len(empty), key_frames.actions.shape[1],
                       (key_frames.class_names or empty)[empty[0]])  # fmt: skip

"""Cross-validation: each clip of a list is tested once, by a model that was trained without it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import simplejson
import torch
from fvcore.common.config import CfgNode

from hiera_video.config import config_from_text, dump_config
from hiera_video.data.build_lists import build_video_list
from hiera_video.data.folds import divide, find_strata
from hiera_video.data.label_sets import LabelSets
from hiera_video.data.lists import VideoList
from hiera_video.data.multilabel_lists import NO_CLASS
from hiera_video.engine.evaluate import test
from hiera_video.engine.launch import launch
from hiera_video.engine.training.classify import train
from hiera_video.engine.training.resume import find_changes
from hiera_video.utils.files import write_whole
from hiera_video.utils.logging import get_logger
from hiera_video.utils.rng import compute_seed
from hiera_video.utils.trees import compute_tree_digest

logger = get_logger(__name__)

_FORMATS = ("kinetics", "ssv2", "ssv2_frames", "folders", "charades")
# What may be another in a later start: no number depends on it.
_NO_SETTINGS = (
    *("OUTPUT_DIR", "NUM_GPUS", "LOG_PERIOD", "TENSORBOARD.", "DATA_LOADER.", "EXTRACT."),
    *(
        "TRAIN.CHECKPOINT_PERIOD",
        "TRAIN.CHECKPOINT_KEEP_LAST",
        "TRAIN.AUTO_RESUME",
        "TRAIN.STOP_WHEN_DISK_FULL",
        "TEST.BATCH_SIZE",
    ),
    *("DATA.TIMEOUT_SEC", "DATA.MAX_BAD_VIDEOS", "DATA.MANIFEST"),
)


@dataclass(frozen=True, eq=False)
class Plan:
    """Which clips each fold tests, validates on, and trains on.

    Attributes:
        videos: all clips, each once.
        fold_of: int64 (n,), the fold, in [0, F), that tests each clip.
        is_validation: bool (F, n), the clips that a fold takes out of its training clips for validation.
        num_groups: None where each clip stands for itself.
    """

    videos: VideoList
    fold_of: np.ndarray
    is_validation: np.ndarray
    num_groups: int | None

    @property
    def num_folds(self) -> int:
        """F."""
        return len(self.is_validation)

    def get_parts(self, fold: int) -> dict[str, np.ndarray]:
        """Split -> bool (n,): which clips a fold, in [0, F), trains, validates and tests on."""
        is_tested, is_validation = self.fold_of == fold, self.is_validation[fold]
        return {"train": ~(is_tested | is_validation), "val": is_validation, "test": is_tested}

    def compute_digest(self) -> str:
        """Of the clips, their labels and their parts: 64 hexadecimal digits."""
        parts = {"folds": torch.from_numpy(self.fold_of), "validation": torch.from_numpy(self.is_validation)}
        labels = [describe_labels(self.videos, index) for index in range(len(self.videos))]
        return compute_tree_digest({**parts, "paths": self.videos.paths.tolist(), "labels": labels})


def check_can_cross_validate(cfg: CfgNode) -> None:
    """Raises ValueError for a config, or a way of starting, that cross-validation cannot do."""
    if cfg.TASK != "classify" or cfg.DATA.FORMAT not in _FORMATS:
        raise ValueError(
            f"TASK = {cfg.TASK} with DATA.FORMAT = {cfg.DATA.FORMAT}: crossval is for TASK classify with "
            f"{', '.join(_FORMATS)}"
        )
    if cfg.TEST.CHECKPOINT_FILE_PATH not in ("", "best"):
        raise ValueError(
            f"TEST.CHECKPOINT_FILE_PATH = {cfg.TEST.CHECKPOINT_FILE_PATH}: each fold tests the model that it has "
            "trained; leave it empty (the last checkpoint) or set best"
        )
    if "RANK" in os.environ:
        raise ValueError("crossval starts its processes itself, one a GPU: start it without torchrun or srun")


def join_lists(cfg: CfgNode, splits: Sequence[str]) -> VideoList:
    """The lists of some splits as one.

    Raises:
        ValueError: a clip is listed twice, so that it would come to both sides; or see `build_video_list`.
    """
    lists = [build_video_list(cfg, split) for split in splits]
    paths, labels = (np.concatenate([getattr(one, name) for one in lists]) for name in ("paths", "labels"))
    names, counts = np.unique(paths, return_counts=True)
    if counts.max() > 1:
        raise ValueError(
            f"{(counts > 1).sum()} clips are listed more than once in {' and '.join(splits)}, such as "
            f"{names[counts.argmax()]}: they would be on both sides; list each clip once"
        )
    label_sets = None
    if lists[0].label_sets is not None:
        rows = [one.label_sets.get(i).tolist() for one in lists if one.label_sets for i in range(len(one))]
        label_sets = LabelSets.from_lists(rows, num_classes=lists[0].label_sets.num_classes)
    return VideoList(paths, labels, lists[0].class_names, label_sets)


def make_plan(
    videos: VideoList, *, num_folds: int, seed: int, groups: Sequence[str] | None = None, val_share: float = 0.2
) -> Plan:
    """Divides a list.

    Args:
        num_folds: at least 2.
        seed: of the division.
        groups: a name for each clip; those of the same name never come to both sides, nor to training and validation.
        val_share: of the clips that a fold does not test, about this share (1 of 2, 3, ...) is for validation; 0: none.

    Raises:
        ValueError: there are too few clips or groups.
    """
    strata = find_strata(videos)
    sizes = np.unique(strata, return_counts=True)[1]
    if sizes.min() < num_folds:
        logger.warning(
            "%d of %d classes have fewer clips than there are folds: not every fold tests them",
            (sizes < num_folds).sum(),
            len(sizes),
        )
    names = None if groups is None else np.array(groups)
    fold_of = divide(strata, num_parts=num_folds, seed=_make_seed(seed), groups=groups)
    is_validation = np.zeros((num_folds, len(videos)), dtype=bool)
    for fold in range(num_folds) if val_share else ():
        rest = np.flatnonzero(fold_of != fold)
        groups_of_rest = None if names is None else names[rest].tolist()
        num_parts = min(round(1 / val_share), len(set(groups_of_rest or rest.tolist())))
        if num_parts < 2:
            raise ValueError(
                f"the clips that fold {fold + 1} does not test are one group, so that none can be set aside for "
                "validation: take more folds, or set TRAIN.EVAL_PERIOD 0, for which none is needed"
            )
        part_of = divide(strata[rest], num_parts=num_parts, seed=_make_seed(seed, fold), groups=groups_of_rest)
        is_validation[fold, rest[part_of == 0]] = True
    return Plan(videos, fold_of, is_validation, None if groups is None else len(set(groups)))


def _make_seed(*key: int) -> int:
    return compute_seed(*key) % 2**32  # scikit-learn takes 32 bits


def cross_validate(cfg: CfgNode, plan: Plan) -> None:
    """Trains and tests each fold in ``fold_1``, ``fold_2``, ... of OUTPUT_DIR, ordinary folders of runs.

    What is done is not done again, and a fold that was interrupted goes on.

    Raises:
        ValueError: OUTPUT_DIR holds a cross-validation of other clips, folds or settings.
        Interrupted: the job was asked to stop, and can be started again.
    """
    _check_same(cfg, plan)
    names_path = Path(cfg.OUTPUT_DIR) / "classnames.json"
    if plan.videos.class_names:
        write_whole(names_path, (simplejson.dumps(plan.videos.class_names, indent=1) + "\n").encode())
    for fold in range(plan.num_folds):
        folder = get_fold_dir(cfg.OUTPUT_DIR, fold)
        if (folder / "test_results.json").exists():
            logger.info("fold %d of %d is done: %s", fold + 1, plan.num_folds, folder)
            continue
        changed = cfg.clone()
        changed.defrost()
        changed.OUTPUT_DIR = str(folder)
        changed.DATA.FORMAT, changed.DATA.PATH_LABEL_SEPARATOR = "kinetics", " "
        changed.DATA.PATH_TO_DATA_DIR, changed.DATA.PATH_PREFIX = str(folder / "lists"), _get_prefix(cfg)
        changed.DATA.CLASS_NAMES_PATH = str(names_path) if plan.videos.class_names else ""
        changed.TEST.SPLIT = "test"
        changed.freeze()
        write_lists(folder / "lists", plan.videos, plan.get_parts(fold), prefix=_get_prefix(cfg))
        logger.info("fold %d of %d: %s", fold + 1, plan.num_folds, folder)
        launch([train, test], changed)


def get_fold_dir(output_dir: str, fold: int) -> Path:
    """Where the run of a fold, counted from 0, lies."""
    return Path(output_dir) / f"fold_{fold + 1}"


def _get_prefix(cfg: CfgNode) -> str:
    return cfg.DATA.PATH_PREFIX or cfg.DATA.PATH_TO_DATA_DIR


def write_lists(folder: Path, videos: VideoList, parts: dict[str, np.ndarray], *, prefix: str) -> None:
    """Writes a csv of each part that is not empty, in Kinetics' form.

    Args:
        folder: where.
        parts: name -> bool (n,), which clips.
        prefix: is left out of the paths, so that DATA.PATH_PREFIX gives them as they were.
    """
    start = os.path.join(prefix, "") if prefix else ""
    for name, is_chosen in parts.items():
        lines = [
            f"{_quote(str(videos.paths[index]).removeprefix(start))} {describe_labels(videos, index)}\n"
            for index in np.flatnonzero(is_chosen).tolist()
        ]
        if lines:
            write_whole(folder / f"{name}.csv", "".join(lines).encode())


def _quote(path: str) -> str:
    """What readers of lists give back as ``path``: they drop spaces and quotes around it."""
    return f'"{path}"' if path != path.strip() or path.startswith('"') else path


def describe_labels(videos: VideoList, index: int) -> str:
    """The classes of a clip as a list has them."""
    if videos.label_sets is None:
        return str(videos.labels[index])
    return ",".join(map(str, videos.label_sets.get(index))) or NO_CLASS


def _check_same(cfg: CfgNode, plan: Plan) -> None:
    """Writes down what is cross-validated, or compares with what an earlier start has written."""
    path = Path(cfg.OUTPUT_DIR) / "crossval_plan.json"
    now = {"folds": plan.num_folds, "clips": len(plan.videos), "digest": plan.compute_digest()}
    if not path.exists():
        write_whole(path, (simplejson.dumps({**now, "config": dump_config(cfg)}, indent=1) + "\n").encode())
        return
    before = simplejson.loads(path.read_text())
    changes = find_changes(config_from_text(before["config"]), cfg)
    lines = [line for key, line in changes.items() if not key.startswith(_NO_SETTINGS)]
    lines += [f"{key}: {before[key]} -> {now[key]}" for key in ("folds", "clips") if before[key] != now[key]]
    if not lines and before["digest"] != now["digest"]:
        lines = ["other clips, labels, groups or validation share"]
    if lines:
        raise ValueError(
            f"{cfg.OUTPUT_DIR} holds a cross-validation with other settings: {'; '.join(lines)}. Give the old ones to "
            "go on, or another OUTPUT_DIR"
        )


def collect_predictions(cfg: CfgNode, plan: Plan) -> pd.DataFrame:
    """What each clip's fold predicted, in the order of the list: ``test_predictions.parquet`` and a column ``fold``.

    Raises:
        ValueError: a fold has tested other clips than the plan says.
    """
    tables = []
    for fold in range(plan.num_folds):
        path = get_fold_dir(cfg.OUTPUT_DIR, fold) / "test_predictions.parquet"
        positions = np.flatnonzero(plan.fold_of == fold)
        table = pd.read_parquet(path)
        if table["path"].tolist() != plan.videos.paths[positions].tolist():
            raise ValueError(f"{path} is not of the clips of its fold; remove {path.parent} to do the fold again")
        tables.append(table.assign(fold=fold + 1).set_index(positions))
    return pd.concat(tables).sort_index().reset_index(drop=True)

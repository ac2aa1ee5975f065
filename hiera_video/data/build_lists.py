"""Lists of videos and labels as a config describes them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from fvcore.common.config import CfgNode

from hiera_video.data.coco_lists import build_unchecked_detection_list
from hiera_video.data.frame_lists import load_frame_list
from hiera_video.data.image_lists import find_images, load_image_tables, load_image_tar
from hiera_video.data.lists import (
    VideoList,
    check_video_list,
    get_class_names,
    join_prefix,
    load_class_folders,
    load_kinetics_csv,
    load_ssv2_json,
    make_list,
)
from hiera_video.data.multilabel_lists import (
    has_labels_file,
    load_charades_csv,
    load_labeled_folder,
    load_multilabel_csv,
)
from hiera_video.utils.pathmgr import is_url, pathmgr
from hiera_video.video.image_backend import IMAGE_SUFFIXES

CHARADES_CLASSES = "Charades_v1_classes.txt"


def build_video_list(cfg: CfgNode, split: str, *, require_labels: bool = True) -> VideoList:
    """The checked list of a split ("train", "val" or "test"), in the format that DATA.FORMAT names.

    Args:
        split: which.
        require_labels: False for pre-training, which uses no labels: lines may lack them, and none is checked.

    Raises:
        FileNotFoundError: no list or folder of that split, or none of its videos.
        ValueError: an empty list, a line that cannot be read, or a label outside MODEL.NUM_CLASSES.
    """
    videos, source = build_unchecked_video_list(cfg, split, require_labels=require_labels)
    check_video_list(videos, num_classes=cfg.MODEL.NUM_CLASSES if require_labels else None, source=source)
    return videos


def build_unchecked_video_list(cfg: CfgNode, split: str, *, require_labels: bool = True) -> tuple[VideoList, str]:
    """As `build_video_list`, but without looking at labels and files; and the path of the list, or folder."""
    data = cfg.DATA
    folder, prefix = data.PATH_TO_DATA_DIR, data.PATH_PREFIX or data.PATH_TO_DATA_DIR
    names = data.CLASS_NAMES_PATH or None
    if not is_url(folder) and not os.path.isdir(folder):
        raise FileNotFoundError(f"DATA.PATH_TO_DATA_DIR = {folder}: there is no such folder")
    if data.FORMAT in ("ava", "boxes"):
        raise ValueError(f"DATA.FORMAT = {data.FORMAT} lists boxes at moments of videos, for TASK detect_actions alone")
    if cfg.MODEL.LOSS_FUNC == "bce_logit":
        return build_multilabel_list(cfg, split, folder=folder, prefix=prefix)
    if data.FORMAT in ("ssv2", "ssv2_frames"):
        source = find_ssv2_json(folder, "validation" if split == "val" else split)
        labels = find_ssv2_json(folder, "labels")
        if data.FORMAT == "ssv2":
            videos = load_ssv2_json(source, labels, path_prefix=prefix, suffix=data.VIDEO_SUFFIX)
        else:
            frame_list = os.path.join(folder, f"{split}.csv")
            videos = _take_series(
                load_ssv2_json(source, labels, suffix=""), load_frame_list(frame_list), prefix, frame_list
            )
    elif data.FORMAT == "folders":
        source = os.path.join(folder, split)
        videos = _load_split_folder(source, os.path.join(folder, "train"), names)
    elif data.FORMAT == "coco":
        pictures = build_unchecked_detection_list(cfg, split)
        videos, source = VideoList(pictures.paths, pictures.labels), pictures.source
    elif data.FORMAT == "imagenet":
        videos, source = _load_images(folder, split, names)
    elif data.FORMAT == "charades":
        videos, source = _load_charades(folder, prefix, split)
    else:
        source = os.path.join(folder, f"{split}.csv")
        videos = load_kinetics_csv(
            source,
            separator=data.PATH_LABEL_SEPARATOR,
            path_prefix=prefix,
            class_names=names,
            require_labels=require_labels,
        )
    return videos, source


def build_multilabel_list(cfg: CfgNode, split: str, *, folder: str, prefix: str) -> tuple[VideoList, str]:
    """A list whose videos may have several classes, or none; and where it came from.

    Args:
        split: which.
        folder: of the lists.
        prefix: of relative paths.
    """
    num_classes, names = cfg.MODEL.NUM_CLASSES, cfg.DATA.CLASS_NAMES_PATH or None
    if cfg.DATA.FORMAT == "charades":
        return _load_charades(folder, prefix, split)
    if cfg.DATA.FORMAT == "folders":
        source, train_dir = os.path.join(folder, split), os.path.join(folder, "train")
        classes = get_class_names(names)
        if classes is None and source != train_dir and has_labels_file(train_dir):
            classes = load_labeled_folder(train_dir, num_classes=num_classes).class_names
        return load_labeled_folder(source, class_names=classes, num_classes=num_classes), source
    source = os.path.join(folder, f"{split}.csv")
    separator = cfg.DATA.PATH_LABEL_SEPARATOR
    options = {"separator": separator, "path_prefix": prefix, "class_names": names}
    return load_multilabel_csv(source, num_classes=num_classes, **options), source


def _load_charades(folder: str, prefix: str, split: str) -> tuple[VideoList, str]:
    source = find_charades_csv(folder, split)
    return load_charades_csv(source, os.path.join(folder, CHARADES_CLASSES), path_prefix=prefix), source


def _load_images(folder: str, split: str, class_names: str | None) -> tuple[VideoList, str]:
    """The pictures of a split, in whatever form they lie there; and where that is."""
    kind, places = find_images(folder, split)
    if kind == "folders":
        train_dir = os.path.join(folder, "train")
        return _load_split_folder(places[0], train_dir, class_names, suffixes=IMAGE_SUFFIXES), places[0]
    names = get_class_names(class_names)
    entries = load_image_tar(places[0], class_names=names) if kind == "tar" else load_image_tables(places)
    return make_list(*entries), places[0]


def _load_split_folder(source: str, train_dir: str, class_names: str | None, **options: Any) -> VideoList:
    """The class folders of a split; labels must mean the same in every split."""
    names: Any = class_names
    if names is None and source != train_dir and pathmgr.isdir(train_dir):
        names = load_class_folders(train_dir, **options).class_names
    return load_class_folders(source, class_names=names, **options)


def _take_series(videos: VideoList, series: Mapping[str, str], prefix: str, source: str) -> VideoList:
    """The same videos, whose paths were ids, as series of pictures."""
    missing = [video_id for video_id in videos.paths if video_id not in series]
    if missing:
        raise ValueError(f"{source} has no frames of {len(missing)} videos of the split, such as {missing[0]}")
    return make_list(
        [join_prefix(prefix, series[video_id]) for video_id in videos.paths],
        videos.labels.tolist(),
        videos.class_names,
    )


def find_charades_csv(folder: str, split: str) -> str:
    """The official list of a split: Charades has two, and the one for testing serves for validation too."""
    return os.path.join(folder, f"Charades_v1_{'train' if split == 'train' else 'test'}.csv")


def find_ssv2_json(folder: str, name: str) -> str:
    """The official file of that name: in the newer form, or in the older one with the data set's name in front."""
    older = os.path.join(folder, f"something-something-v2-{name}.json")
    return older if pathmgr.isfile(older) else os.path.join(folder, f"{name}.json")

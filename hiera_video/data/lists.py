"""Lists of videos and labels, from the files that data sets come with."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from fvcore.common.config import CfgNode

from hiera_video.data.frame_lists import load_frame_list
from hiera_video.data.image_lists import find_images, load_image_tables, load_image_tar
from hiera_video.utils.logging import get_logger
from hiera_video.utils.pathmgr import is_url, pathmgr
from hiera_video.video import is_series
from hiera_video.video.image_backend import IMAGE_SUFFIXES, get_container

logger = get_logger(__name__)

VIDEO_SUFFIXES = (
    ".mp4",
    ".m4v",
    ".mov",
    ".webm",
    ".mkv",
    ".avi",
    ".mpg",
    ".mpeg",
    ".ts",
    ".wmv",
    ".flv",
    ".3gp",
    ".ogv",
)

UNLABELED = -1  # the label of a video without one

_FORMATS = (
    "understood are Kinetics-style csv files ('path label' a line), Something-Something V2's json files "
    "(a split and the labels) and class folders (split/class/video.mp4)"
)
_NUM_FILES_CHECKED = 1000


@dataclass(frozen=True, eq=False)
class VideoList:
    """Videos of one split.

    Attributes:
        paths: str array (n,). An array, not a list: worker processes that read it touch no reference counts, so they
            go on sharing its memory.
        labels: int64 (n,), -1 where unknown.
        class_names: name of each label, where the source has names.
    """

    paths: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.paths)


def load_kinetics_csv(
    csv_path: str,
    *,
    separator: str = " ",
    path_prefix: str = "",
    class_names: Sequence[str] | str | None = None,
    require_labels: bool = True,
) -> VideoList:
    """Reads ``path<separator>label`` lines, as SlowFast, PyTorchVideo and VideoMAE use for Kinetics.

    A line is split at its last separator, so paths may contain it. Blank lines and quotes around a path are dropped.

    Args:
        csv_path: the list.
        separator: what stands between path and label.
        path_prefix: folder or URL in front of paths that are neither absolute nor URLs.
        class_names: names in order, or a file for `load_class_names`.
        require_labels: False takes a line without a label as an unlabeled video (label -1).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not of this form; names file, line and text.
    """
    if not separator:
        raise ValueError("separator is ''; it must be what stands between path and label, such as ' ' or ','")
    paths, labels = [], []
    for number, raw in enumerate(_read_text(csv_path).splitlines(), start=1):
        line = raw.strip()
        if not line:
            continue
        path, label = _split_line(line, separator)
        if label is None and require_labels:
            raise ValueError(
                f"{csv_path}:{number}: {line!r} is not a path and an integer label with {separator!r} between them, "
                f"such as 'videos/a.mp4{separator}3'"
            )
        paths.append(_join_prefix(path_prefix, path))
        labels.append(UNLABELED if label is None else label)
    return _make_list(paths, labels, _get_class_names(class_names))


def load_ssv2_json(split_json: str, labels_json: str, *, path_prefix: str = "", suffix: str = ".webm") -> VideoList:
    """Reads Something-Something V2's own files.

    Args:
        split_json: train, validation or test file: a list of objects with ``id`` and, except in the test file,
            ``template``, whose brackets are dropped ("Moving [something] up"). Videos without template get label -1.
        labels_json: object from template to label, ``{"Moving something up": "42", ...}``.
        path_prefix: folder or URL of the videos.
        suffix: ending of the video files.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: a file is not of this form, or a template has no label; names the file and the entry.
    """
    names = load_class_names(labels_json)
    label_of = {name: label for label, name in enumerate(names)}
    entries = _read_json(split_json)
    if not isinstance(entries, list):
        raise ValueError(f"{split_json}: expected a list of objects with 'id' and 'template', got {_describe(entries)}")
    paths, labels = [], []
    for position, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or "id" not in entry:
            raise ValueError(f"{split_json}: entry {position} is {entry!r}; it must have 'id' and 'template'")
        paths.append(_join_prefix(path_prefix, f"{entry['id']}{suffix}"))
        labels.append(_get_ssv2_label(entry, label_of, split_json=split_json, labels_json=labels_json))
    return _make_list(paths, labels, names)


def load_class_folders(
    split_dir: str,
    *,
    class_names: Sequence[str] | str | None = None,
    suffixes: Iterable[str] = VIDEO_SUFFIXES,
) -> VideoList:
    """Lists the videos of ``split_dir/<class>/<video>``; the folder's name is the class.

    Args:
        split_dir: folder of the split.
        class_names: classes in the order of their labels (or a file of them). For the other splits give the training
            split's, so that labels agree; None takes the folders in sorted order.
        suffixes: endings of video files, any case.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has no class folder, or one that is not in `class_names`.
    """
    if not pathmgr.isdir(split_dir):
        raise FileNotFoundError(f"There is no folder {split_dir!r}; {_FORMATS}")
    folders = sorted(
        name
        for name in pathmgr.ls(split_dir)
        if not name.startswith(".") and pathmgr.isdir(os.path.join(split_dir, name))
    )
    if not folders:
        raise ValueError(
            f"{split_dir} has no class folders; expected {os.path.join(split_dir, '<class>', '<video>.mp4')}"
        )
    names = _get_class_names(class_names) or tuple(folders)
    label_of = {name: label for label, name in enumerate(names)}
    endings = tuple(suffix.lower() for suffix in suffixes)
    paths: list[str] = []
    labels: list[int] = []
    for folder in folders:
        if folder not in label_of:
            raise ValueError(
                f"{split_dir}: the folder {folder!r} is none of the {len(names)} classes{_suggest(folder, names)}"
            )
        files = sorted(name for name in pathmgr.ls(os.path.join(split_dir, folder)) if name.lower().endswith(endings))
        if not files:
            logger.warning("%s holds no video", os.path.join(split_dir, folder))
        paths.extend(os.path.join(split_dir, folder, name) for name in files)
        labels.extend([label_of[folder]] * len(files))
    return _make_list(paths, labels, names)


def load_class_names(path: str) -> tuple[str, ...]:
    """Reads class names in the order of their labels.

    Args:
        path: a text file with one name a line, or a json file: an object from name to label (quotes within names, as
            SlowFast's Kinetics file has them, are dropped), or a list of names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the labels of a json object are not 0 ... n - 1.
    """
    if not path.lower().endswith(".json"):
        return tuple(line.strip() for line in _read_text(path).splitlines() if line.strip())
    content = _read_json(path)
    if isinstance(content, list):
        return tuple(str(name) for name in content)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path}: expected an object from class name to label, or a list, got {_describe(content)}")
    try:
        name_of = {int(label): name.strip('"') for name, label in content.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: a class has a label that is no integer ({error})") from error
    if len(name_of) != len(content) or sorted(name_of) != list(range(len(name_of))):
        raise ValueError(f"{path}: the labels of {len(content)} classes must be 0 ... {len(content) - 1}, each once")
    return tuple(name_of[label] for label in range(len(name_of)))


def check_video_list(videos: VideoList, *, num_classes: int | None, source: str) -> None:
    """Stops before a long job does: no videos, labels out of range, files that are not there.

    At most 1000 files are looked for, evenly spread over the list; URLs are not.

    Args:
        videos: the list.
        num_classes: number of classes; labels must be in [0, num_classes). None: labels do not matter.
        source: where the list came from, for messages.

    Raises:
        ValueError: the list is empty, or a label is out of range.
        FileNotFoundError: none of the files looked for exists. If only some are missing, that is logged.
    """
    if len(videos) == 0:
        raise ValueError(f"{source} lists no videos")
    if num_classes is not None:
        _check_labels(videos, num_classes=num_classes, source=source)
    _check_files(videos.paths, source=source)


def _check_labels(videos: VideoList, *, num_classes: int, source: str) -> None:
    labels = videos.labels
    bad = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(bad) == 0:
        return
    message = (
        f"{source}: {videos.paths[bad[0]]} has label {labels[bad[0]]}; with {num_classes} classes (MODEL.NUM_CLASSES) "
        f"labels must be in [0, {num_classes}); {len(bad)} of {len(videos)} videos are outside"
    )
    if labels.min() == 1 and labels.max() == num_classes:
        message += ". The labels seem to count from 1: subtract 1"
    raise ValueError(message)


def _check_files(paths: np.ndarray, *, source: str) -> None:
    chosen = [str(path) for path in paths[_spread(len(paths), _NUM_FILES_CHECKED)]]
    here = [get_container(path) for path in chosen if not is_url(path)]
    local = [os.path.dirname(path) if is_series(path) else path for path in here]
    missing = [path for path in local if not os.path.exists(path)]
    if not missing:
        return
    if len(missing) == len(local):
        raise FileNotFoundError(
            f"{source}: none of {len(local)} videos looked for exists, the first is {missing[0]}; "
            "DATA.PATH_PREFIX is put in front of relative paths"
        )
    logger.warning(
        "%s: %d of %d videos looked for do not exist, such as %s", source, len(missing), len(local), missing[:3]
    )


def _spread(length: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, length - 1, min(length, count)).round().astype(np.int64))


def _split_line(line: str, separator: str) -> tuple[str, int | None]:
    """Path and label of a line; label None when the text after the last separator is no integer."""
    path, found, text = line.rpartition(separator)
    try:
        label = int(text)
    except ValueError:
        return _unquote(line), None
    path = _unquote(path.strip())
    return (path, label) if found and path else (_unquote(line), None)


def _unquote(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _get_ssv2_label(entry: Mapping, label_of: Mapping[str, int], *, split_json: str, labels_json: str) -> int:
    if "template" not in entry:
        return UNLABELED
    name = entry["template"].replace("[", "").replace("]", "")
    if name not in label_of:
        raise ValueError(
            f"{split_json}: the template {entry['template']!r} of video {entry['id']} is not in {labels_json}"
            f"{_suggest(name, label_of)}"
        )
    return label_of[name]


def _get_class_names(class_names: Sequence[str] | str | None) -> tuple[str, ...] | None:
    if class_names is None or class_names == "":
        return None
    return load_class_names(class_names) if isinstance(class_names, str) else tuple(class_names)


def _make_list(paths: list[str], labels: list[int], class_names: tuple[str, ...] | None) -> VideoList:
    return VideoList(np.array(paths, dtype=np.str_), np.array(labels, dtype=np.int64), class_names)


def _join_prefix(prefix: str, path: str) -> str:
    return path if not prefix or os.path.isabs(path) or is_url(path) else os.path.join(prefix, path)


def _read_text(path: str) -> str:
    # Read as bytes: not every handler of iopath takes an encoding. "-sig" drops the mark that Windows editors write.
    try:
        with pathmgr.open(path, "rb") as file:
            return file.read().decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(f"There is no annotation file {path!r}; {_FORMATS}") from error


def _read_json(path: str) -> object:
    try:
        return json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a json file: {error}") from error


def _describe(value: object) -> str:
    return f"{type(value).__name__} {str(value)[:60]!r}"


def _suggest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


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
    if data.FORMAT in ("ssv2", "ssv2_frames"):
        source = _find_ssv2_json(folder, "validation" if split == "val" else split)
        labels = _find_ssv2_json(folder, "labels")
        if data.FORMAT == "ssv2":
            videos = load_ssv2_json(source, labels, path_prefix=prefix, suffix=data.VIDEO_SUFFIX)
        else:
            frame_list = os.path.join(folder, f"{split}.csv")
            videos = _take_series(
                load_ssv2_json(source, labels, suffix=""), load_frame_list(frame_list), prefix, frame_list
            )
    elif data.FORMAT == "folders":
        source, train_dir = os.path.join(folder, split), os.path.join(folder, "train")
        if names is None and split != "train" and pathmgr.isdir(train_dir):
            names = load_class_folders(train_dir).class_names  # labels must mean the same in every split
        videos = load_class_folders(source, class_names=names)
    elif data.FORMAT == "imagenet":
        videos, source = _load_images(folder, split, names)
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


def _load_images(folder: str, split: str, class_names: str | None) -> tuple[VideoList, str]:
    """The pictures of a split, in whatever form they lie there; and where that is."""
    kind, places = find_images(folder, split)
    names = _get_class_names(class_names)
    train_dir = os.path.join(folder, "train")
    if kind == "folders":
        if names is None and split != "train" and pathmgr.isdir(train_dir):
            names = load_class_folders(train_dir, suffixes=IMAGE_SUFFIXES).class_names
        return load_class_folders(places[0], class_names=names, suffixes=IMAGE_SUFFIXES), places[0]
    entries = load_image_tar(places[0], class_names=names) if kind == "tar" else load_image_tables(places)
    return _make_list(*entries), places[0]


def _take_series(videos: VideoList, series: Mapping[str, str], prefix: str, source: str) -> VideoList:
    """The same videos, whose paths were ids, as series of pictures."""
    missing = [video_id for video_id in videos.paths if video_id not in series]
    if missing:
        raise ValueError(f"{source} has no frames of {len(missing)} videos of the split, such as {missing[0]}")
    return _make_list(
        [_join_prefix(prefix, series[video_id]) for video_id in videos.paths],
        videos.labels.tolist(),
        videos.class_names,
    )


def _find_ssv2_json(folder: str, name: str) -> str:
    """The official file of that name: in the newer form, or in the older one with the data set's name in front."""
    older = os.path.join(folder, f"something-something-v2-{name}.json")
    return older if pathmgr.isfile(older) else os.path.join(folder, f"{name}.json")

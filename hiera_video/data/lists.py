"""Lists of videos and labels, from the files that data sets come with."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hiera_video.data.label_sets import LabelSets
from hiera_video.utils.files import write_whole
from hiera_video.utils.logging import get_logger
from hiera_video.utils.pathmgr import is_url, pathmgr
from hiera_video.video import is_series
from hiera_video.video.image_backend import get_container

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
        labels: int64 (n,), -1 where unknown, and everywhere in a list whose videos may have several.
        class_names: name of each label, where the source has names.
        label_sets: the labels of each video, in such a list.
    """

    paths: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...] | None = None
    label_sets: LabelSets | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, is_kept: np.ndarray) -> VideoList:
        """The videos where the mask, bool (n,), is True."""
        label_sets = self.label_sets.select(is_kept) if self.label_sets else None
        return VideoList(self.paths[is_kept], self.labels[is_kept], self.class_names, label_sets)


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
    for number, raw in enumerate(read_text(csv_path).splitlines(), start=1):
        line = raw.strip()
        if not line:
            continue
        path, label = _split_line(line, separator)
        if label is None and require_labels:
            raise ValueError(
                f"{csv_path}:{number}: {line!r} is not a path and an integer label with {separator!r} between them, "
                f"such as 'videos/a.mp4{separator}3'"
            )
        paths.append(join_prefix(path_prefix, path))
        labels.append(UNLABELED if label is None else label)
    return make_list(paths, labels, get_class_names(class_names))


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
        paths.append(join_prefix(path_prefix, f"{entry['id']}{suffix}"))
        labels.append(_get_ssv2_label(entry, label_of, split_json=split_json, labels_json=labels_json))
    return make_list(paths, labels, names)


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
    names = get_class_names(class_names) or tuple(folders)
    label_of = {name: label for label, name in enumerate(names)}
    endings = tuple(suffix.lower() for suffix in suffixes)
    paths: list[str] = []
    labels: list[int] = []
    for folder in folders:
        if folder not in label_of:
            raise ValueError(
                f"{split_dir}: the folder {folder!r} is none of the {len(names)} classes{suggest(folder, names)}"
            )
        files = sorted(name for name in pathmgr.ls(os.path.join(split_dir, folder)) if name.lower().endswith(endings))
        if not files:
            logger.warning("%s holds no video", os.path.join(split_dir, folder))
        paths.extend(os.path.join(split_dir, folder, name) for name in files)
        labels.extend([label_of[folder]] * len(files))
    return make_list(paths, labels, names)


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
        return tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
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


def write_class_names(path: Path, names: Sequence[str]) -> None:
    """Writes names in the order of their labels as a json list, which `load_class_names` reads."""
    write_whole(path, json.dumps(list(names), ensure_ascii=False, indent=0).encode())


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
        if videos.label_sets is None:
            _check_labels(videos, num_classes=num_classes, source=source)
        _check_class_names(videos, num_classes=num_classes, source=source)
    _check_files(videos.paths, source=source)


def _check_class_names(videos: VideoList, *, num_classes: int, source: str) -> None:
    if videos.class_names and len(videos.class_names) != num_classes:
        raise ValueError(
            f"{source} has {len(videos.class_names)} classes, MODEL.NUM_CLASSES is {num_classes}: labels would not "
            "mean what the model's outputs mean"
        )


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
        return unquote(line), None
    path = unquote(path.strip())
    return (path, label) if found and path else (unquote(line), None)


def unquote(text: str) -> str:
    """A text without the double quotes around it."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _get_ssv2_label(entry: Mapping, label_of: Mapping[str, int], *, split_json: str, labels_json: str) -> int:
    if "template" not in entry:
        return UNLABELED
    name = entry["template"].replace("[", "").replace("]", "")
    if name not in label_of:
        raise ValueError(
            f"{split_json}: the template {entry['template']!r} of video {entry['id']} is not in {labels_json}"
            f"{suggest(name, label_of)}"
        )
    return label_of[name]


def get_class_names(class_names: Sequence[str] | str | None) -> tuple[str, ...] | None:
    """Class names as they are given, or from the file that is named."""
    if class_names is None or class_names == "":
        return None
    return load_class_names(class_names) if isinstance(class_names, str) else tuple(class_names)


def make_list(paths: list[str], labels: list[int], class_names: tuple[str, ...] | None) -> VideoList:
    """A list of paths with a label each."""
    return VideoList(np.array(paths, dtype=np.str_), np.array(labels, dtype=np.int64), class_names)


def join_prefix(prefix: str, path: str) -> str:
    """A path of a list, under a prefix where it is relative."""
    return path if not prefix or os.path.isabs(path) or is_url(path) else os.path.join(prefix, path)


def read_text(path: str) -> str:
    """The text of an annotation file. Raises FileNotFoundError that says which files are understood."""
    # Read as bytes: not every handler of iopath takes an encoding. "-sig" drops the mark that Windows editors write.
    try:
        with pathmgr.open(path, "rb") as file:
            return file.read().decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(f"There is no annotation file {path!r}; {_FORMATS}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from error


def _read_json(path: str) -> object:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a json file: {error}") from error


def _describe(value: object) -> str:
    return f"{type(value).__name__} {str(value)[:60]!r}"


def suggest(name: str, names: Iterable[str]) -> str:
    """A question that names the nearest of the names; "" where none is near."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""

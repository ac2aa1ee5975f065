"""Lists of videos with several classes each, or none."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

from hiera_video.data.label_sets import LabelSets
from hiera_video.data.lists import (
    UNLABELED,
    VIDEO_SUFFIXES,
    VideoList,
    get_class_names,
    join_prefix,
    make_list,
    read_text,
    suggest,
    unquote,
)
from hiera_video.utils.logging import get_logger
from hiera_video.utils.pathmgr import pathmgr

logger = get_logger(__name__)

NO_CLASS = "-"  # what stands for no class at all in a list
LABELS_FILE = "labels.csv"  # of a split's folder


def load_multilabel_csv(
    csv_path: str,
    *,
    num_classes: int,
    separator: str = " ",
    path_prefix: str = "",
    class_names: Sequence[str] | str | None = None,
) -> VideoList:
    """Reads ``path<separator>3,17`` lines.

    Between labels stands a comma or a semicolon; a video without any class has "-". A line is split at its last
    separator, so that where the separator is a comma, labels need semicolons.

    Args:
        csv_path: the list.
        num_classes: K; labels must be in [0, K).
        separator: what stands between path and labels.
        path_prefix: folder or URL in front of paths that are neither absolute nor URLs.
        class_names: names in order, or a file for `load_class_names`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not of this form, or a label is out of range; names file, line and text.
    """
    paths, labels = [], []
    for number, raw in enumerate(read_text(csv_path).splitlines(), start=1):
        if not raw.strip():
            continue
        path, _, text = raw.strip().rpartition(separator)
        try:
            row = [] if text.strip() == NO_CLASS else [int(word) for word in text.replace(";", ",").split(",")]
        except ValueError:
            row = None
        if row is None or not path:
            raise ValueError(
                f"{csv_path}:{number}: {raw.strip()!r} is not a path and labels with {separator!r} between them, such "
                f"as 'videos/a.mp4{separator}3,17', or '{NO_CLASS}' for no class"
            )
        _check_range(row, num_classes, f"{csv_path}:{number}")
        paths.append(join_prefix(path_prefix, unquote(path.strip())))
        labels.append(row)
    return _make_list(paths, labels, num_classes, get_class_names(class_names))


def load_labeled_folder(
    split_dir: str,
    *,
    class_names: Sequence[str] | None = None,
    num_classes: int,
    suffixes: Iterable[str] = VIDEO_SUFFIXES,
) -> VideoList:
    """Lists the videos of ``split_dir/labels.csv``: a heading ``video,labels`` and lines such as ``a/b.mp4,run;jump``.

    Videos lie below the split's folder. Between the names of classes stands a semicolon; a video may have none.

    Args:
        split_dir: folder of the split.
        class_names: classes in the order of their labels; None: those of the file, sorted.
        num_classes: K.
        suffixes: endings of video files: those that the file does not list are counted in the log.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not of this form, or names a class that is not in ``class_names``.
    """
    source = os.path.join(split_dir, LABELS_FILE)
    rows = [(number, video, split_names(text)) for number, video, text in _read_rows(source, ("video", "labels"))]
    names = tuple(class_names) if class_names else tuple(sorted({name for *_, found in rows for name in found}))
    label_of = {name: label for label, name in enumerate(names)}
    for number, _, found in rows:
        for name in found:
            if name not in label_of:
                raise ValueError(f"{source}:{number}: {name!r} is none of {len(names)} classes{suggest(name, names)}")
    paths = [join_prefix(split_dir, video) for _, video, _ in rows]
    _log_unlisted(split_dir, paths, suffixes)
    return _make_list(paths, [[label_of[name] for name in found] for *_, found in rows], num_classes, names)


def split_names(text: str) -> list[str]:
    """The names of classes in a cell of `LABELS_FILE`."""
    return [name.strip() for name in text.split(";") if name.strip()]


def load_charades_csv(csv_path: str, classes_path: str, *, path_prefix: str = "", suffix: str = ".mp4") -> VideoList:
    """Reads Charades' own files: a csv with ``id`` and ``actions``, and ``c000 Name of the class`` lines.

    A video has the classes of all its actions, whose times do not matter here.

    Args:
        csv_path: Charades_v1_train.csv or Charades_v1_test.csv.
        classes_path: Charades_v1_classes.txt.
        path_prefix: folder or URL of the videos.
        suffix: ending of the video files.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: a file is not of this form; names the file and the line.
    """
    names: list[str] = []
    for number, line in enumerate(filter(str.strip, read_text(classes_path).splitlines())):
        code, _, name = line.strip().partition(" ")
        if code != f"c{number:03d}" or not name:
            raise ValueError(f"{classes_path}:{number + 1}: {line!r}; expected 'c{number:03d}' and a name")
        names.append(name)
    label_of = {f"c{label:03d}": label for label in range(len(names))}
    paths, labels = [], []
    for number, video_id, text in _read_rows(csv_path, ("id", "actions")):
        codes = [words[0] for words in map(str.split, text.split(";")) if words]
        unknown = [code for code in codes if code not in label_of]
        if unknown:
            raise ValueError(f"{csv_path}:{number}: {unknown[0]!r} is none of the {len(names)} classes")
        paths.append(join_prefix(path_prefix, video_id + suffix))
        labels.append([label_of[code] for code in codes])
    return _make_list(paths, labels, len(names), tuple(names))


def _read_rows(path: str, columns: tuple[str, str]) -> Iterator[tuple[int, str, str]]:
    """(line, first column, second column) of each row of a csv with a heading."""
    reader = csv.DictReader(io.StringIO(read_text(path)))
    absent = [column for column in columns if column not in (reader.fieldnames or ())]
    if absent:
        raise ValueError(f"{path} has no column {absent[0]}; its heading is {','.join(reader.fieldnames or ())!r}")
    for row in reader:
        values: Mapping[str, str | None] = row
        first, second = (values[column] for column in columns)
        if not first or second is None:
            raise ValueError(f"{path}:{reader.line_num}: expected {' and '.join(columns)}, got {list(row.values())}")
        yield reader.line_num, first, second


def _check_range(labels: Sequence[int], num_classes: int, place: str) -> None:
    bad = [label for label in labels if not 0 <= label < num_classes]
    if bad:
        raise ValueError(
            f"{place}: label {bad[0]}; with {num_classes} classes (MODEL.NUM_CLASSES) labels must be in "
            f"[0, {num_classes})"
        )


def _make_list(
    paths: list[str], labels: list[list[int]], num_classes: int, class_names: tuple[str, ...] | None
) -> VideoList:
    videos = make_list(paths, [UNLABELED] * len(paths), class_names)
    # With other names than the model has classes, a check of the list says so; the labels fit their own names.
    sets = LabelSets.from_lists(labels, num_classes=max(num_classes, len(class_names or ())))
    return VideoList(videos.paths, videos.labels, class_names, sets)


def _log_unlisted(split_dir: str, paths: Sequence[str], suffixes: Iterable[str]) -> None:
    """Says how many videos lie in a folder and are not counted; only of folders that can be walked here."""
    if not os.path.isdir(split_dir):
        return
    listed, endings = {os.path.normpath(path) for path in paths}, tuple(suffixes)
    below = (os.path.join(folder, name) for folder, _, names in os.walk(split_dir) for name in names)
    unlisted = sorted(path for path in below if path.lower().endswith(endings) and os.path.normpath(path) not in listed)
    if unlisted:
        where = os.path.join(split_dir, LABELS_FILE)
        logger.warning("%s does not list %d videos below it, such as %s", where, len(unlisted), unlisted[0])


def has_labels_file(split_dir: str) -> bool:
    """Whether a split's folder has a file of several classes for each video."""
    return pathmgr.isfile(os.path.join(split_dir, LABELS_FILE))

"""Boxes of one's own: a csv file with a header, or a json file in COCO's style, as a table of boxes.

Tables are those of action_lists.py: corners are shares of the frame, the index holds the line or the annotation's id.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hiera_video.data.action_lists import COLUMNS, CORNERS, UNKNOWN_PERSON
from hiera_video.data.box_checks import read_cells, to_integers, to_numbers
from hiera_video.data.lists import UNLABELED, suggest
from hiera_video.utils.logging import get_logger
from hiera_video.utils.pathmgr import pathmgr

logger = get_logger(__name__)

_NEEDED = ("video", "time_sec", *CORNERS)
_OPTIONAL = ("label", "person", "score")
_FORM = "video,time_sec,x1,y1,x2,y2,label[,person][,score]"
_HUGE = 2**53
_LARGEST_SHARE = 2.0  # a corner beyond this is one in pixels: no share lies so far outside of the frame


class Facts(NamedTuple):
    """What a table may ask of videos.

    Attributes:
        get_size: how lists name a video -> its width and height, px.
        get_time_sec: how lists name a video, and a frame's position -> its time since the first frame.
    """

    get_size: Callable[[str], tuple[int, int]]
    get_time_sec: Callable[[str, int], float]


Named = tuple[pd.DataFrame, tuple[str, ...] | None]


def load_box_table(path: str, facts: Facts, *, class_names: Sequence[str] | None = None) -> Named:
    """`load_box_json` of a file that ends in .json, else `load_box_csv`."""
    load = load_box_json if path.lower().endswith(".json") else load_box_csv
    return load(path, facts, class_names=class_names)


def load_box_csv(path: str, facts: Facts, *, class_names: Sequence[str] | None = None) -> Named:
    """Reads a csv file whose first line names its columns: ``video,time_sec,x1,y1,x2,y2,label,person,score``.

    The last three may be missing, and the order is free. Corners are pixels where any of the file is above 2, else
    shares of the frame. A label is a class's name or its number, counted from 0; without a label it is empty. A box
    with several labels has a row for each.

    Args:
        path: of the file.
        facts: asked for the size of each video if corners are pixels.
        class_names: in the order of labels; None: the names in the file in sorted order, if they are no numbers.

    Returns:
        The table, and the names of classes where they are known.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not of this form; names file, line and text.
    """
    cells = _read_headed(path)
    columns: dict[str, Any] = {"video": cells["video"]}
    columns |= {name: to_numbers(cells[name], path, name) for name in ("time_sec", *CORNERS)}
    columns["label"], names = _number_labels(cells["label"], path, class_names)
    columns["score"] = to_numbers(cells["score"].replace("", "1"), path, "score")
    columns["person"] = to_integers(cells["person"], path, "person", empty=UNKNOWN_PERSON)
    table = pd.DataFrame(columns, index=cells.index, columns=list(COLUMNS))
    _check_times_and_scores(table, path)
    largest = table[CORNERS].abs().max().max() if len(table) else 0.0
    if largest > _LARGEST_SHARE:
        logger.info("%s: corners are taken for pixels, as the largest is %g", path, largest)
        _divide_by_size(table, facts)
    else:
        logger.info("%s: corners are taken for shares of the frame, as the largest is %g", path, largest)
    return table, names


def load_box_json(path: str, facts: Facts, *, class_names: Sequence[str] | None = None) -> Named:
    """Reads a json file in COCO's style: ``images``, ``annotations`` and ``categories``.

    An image is a moment: ``id``, ``video`` (or ``video_id``, of ``videos`` with ``id`` and ``name``), and ``time_sec``
    or ``frame_index`` (or ``frame_id``), which counts from 0; with ``fps`` if it has one, else the video's own time of
    that frame counts. ``width`` and ``height`` are asked of the video where they are missing. An annotation has
    ``image_id``, ``bbox`` (left, top, width, height in pixels) and ``category_id``, perhaps ``person`` (or
    ``track_id``) and ``score``; crowds are left out. Labels are the categories in the order of their ids.

    Args:
        path: of the file.
        facts: asked for what images do not say.
        class_names: in the order of labels; None: those of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an entry is not of this form; names it.
    """
    content = _read_coco(path)
    category_names = _name_categories(content, path)
    names = tuple(class_names or category_names.values())
    moments = _read_moments(content, path, facts)
    rows, ids = [], []
    for position, entry in enumerate(content["annotations"]):
        if entry.get("iscrowd"):
            continue
        number = _read_id(entry, "id", f"{path}: annotation {position}")
        number = position if number is None else number
        where = f"{path}: annotation {number}"
        video, time_sec, width, height = _get(moments, _read_id(entry, "image_id", where), where, "image_id", "images")
        left, top, box_width, box_height = _read_bbox(entry, where)
        corners = left / width, top / height, (left + box_width) / width, (top + box_height) / height
        label = UNLABELED
        if "category_id" in entry:
            name = _get(category_names, _read_id(entry, "category_id", where), where, "category_id", "categories")
            label = _find_name(name, names, where)
        person = int(_read_number(entry, ("person", "track_id"), where, UNKNOWN_PERSON))
        rows.append((video, time_sec, *corners, label, _read_number(entry, ("score",), where, 1), person))
        ids.append(number)
    table = pd.DataFrame(rows, columns=list(COLUMNS), index=pd.Index(ids, name="line"))
    table = table.astype({name: np.float64 for name in ("time_sec", *CORNERS, "score")})  # also where there is no row
    table = table.astype({"label": np.int64, "person": np.int64})
    _check_times_and_scores(table, path)
    return table, names


def load_table_classes(path: str) -> tuple[str, ...] | None:
    """The names of classes that a file of either form has, without a look at its boxes; None where labels are numbers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not of its form.
    """
    if path.lower().endswith(".json"):
        return tuple(_name_categories(_read_coco(path), path).values())
    return _number_labels(_read_headed(path)["label"], path, None)[1]


def _read_headed(path: str) -> pd.DataFrame:
    """The cells under a header, "" in columns that are not there."""
    numbered = [str(number) for number in range(len(_NEEDED) + len(_OPTIONAL))]
    cells = read_cells(path, numbered, needed=0, form=_FORM)
    header = [name for name in cells.iloc[0] if name] if len(cells) else []
    unknown = [name for name in header if name not in (*_NEEDED, *_OPTIONAL)]
    missing = [name for name in _NEEDED if name not in header]
    if unknown or missing or len(set(header)) < len(header):
        fault = f"has no column {missing[0]}" if missing else f"has a column {(unknown or header)[0]!r} too many"
        raise ValueError(f"{path}: the first line {fault}; it must be {_FORM}, in any order")
    table = cells.iloc[1:, : len(header)].set_axis(header, axis=1)
    for name in _OPTIONAL:
        if name not in header:
            table[name] = ""
    if (table["video"] == "").any():
        raise ValueError(f"{path}:{table.index[(table['video'] == '').to_numpy()][0]}: the name of the video is empty")
    return table


def _number_labels(
    cells: pd.Series, path: str, class_names: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    texts = sorted(set(cells) - {""})
    are_numbers = all(text.isdecimal() for text in texts)
    if class_names is None and are_numbers:
        return to_integers(cells, path, "label", empty=UNLABELED), None
    names = tuple(class_names or texts)
    label_of = {"": UNLABELED}
    for text in texts:
        if text.isdecimal() and text not in names:
            label_of[text] = int(text)
        else:
            line = cells.index[(cells == text).to_numpy()][0]
            label_of[text] = _find_name(text, names, f"{path}:{line}")
    return cells.map(label_of).to_numpy(np.int64), names


def _find_name(name: str, names: Sequence[str], where: str) -> int:
    if name not in names:
        raise ValueError(f"{where}: the label {name!r} is none of {len(names)} classes{suggest(name, names)}")
    return names.index(name)


def _check_times_and_scores(table: pd.DataFrame, path: str) -> None:
    for name, is_legal, legal in (
        ("time_sec", np.isfinite(table["time_sec"]) & (table["time_sec"] >= 0), "a number >= 0"),
        ("score", (table["score"] >= 0) & (table["score"] <= 1), "in [0, 1]"),
    ):
        if not is_legal.all():
            line = table.index[~is_legal.to_numpy()][0]
            raise ValueError(f"{path}:{line}: {name} is {table.loc[[line], name].iloc[0]:g}; it must be {legal}")


def _divide_by_size(table: pd.DataFrame, facts: Facts) -> None:
    sizes = {video: facts.get_size(video) for video in table["video"].unique()}
    for position, names in enumerate((("x1", "x2"), ("y1", "y2"))):
        side = table["video"].map({video: size[position] for video, size in sizes.items()})
        for name in names:
            table[name] = table[name] / side


def _read_coco(path: str) -> dict[str, list[dict[str, Any]]]:
    try:
        with pathmgr.open(path, "rb") as file:
            content = json.loads(file.read().decode("utf-8-sig"))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(f"there is no list of boxes {path}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a json file: {error}") from error
    for name in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise ValueError(f"{path}: expected an object with the lists images, annotations and categories")
    for name in ("images", "annotations", "categories", "videos"):
        listed = content.setdefault(name, [])
        if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
            raise ValueError(f"{path}: {name} must be a list of objects")
    for entry in content["categories"]:
        if _read_id(entry, "id", path) is None or "name" not in entry or "name" not in entry:
            raise ValueError(f"{path}: the category {entry} must have 'id' and 'name'")
    return content


def _name_categories(content: Mapping[str, Any], path: str) -> dict[Any, str]:
    """Id of a category -> its name, in the order of the ids."""
    entries = sorted(content["categories"], key=lambda entry: (isinstance(entry["id"], str), entry["id"]))
    names = {entry["id"]: str(entry["name"]) for entry in entries}
    if not len(entries) == len(names) == len(set(names.values())):
        raise ValueError(f"{path}: two categories have the same id or name")
    return names


def _read_moments(content: Mapping[str, Any], path: str, facts: Facts) -> dict[Any, tuple[str, float, float, float]]:
    """Id of an image -> video, time, width and height."""
    videos = {_read_id(entry, "id", path): entry.get("name") for entry in content.get("videos", [])}
    moments = {}
    for entry in content["images"]:
        where = f"{path}: image {entry.get('id')}"
        video = entry.get("video", videos.get(_read_id(entry, "video_id", where)))
        if video is None or not {"time_sec", "frame_index", "frame_id"} & entry.keys():
            raise ValueError(f"{where} must have 'video' (or 'video_id'), and 'time_sec' or 'frame_index'")
        if "time_sec" in entry:
            time_sec = _read_number(entry, ("time_sec",), where)
        else:
            frame = int(_read_number(entry, ("frame_index", "frame_id"), where))
            fps = _read_number(entry, ("fps",), where, 0)
            time_sec = frame / fps if fps > 0 else facts.get_time_sec(str(video), frame)
        width, height = (_read_number(entry, (name,), where, 0) for name in ("width", "height"))
        if not (width > 0 and height > 0):
            width, height = facts.get_size(str(video))
        moments[_read_id(entry, "id", where)] = str(video), time_sec, float(width), float(height)
    return moments


def _read_number(entry: Mapping[str, Any], names: Sequence[str], where: str, default: float | None = None) -> float:
    """The number under the first of these names that is there."""
    name = next((name for name in names if entry.get(name) is not None), names[0])
    value = entry.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) >= _HUGE:
        raise ValueError(f"{where} has the {name} {value!r}; it must be a number")
    return value


def _read_id(entry: Mapping[str, Any], name: str, where: str) -> int | str | None:
    value = entry.get(name)
    if not isinstance(value, int | str | None):
        raise ValueError(f"{where} has the {name} {value!r}; it must be a number or a text")
    return value


def _read_bbox(entry: Mapping[str, Any], where: str) -> list[float]:
    try:
        left, top, width, height = map(float, entry["bbox"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(f"{where} has the bbox {entry.get('bbox')}; it must be [left, top, width, height]") from None
    return [left, top, width, height]


def _get(table: Mapping[Any, Any], key: Any, where: str, name: str, listed: str) -> Any:
    if key not in table:
        raise ValueError(f"{where} has the {name} {key!r}, which is none of {listed}")
    return table[key]

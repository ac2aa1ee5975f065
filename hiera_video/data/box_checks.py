"""Cells of a csv file as numbers, and boxes that cannot be meant; every message names file and line."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd

from hiera_video.utils.pathmgr import pathmgr

_MAX_EXTRA = 8  # cells beyond the columns, which are looked for to name their line


def read_cells(path: str, columns: Sequence[str], *, needed: int, form: str) -> pd.DataFrame:
    """Reads a csv file without a header as texts; its index holds the lines, counted from 1. Blank lines are dropped.

    Args:
        path: of the file.
        columns: names of its columns. Lines may lack the last ones, which then are "".
        needed: how many of the first columns no line may lack.
        form: what a line looks like, for messages.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line has too few or too many cells; names file, line and text.
    """
    names = [*columns, *(f"too many {number}" for number in range(_MAX_EXTRA))]
    try:
        with pathmgr.open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)  # of lines that are longer still
            cells = pd.read_csv(
                file,
                header=None,
                names=names,
                index_col=False,
                dtype=str,
                na_filter=False,
                skip_blank_lines=False,
                skipinitialspace=True,
                encoding="utf-8-sig",
            ).fillna("")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(f"there is no list of boxes {path}; its lines are {form}") from error
    except pd.errors.EmptyDataError:
        cells = pd.DataFrame({name: [] for name in names}, dtype=str)
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as lines {form}: {str(error).strip()}") from error
    cells.index = pd.RangeIndex(1, len(cells) + 1, name="line")
    cells = cells[(cells != "").any(axis=1)]
    wrong = (cells[names[:needed]] == "").any(axis=1) | (cells[names[len(columns) :]] != "").any(axis=1)
    if wrong.any():
        line = cells.index[wrong.to_numpy()][0]
        text = ",".join(cells.loc[line]).rstrip(",")
        raise ValueError(f"{path}:{line}: {text!r} is not of the form {form}")
    return cells[list(columns)]


def to_numbers(cells: pd.Series, path: str, name: str) -> np.ndarray:
    """Cells as float64, exactly as Python reads them; "nan" and "inf" are numbers here.

    Raises:
        ValueError: a cell is no number; names file, line and text.
    """
    try:
        return cells.to_numpy(dtype=object).astype(np.float64)
    except ValueError:
        line, text = next((line, text) for line, text in cells.items() if not _is_number(text))
        raise ValueError(f"{path}:{line}: {name} is {text!r}; it must be a number") from None


def to_integers(cells: pd.Series, path: str, name: str, *, empty: int) -> np.ndarray:
    """Cells as int64, ``empty`` where there is nothing.

    Raises:
        ValueError: a cell is no integer; names file, line and text.
    """
    wrong = ~cells.str.fullmatch(r"-?\d{1,18}|")
    if wrong.any():
        line = cells.index[wrong.to_numpy()][0]
        raise ValueError(f"{path}:{line}: {name} is {cells.loc[line]!r}; it must be an integer")
    return cells.where(cells != "", str(empty)).to_numpy(dtype=object).astype(np.int64)


def find_bad_boxes(boxes: pd.DataFrame) -> pd.Series:
    """What is wrong with boxes that cannot be meant, by the table's index; corners are shares of the frame.

    A box that reaches beyond the frame is legal as long as some of it lies inside.
    """
    x1, y1, x2, y2 = (boxes[name].to_numpy() for name in ("x1", "y1", "x2", "y2"))
    with np.errstate(invalid="ignore"):
        faults = (
            (~np.isfinite([x1, y1, x2, y2]).all(axis=0), "has a corner that is not a number"),
            ((x2 < x1) | (y2 < y1), "is reversed: x1 must be below x2, and y1 below y2"),
            ((x2 == x1) | (y2 == y1), "is empty: x1 must be below x2, and y1 below y2"),
            ((x2 <= 0) | (x1 >= 1) | (y2 <= 0) | (y1 >= 1), "lies outside of the frame"),
        )
    reasons = np.full(len(boxes), "", dtype=object)
    for is_so, reason in reversed(faults):
        reasons[is_so] = reason
    return pd.Series(reasons[reasons != ""], index=boxes.index[reasons != ""], dtype=object)


def describe_box(boxes: pd.DataFrame, line: Hashable) -> str:
    """Corners, video and time of the first row with this index."""
    row = boxes.loc[[line]].iloc[0]
    corners = ", ".join(f"{row[name]:g}" for name in ("x1", "y1", "x2", "y2"))
    return f"box [{corners}] of video {row['video']} at {row['time_sec']:g} s"


def check_boxes(boxes: pd.DataFrame, path: str) -> None:
    """Raises ValueError, with file and line, where a box cannot be meant; see `find_bad_boxes`."""
    bad = find_bad_boxes(boxes)
    if len(bad):
        line = bad.index[0]
        raise ValueError(
            f"{path}:{line}: {describe_box(boxes, line)} {bad.iloc[0]}. {len(bad)} of {len(boxes)} rows have bad "
            "boxes; `hiera-video check` names them"
        )


def check_labels(boxes: pd.DataFrame, path: str, *, num_classes: int, first: int = 0) -> None:
    """Raises ValueError, with file and line, where a label is not below ``num_classes``.

    Args:
        boxes: the table.
        path: where it comes from.
        num_classes: of the model.
        first: what the file calls class 0.
    """
    wrong = (boxes["label"] >= num_classes).to_numpy()
    if wrong.any():
        label, line = int(boxes["label"].to_numpy()[wrong][0]), boxes.index[wrong][0]
        raise ValueError(
            f"{path}:{line}: label {label + first} is none of {num_classes} classes (MODEL.NUM_CLASSES), which are "
            f"{first} to {num_classes - 1 + first}"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

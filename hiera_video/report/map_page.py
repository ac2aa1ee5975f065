"""A page of embeddings in a plane: points that can be colored, searched, looked at and played."""

from __future__ import annotations

import base64
import colorsys
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from bokeh.palettes import Viridis
from PIL import Image

from hiera_video.report.clip_table import find_closed, shorten_paths
from hiera_video.report.clips import ShownClip, encode_jpeg, load_stills
from hiera_video.report.page import make_data_uri, render_page
from hiera_video.report.plots import COLORS

NUM_STILLS = 400
MAX_COLORS = 1000
_STILL_PX = (96, 72)
_STILLS_A_SHEET, _STILLS_A_LINE = 400, 20
_STEPS = 2**16 - 1  # of coordinates
_UNKNOWN = 2**16 - 1  # code of what has no color
_NUM_RANGES = 8
_GOLDEN = 0.6180339887  # turns of the color circle that lead from one color to the next


@dataclass(frozen=True, eq=False)
class Coloring:
    """What colors of points stand for.

    Attributes:
        title: such as "label".
        codes: int64 (N,), the color of each point; -1: unknown.
        names: of each code.
        colors: of each code, ``#rrggbb``.
    """

    title: str
    codes: np.ndarray
    names: Sequence[str]
    colors: Sequence[str]


def make_coloring(title: str, values: pd.Series, *, names: Sequence[str] | None = None) -> Coloring:
    """Colors for the values of a column; fractions of more than 8 values become 8 ranges of as many points each.

    Args:
        title: of the column.
        values: (N,), missing where unknown.
        names: of the values 0, 1, ...; None: the values themselves.

    Raises:
        ValueError: it has more than 1,000 values, too many to tell apart.
    """
    values = values.convert_dtypes()
    if pd.api.types.is_float_dtype(values) and values.nunique() > _NUM_RANGES:
        ranges = pd.qcut(values.astype(float), _NUM_RANGES, duplicates="drop")
        texts = [f"{part.left:.4g} to {part.right:.4g}" for part in ranges.cat.categories]
        colors = Viridis[256][:: 255 // max(len(texts) - 1, 1)][: len(texts)]
        return Coloring(title, ranges.cat.codes.to_numpy(np.int64), texts, [color.lower() for color in colors])
    codes, found = pd.factorize(values, sort=True)
    if len(found) > MAX_COLORS:
        raise ValueError(f"the column {title} has {len(found):,} values; a map can color up to {MAX_COLORS:,}")
    texts = [_name(value, names) for value in found]
    return Coloring(title, codes.astype(np.int64), texts, _choose_colors(len(texts)))


def render_map_page(
    table: pd.DataFrame,
    points: np.ndarray,
    colorings: Sequence[Coloring],
    *,
    title: str,
    facts: Sequence[str] = (),
    page_dir: str | os.PathLike[str],
    num_stills: int = NUM_STILLS,
) -> str:
    """The map as HTML.

    Coordinates are rounded to 1/65,535 of the map's longer side. The page holds small stills of ``num_stills`` clips,
    spread over the map; of the others a browser shows the frame from the video itself.

    Args:
        table: a row for each point: ``path``, ``start_sec``, ``end_sec`` (NaN where unknown).
        points: float (N, 2).
        colorings: at least one; the first is shown first.
        title: of the page.
        facts: lines below it.
        page_dir: folder that the page will lie in.
        num_stills: how many clips are opened for a still.
    """
    codes, paths = pd.factorize(table["path"])
    short, folder, url = shorten_paths(paths.tolist(), page_dir)
    coordinates = quantize(points)
    data = {
        "x": _pack(coordinates[:, 0], np.uint16),
        "y": _pack(coordinates[:, 1], np.uint16),
        "videos": _pack(codes, np.uint32),
        "starts": _pack(table["start_sec"].to_numpy(np.float32), np.float32),
        "ends": _pack(table["end_sec"].to_numpy(np.float32), np.float32),
        "paths": short,
        "folder": folder,
        "closed": find_closed(paths.tolist()),
        "url": url,
        "colorings": [_describe(coloring) for coloring in colorings],
        "stills": _make_stills(table, choose_stills(coordinates, num_stills)),
    }
    return render_page(
        "map.html",
        title=title,
        facts=facts,
        titles=[coloring.title for coloring in colorings],
        num_points=len(table),
        scripts=["map.js"],
        data={"map-data": data},
    )


def quantize(points: np.ndarray) -> np.ndarray:
    """Points as whole numbers in [0, 65535], int64 (N, 2): the longer side of the map is full, the other centered."""
    low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
    span = float((high - low).max()) or 1.0
    return np.rint(((points - (low + high) / 2) / span + 0.5) * _STEPS).astype(np.int64).clip(0, _STEPS)


def choose_stills(coordinates: np.ndarray, count: int) -> np.ndarray:
    """Rows spread over the map: one of each cell of a grid, then a second one, and so on; int64, rising."""
    cells = max(int((2 * count) ** 0.5), 1)
    place = coordinates * cells // (_STEPS + 1)  # (N, 2)
    turn = pd.Series(place[:, 0] * cells + place[:, 1]).groupby(place[:, 0] * cells + place[:, 1]).cumcount()
    order = np.argsort(turn.to_numpy(), kind="stable")
    return np.sort(order[: max(count, 0)])


def _make_stills(table: pd.DataFrame, rows: np.ndarray) -> dict[str, Any]:
    """Sheets of stills, and the rows that they show in order; clips that cannot be read have none."""
    chosen = table.iloc[rows]
    columns = (chosen[name].tolist() for name in ("path", "start_sec", "end_sec"))
    stills = load_stills([ShownClip(*values) for values in zip(*columns, strict=True)], _STILL_PX)
    kept = [(row, still) for row, still in zip(rows.tolist(), stills, strict=True) if still]
    width, height = _STILL_PX
    sheets = []
    for start in range(0, len(kept), _STILLS_A_SHEET):
        part = kept[start : start + _STILLS_A_SHEET]
        sheet = Image.new("RGB", (width * _STILLS_A_LINE, height * -(-len(part) // _STILLS_A_LINE)))
        for place, (_, still) in enumerate(part):
            sheet.paste(still, (place % _STILLS_A_LINE * width, place // _STILLS_A_LINE * height))
        sheets.append(make_data_uri(encode_jpeg(sheet)))
    return {
        "rows": _pack(np.array([row for row, _ in kept], np.int64), np.uint32),
        "sheets": sheets,
        "width": width,
        "height": height,
        "in_line": _STILLS_A_LINE,
        "in_sheet": _STILLS_A_SHEET,
    }


def _describe(coloring: Coloring) -> dict[str, Any]:
    codes = np.where(coloring.codes < 0, _UNKNOWN, coloring.codes)
    return {
        "title": coloring.title,
        "codes": _pack(codes, np.uint16),
        "names": list(coloring.names),
        "colors": list(coloring.colors),
    }


def _pack(values: np.ndarray, dtype: type) -> str:
    """An array's bytes, little-endian, in base64."""
    return base64.b64encode(np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<")).tobytes()).decode()


def _name(value: Any, names: Sequence[str] | None) -> str:
    is_number = isinstance(value, int | np.integer)
    return names[int(value)] if names and is_number and 0 <= value < len(names) else str(value)


def _choose_colors(count: int) -> list[str]:
    """The plots' colors, and beyond them others that differ from their neighbors in the list."""
    more = []
    for number in range(len(COLORS), count):
        lightness, saturation = 0.44 + 0.16 * (number % 2), 0.5 + 0.2 * (number // 2 % 2)
        parts = colorsys.hls_to_rgb(number * _GOLDEN % 1, lightness, saturation)
        more.append("#" + "".join(f"{round(255 * part):02x}" for part in parts))
    return [*COLORS, *more][:count]

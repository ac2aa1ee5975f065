"""The film and the page of an explanation: which parts of a video a decision rests on."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bokeh.models import NumeralTickFormatter
from PIL import Image

from hiera_video.report.clips import format_span
from hiera_video.report.heat import draw_box, enlarge, paint_heat, spread
from hiera_video.report.page import (
    Bar,
    Cell,
    Column,
    Row,
    Table,
    Tile,
    make_data_uri,
    make_number,
    make_text,
    render_page,
)
from hiera_video.report.pictures import compose_moments
from hiera_video.report.plots import COLORS, Plot, make_figure, make_plot
from hiera_video.video.writer import VideoWriter

FILM, PAGE = "explain.mp4", "explain.html"
_FASTEST_FPS = 4.0  # of the film: slow enough to look at
_NUM_STRONGEST = 6
_NUM_CLASSES = 5  # in the plot
_COARSE_UNITS = 4  # in a picture: with no more, a map says little about places


@dataclass(frozen=True, eq=False)
class ShownWindow:
    """A window [start_sec, end_sec) as film and page show it; times are NaN where they are unknown.

    Attributes:
        start_sec: since the first frame.
        end_sec: likewise.
        frames: uint8 (T, H, W, 3), what the model sees.
        probability: of the explained class.
        evidence: for it.
        scores: float (ut, uh, uw), of each mask unit.
        cam: float (T', H', W'), Grad-CAM.
        explained: share of the variance that the scores predict; NaN for none.
    """

    start_sec: float
    end_sec: float
    frames: np.ndarray
    probability: float
    evidence: float
    scores: np.ndarray
    cam: np.ndarray
    explained: float

    def get_unit_sec(self, place: Sequence[int]) -> tuple[float, float]:
        """Start and end of a mask unit, place (t, h, w) in the grid, in the video."""
        step_sec = (self.end_sec - self.start_sec) / self.scores.shape[0]
        return self.start_sec + place[0] * step_sec, self.start_sec + (place[0] + 1) * step_sec

    def get_unit_box(self, place: Sequence[int]) -> tuple[int, int, int, int]:
        """Top, left, bottom, right of a mask unit in the frames, px."""
        height, width = (
            size // units for size, units in zip(self.frames.shape[1:3], self.scores.shape[1:], strict=True)
        )
        _, row, column = place
        return row * height, column * width, (row + 1) * height, (column + 1) * width


@dataclass(frozen=True, eq=False)
class ShownExplanation:
    """What the page shows of a video.

    Attributes:
        video: its path.
        class_name: the class that is explained.
        probability: of it in the whole video.
        is_multilabel: whether a video may have several classes.
        spans_sec: float (n, 2), of all windows; NaN where unknown.
        probabilities: class -> float (n,), over all windows; the explained class among them.
        windows: those that were explained, in order.
        facts: lines below the title.
    """

    video: str
    class_name: str
    probability: float
    is_multilabel: bool
    spans_sec: np.ndarray
    probabilities: dict[str, np.ndarray]
    windows: Sequence[ShownWindow]
    facts: Sequence[str] = ()


def find_limits(windows: Sequence[ShownWindow]) -> tuple[float, float]:
    """The strongest score, of either sign, and the strongest Grad-CAM over all windows: both films' full color."""
    return max(float(np.abs(w.scores).max()) for w in windows), max(float(w.cam.max()) for w in windows)


def list_strongest(windows: Sequence[ShownWindow], count: int) -> list[tuple[int, tuple[int, int, int], float]]:
    """The highest scores above 0: (number of the window, place in its grid, score), the strongest first."""
    scores = np.stack([window.scores for window in windows])
    best = np.argsort(-scores, axis=None, kind="stable")[:count]
    places = np.stack(np.unravel_index(best, scores.shape), axis=1).tolist()
    return [(n, (t, h, w), float(scores[n, t, h, w])) for n, t, h, w in places if scores[n, t, h, w] > 0]


def explain_grid(windows: Sequence[ShownWindow]) -> str:
    """What the map cannot tell where its units are coarse, and what to do; "" where they are fine."""
    times, rows, columns = windows[0].scores.shape
    if rows * columns > _COARSE_UNITS:
        return ""
    height, width = windows[0].frames.shape[1:3]
    where = "can only tell times, not places" if rows * columns == 1 else f"has only {rows} x {columns} places"
    when = "" if times > 1 else ", and a window has one unit in time"
    return (
        f"The map {where}: a mask unit is {height // rows} x {width // columns} px, and the model's picture {height} x "
        f"{width} px{when}. For a finer map show the same model a larger picture (KEY VALUE pairs DATA.TEST_CROP_SIZE "
        f"{2 * height} DATA.TRAIN_JITTER_SCALES [{2 * height},{2 * height}]; check that it is still right), or train a "
        "model with a larger one."
    )


def write_film(path: Path, windows: Sequence[ShownWindow]) -> tuple[list[float], np.ndarray]:
    """Writes what the model sees, the scores and Grad-CAM side by side, as H.264; at most 4 frames a second are shown.

    Returns:
        Where each window begins in the film, seconds; and its first picture, uint8 (H, W, 3).
    """
    seconds = [window.end_sec - window.start_sec for window in windows]
    rates = [len(w.frames) / sec for w, sec in zip(windows, seconds, strict=True) if sec > 0]
    fps = min([_FASTEST_FPS, *rates])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name(path.name + ".partial")
    limits, starts, number = find_limits(windows), [], 0
    try:
        first = next(_compose(windows[0], limits))
        with VideoWriter(partial_path, width_px=first.shape[1], height_px=first.shape[0], fps=fps) as writer:
            for window in windows:
                starts.append(number / fps)
                for picture in _compose(window, limits):
                    writer.write(picture, number / fps)
                    number += 1
            writer.write(picture, number / fps)  # otherwise the last picture would be gone at once
        partial_path.replace(path)
    finally:
        partial_path.unlink(missing_ok=True)
    return starts, first


def _compose(window: ShownWindow, limits: tuple[float, float]) -> Iterator[np.ndarray]:
    frames = enlarge(window.frames)
    size = frames.shape[:3]
    span = format_span(window.start_sec, window.end_sec)
    rows = {
        f"What the model sees{', ' * bool(span)}{span}": frames,
        "Scores of mask units": paint_heat(frames, spread(window.scores, size), limit=limits[0]),
        "Grad-CAM": paint_heat(frames, spread(window.cam, size, smoothly=True), limit=limits[1]),
    }
    yield from compose_moments(rows)


def render_explain_page(shown: ShownExplanation, *, starts_sec: Sequence[float], poster: np.ndarray) -> str:
    """The page; it plays the film that lies beside it.

    Args:
        shown: what it shows.
        starts_sec: where each window begins in the film.
        poster: the film's first picture, uint8 (H, W, 3).
    """
    explained = [window.explained for window in shown.windows if not math.isnan(window.explained)]
    mean = float(np.mean(explained)) if explained else math.nan
    tiles = [
        Tile("Explained class", shown.class_name),
        Tile("Probability", f"{100 * shown.probability:.1f} %", "in the whole video"),
        Tile("Windows explained", str(len(shown.windows)), f"of {len(shown.spans_sec)}"),
        Tile(
            "Predicted by the scores",
            "-" if math.isnan(mean) else f"{100 * max(mean, 0):.0f} %",
            "of what leaving out changes",
        ),
    ]
    sections = [("summary", "Summary"), ("film", "Film"), ("time", "Over time"), ("strongest", "Strongest units")]
    return render_page(
        "explain.html",
        title=f"What the decision rests on: {Path(shown.video).name}",
        facts=shown.facts,
        sections=[*sections, ("windows", "Windows")],
        plots=[plot := _make_plot(shown)],
        scripts=["explain.js"],
        tiles=tiles,
        film=FILM,
        poster=make_data_uri(_encode(poster)),
        plot=plot,
        is_multilabel=shown.is_multilabel,
        warning=explain_grid(shown.windows),
        stills=_make_stills(shown),
        table=_make_table(shown, starts_sec),
    )


def _make_plot(shown: ShownExplanation) -> Plot:
    """Probabilities over time: of the explained class and of those that are likeliest on the mean."""
    others = sorted(shown.probabilities, key=lambda name: -float(shown.probabilities[name].mean()))
    names = [shown.class_name, *(name for name in others if name != shown.class_name)][:_NUM_CLASSES]
    known = not np.isnan(shown.spans_sec).any()
    middles = shown.spans_sec.mean(axis=1) if known else np.arange(len(shown.spans_sec), dtype=float)
    figure = make_figure(
        "Probability over time",
        x_label="seconds, middle of the window" if known else "window",
        height_px=380,
        hover=[("class", "@name"), ("probability", "@y{0.0%}"), ("at", "@x{0.00}" + (" s" if known else ""))],
        y_range=(-0.03, 1.03),
    )
    figure.yaxis.formatter = NumeralTickFormatter(format="0%")
    for name, color in zip(names, COLORS, strict=False):
        source = {"x": middles, "y": shown.probabilities[name], "name": [name] * len(middles)}
        is_main = name == shown.class_name
        figure.line("x", "y", source=source, color=color, line_width=3 if is_main else 1.5, legend_label=name)
        figure.scatter("x", "y", source=source, color=color, size=8 if is_main else 5, legend_label=name)
    figure.add_layout(figure.legend[0], "below")
    figure.legend.update(location="left", label_text_font_size="12px", spacing=0)
    label = f"Probability of {', '.join(names)} over {len(middles)} windows"
    return make_plot("probabilities", figure, label=label, height_px=380)


def _make_stills(shown: ShownExplanation) -> list[tuple[str, str, Bar]]:
    """For each of the strongest units a picture, where it is, and its score as a bar."""
    stills = []
    strongest = list_strongest(shown.windows, _NUM_STRONGEST)
    for number, place, score in strongest:
        window = shown.windows[number]
        frames = enlarge(window.frames)
        times = len(frames[0]) // len(window.frames[0])
        moment = int((place[0] + 0.5) * len(frames) / window.scores.shape[0])
        box = [times * side for side in window.get_unit_box(place)]
        text = describe_place(window, place)
        bar = Bar(f"window {number + 1}", score / strongest[0][2], f"{score:+.2f}")
        stills.append((text, make_data_uri(_encode(draw_box(frames[moment], box))), bar))
    return stills


def describe_place(window: ShownWindow, place: Sequence[int]) -> str:
    """When and where a mask unit is: ``0:01.00-0:01.27, 32-64 px from the left, 0-32 px from the top``.

    There is no where if each unit is as large as the picture.
    """
    when = format_span(*window.get_unit_sec(place)) or f"part {place[0] + 1} of {window.scores.shape[0]}"
    if window.scores[0].size == 1:
        return when
    top, left, bottom, right = window.get_unit_box(place)
    where = f"{left}-{right} px from the left, {top}-{bottom} px from the top"
    return f"{when}, {where}"


def _make_table(shown: ShownExplanation, starts_sec: Sequence[float]) -> Table:
    titles = ("Probability, %", "Evidence", "Sum of scores", "Predicted, %")
    columns = [Column("Window"), *(Column(title, is_number=True) for title in titles), Column("Strongest unit")]
    rows = []
    for number, (window, start_sec) in enumerate(zip(shown.windows, starts_sec, strict=True), start=1):
        span = format_span(window.start_sec, window.end_sec)
        place = np.unravel_index(window.scores.argmax(), window.scores.shape)
        values = [
            make_number(100 * window.probability, "{:.1f}"),
            make_number(window.evidence, "{:+.2f}"),
            make_number(float(window.scores.sum()), "{:+.2f}"),
            make_number(100 * max(window.explained, 0.0), "{:.0f}"),
        ]
        name = Cell(span or f"window {number}", number, shows=f"{start_sec:.3f}")
        rows.append(Row([name, *values, make_text(describe_place(window, [int(side) for side in place]))]))
    return Table("window-table", "The windows that were explained", columns, rows)


def _encode(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def make_shown(windows: Sequence[Any]) -> list[ShownWindow]:
    """Windows as film and page show them, from objects with the same attributes."""
    names = ShownWindow.__dataclass_fields__
    return [ShownWindow(**{name: getattr(window, name) for name in names}) for window in windows]


def default_folder(video: str) -> str:
    """Where the explanation of a video goes by default."""
    return os.path.join("output", "explain", Path(video).stem)

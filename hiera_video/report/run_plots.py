"""Plots of runs: curves of training, the confusion of classes, reliability."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from bokeh.models import BasicTicker, BasicTickFormatter, FixedTicker, LinearColorMapper, NumeralTickFormatter

from hiera_video.report.plots import COLORS, Plot, make_figure, make_plot
from hiera_video.report.run_files import RunFiles
from hiera_video.report.scored_clips import Calibration, ScoredClips

_MAX_POINTS = 1000
_ACCURACIES = ("top1", "top5", "mean_class_accuracy", "knn_top1", "map", "box_ap", "mask_ap", "box_ap50")
_CONFUSION_PX = 320  # at least; it is as high as wide
_MAX_NAMED = 40  # classes whose names all stand at the axes
_MAX_NAME, _MAX_NAME_OF_MANY = 30, 20  # letters of a name at an axis
_WRONG_RGB, _RIGHT_RGB = (216, 86, 60), (63, 127, 219)


@dataclass(frozen=True)
class _Line:
    """A curve; ``is_dashed`` where another one of the run is the main one."""

    name: str
    epochs: np.ndarray
    values: np.ndarray
    color: str
    is_dashed: bool = False
    is_marked: bool = False


def make_curves(runs: Sequence[RunFiles]) -> list[Plot]:
    """Curves over the epochs, those of several runs over each other; only what any run has logged.

    Long curves are drawn as means of at most 1,000 stretches.
    """
    plots = []
    for name, title, lines, form in (
        ("loss", "Loss", _list_losses(runs), "0.[000]"),
        ("accuracy", "Accuracy, %", _list_accuracies(runs), "0.[0]"),
        ("lr", "Learning rate", _list_column(runs, "lr"), ""),
        ("grad-norm", "Norm of the gradient", _list_column(runs, "grad_norm"), "0.[00]a"),
        ("speed", "Speed, clips a second", _list_column(runs, "clips_per_sec"), "0.[0]a"),
        ("goodput", "Goodput, % of the time", _list_column(runs, "goodput", factor=100.0), "0.[0]"),
        ("waiting", "Waiting for data, % of a step", _list_waiting(runs), "0.[0]"),
    ):
        drawn = [line for line in lines if np.isfinite(line.values).any()]
        if drawn:
            plots.append(_make_curve(f"curve-{name}", title, drawn, form))
    return plots


def _make_curve(name: str, title: str, lines: Sequence[_Line], form: str) -> Plot:
    shown = make_figure(title, x_label="epoch", hover=[("", "$name"), ("epoch", "@x{0.00}"), (title, "@y{0.[0000]}")])
    for line in lines:
        epochs, values = thin(line.epochs, line.values)
        style: dict[str, Any] = {"color": line.color, "name": line.name}
        if len(lines) > 1:
            style["legend_label"] = line.name
        dash = "dashed" if line.is_dashed else "solid"
        shown.line(epochs, values, line_width=2, line_dash=dash, alpha=0.6 if line.is_dashed else 1.0, **style)
        if line.is_marked or len(epochs) == 1:
            shown.scatter(epochs, values, size=6, **style)
    shown.yaxis.formatter = NumeralTickFormatter(format=form) if form else BasicTickFormatter(precision=1)
    if len(lines) > 1:
        shown.legend.click_policy = "hide"
        shown.legend.location = "top_left"
        shown.add_layout(shown.legend[0], "below")
        shown.legend.orientation = "horizontal"
        shown.legend.ncols = 3
    return make_plot(name, shown, label=f"{title} over epochs: {describe_curves(lines)}")


def describe_curves(lines: Sequence[_Line]) -> str:
    """The last value of each curve, for those who do not see them."""
    parts = []
    for line in lines:
        known = line.values[np.isfinite(line.values)]
        parts.append(f"{line.name} from {known[0]:.4g} to {known[-1]:.4g}")
    return "; ".join(parts)


def thin(x: np.ndarray, y: np.ndarray, *, max_points: int = _MAX_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """A long curve as the means of its stretches, at most ``max_points``; (n,) each. What is no number is left out."""
    known = np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) <= max_points:
        return x, y
    edges = np.linspace(0, len(x), max_points + 1).astype(np.int64)
    counts = np.diff(edges)
    return np.add.reduceat(x, edges[:-1]) / counts, np.add.reduceat(y, edges[:-1]) / counts


def _take(table: pd.DataFrame, column: str) -> np.ndarray:
    return pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=np.float64)


def _list_column(runs: Sequence[RunFiles], column: str, *, factor: float = 1.0) -> Iterator[_Line]:
    for number, run in enumerate(runs):
        if column in run.train:
            yield _Line(run.name, _take(run.train, "epoch"), factor * _take(run.train, column), _get_color(number))


def _list_losses(runs: Sequence[RunFiles]) -> Iterator[_Line]:
    """Of one run all losses, of several the whole one of each."""
    if len(runs) > 1:
        yield from _list_column(runs, "loss")
        return
    (run,) = runs
    columns = [(table, str(column)) for table in (run.train, run.validation) for column in table]
    columns = [(table, column) for table, column in columns if column.endswith("loss")]
    for number, (table, column) in enumerate(columns):
        where = "training" if table is run.train else "validation"
        name = where if column == "loss" else f"{column.removesuffix('_loss')} ({where})"
        yield _Line(name, _take(table, "epoch"), _take(table, column), _get_color(number))


def _list_accuracies(runs: Sequence[RunFiles]) -> Iterator[_Line]:
    """Validation as marked lines, training beside it; of several runs the first accuracy of each."""
    for number, run in enumerate(runs):
        columns = [name for name in _ACCURACIES if name in run.validation]
        for place, column in enumerate(columns if len(runs) == 1 else columns[:1]):
            color = _get_color(place if len(runs) == 1 else number)
            name = column if len(runs) == 1 else f"{run.name}: {column}"
            epochs, values = _take(run.validation, "epoch"), _take(run.validation, column)
            yield _Line(name, epochs, values, color, is_marked=True)
        if "top1" in run.train and (len(runs) == 1 or not columns):
            name = "top1 (training)" if len(runs) == 1 else f"{run.name}: training"
            epochs, values = _take(run.train, "epoch"), _take(run.train, "top1")
            yield _Line(name, epochs, values, _get_color(number), is_dashed=True)


def _list_waiting(runs: Sequence[RunFiles]) -> Iterator[_Line]:
    for number, run in enumerate(runs):
        if {"data_time_sec", "step_time_sec"} <= set(run.train):
            with np.errstate(divide="ignore", invalid="ignore"):
                shares = 100.0 * _take(run.train, "data_time_sec") / _take(run.train, "step_time_sec")
            yield _Line(run.name, _take(run.train, "epoch"), shares, _get_color(number))


def make_confusion_plot(clips: ScoredClips, order: np.ndarray) -> Plot:
    """The confusion matrix: rows are true classes, columns what their videos were taken for.

    Strength tells the share of the row's videos; right ones are blue, wrong ones red. Page scripts find out by the
    place of a click which classes are meant: cell i of an axis is from i - 0.5 to i + 0.5 and is class ``order[i]``.

    Args:
        clips: of a test.
        order: int64 (K,), the class at each place of the axes.
    """
    num_classes = clips.num_classes
    counts = clips.confusion[np.ix_(order, order)]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # 0: nothing; 1 to 100: wrong, 101 to 200: right, by share. One video of a large class stays visible.
    levels = np.where(counts > 0, np.maximum(np.ceil(100 * shares), 1), 0).astype(np.uint8)
    levels += (100 * np.eye(num_classes, dtype=np.uint8)) * (levels > 0)
    least = 0.3 if num_classes <= _MAX_NAMED else 0.6  # a cell of a pixel has to be seen
    strengths = [least + (1 - least) * (i / 100) ** 0.6 for i in range(1, 101)]
    palette = [(0, 0, 0, 0.0), *((*rgb, strength) for rgb in (_WRONG_RGB, _RIGHT_RGB) for strength in strengths)]
    span = (-0.5, num_classes - 0.5)
    shown = make_figure(
        "",
        x_label="taken for",
        y_label="true class",
        sizing_mode="scale_width",
        aspect_ratio=1.1,
        tools="pan,box_zoom,wheel_zoom,zoom_in,zoom_out,reset,save",
        x_range=span,
        y_range=span[::-1],
        name="confusion",
    )
    mapper = LinearColorMapper(palette=[f"rgba({r}, {g}, {b}, {a:.3f})" for r, g, b, a in palette], low=0, high=200)
    shown.image(image=[levels], x=-0.5, y=-0.5, dw=num_classes, dh=num_classes, color_mapper=mapper)
    length = _MAX_NAME if num_classes <= _MAX_NAMED else _MAX_NAME_OF_MANY
    names = {place: _shorten(clips.class_names[label], length) for place, label in enumerate(order.tolist())}
    for axis in (shown.xaxis[0], shown.yaxis[0]):
        axis.ticker = FixedTicker(ticks=list(names)) if num_classes <= _MAX_NAMED else BasicTicker(min_interval=1)
        axis.major_label_overrides = names
        axis.minor_tick_line_color = None
    shown.xaxis.major_label_orientation = 1.1
    shown.grid.visible = False
    label = f"Confusion matrix of {num_classes} classes; the table of confusions holds its largest cells"
    return make_plot("confusion", shown, label=label, height_px=_CONFUSION_PX)


def make_reliability_plot(calibrations: Sequence[tuple[str, Calibration]]) -> Plot:
    """Accuracy over confidence, for each of (name, calibration); a perfectly calibrated model lies on the diagonal."""
    hover = [("videos", "@count{0,0}"), ("mean confidence", "@x{0.0%}"), ("accuracy", "@y{0.0%}")]
    span = (-0.02, 1.04)
    shown = make_figure(
        "", x_label="confidence", y_label="accuracy", height_px=340, hover=hover, x_range=span, y_range=span
    )
    shown.line([0, 1], [0, 1], line_dash="dashed", line_width=1.5, color="#8a94a6", legend_label="perfect")
    for number, (name, found) in enumerate(calibrations):
        used = found.counts > 0
        count = found.counts[used]
        data = {"x": found.confidence[used], "y": found.accuracy[used], "count": count}
        data["size"] = 6 + 16 * np.sqrt(count / count.max()) if len(count) else count
        color = _get_color(number)
        label = f"{name} (size: videos)" if len(calibrations) == 1 else name
        shown.line("x", "y", source=data, color=color, line_width=2, legend_label=label)
        shown.scatter("x", "y", size="size", source=data, color=color, fill_alpha=0.75, legend_label=label)
    for axis in (shown.xaxis, shown.yaxis):
        axis.formatter = NumeralTickFormatter(format="0%")
    shown.legend.location = "top_left"
    texts = [
        f"{name}: expected calibration error {100 * found.error:.1f} %"
        for name, found in calibrations
        if found.counts.any()
    ]
    label = f"Reliability diagram. {'; '.join(texts) or 'No video was decoded.'}"
    return make_plot("reliability", shown, label=label, height_px=340)


def _shorten(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _get_color(number: int) -> str:
    return COLORS[number % len(COLORS)]

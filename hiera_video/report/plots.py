"""Plots of the pages' look, drawn by Bokeh in the browser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bokeh.embed import json_item
from bokeh.models import HoverTool, Model
from bokeh.models.annotations import Legend, Title
from bokeh.plotting import figure

# Told apart by most people, on light and on dark.
COLORS = ("#3f7fdb", "#e0803a", "#2a9d76", "#c2528b", "#8a6fd1", "#ab8f14", "#4da3b5", "#d0574f")
_LEGEND_INK = "#75808f"  # readable on light and on dark
_TOOLS = "pan,box_zoom,wheel_zoom,reset,save"


@dataclass(frozen=True)
class Plot:
    """A plot of a page.

    Attributes:
        name: letters, digits and hyphens; it stands at ``#plot-NAME``.
        label: what it shows, for those who do not see it.
        height_px: room that is kept for it.
        item: what Bokeh draws.
    """

    name: str
    label: str
    height_px: int
    item: Any


def make_figure(
    title: str,
    *,
    x_label: str = "",
    y_label: str = "",
    height_px: int = 260,
    hover: Sequence[tuple[str, str]] = (),
    tools: str = _TOOLS,
    **options: Any,
) -> Any:
    """An empty figure, as wide as its place on the page; its colors follow the page's.

    Args:
        title: above it.
        x_label: below the horizontal axis.
        y_label: beside the vertical axis.
        height_px: of the figure.
        hover: (name, field) of each line that appears at a point, as Bokeh's ``HoverTool.tooltips``.
        tools: Bokeh's tools.
        **options: of `bokeh.plotting.figure`.
    """
    shown = figure(
        title=Title(text=title, text_font_size="13px"),
        x_axis_label=x_label or None,
        y_axis_label=y_label or None,
        height=height_px,
        min_width=200,
        tools=tools,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        **{"sizing_mode": "stretch_width", "active_drag": "box_zoom", "active_scroll": None, **options},
    )
    shown.toolbar.logo = None
    shown.toolbar.autohide = True
    shown.axis.axis_label_text_font_style = "normal"
    if hover:
        shown.add_tools(HoverTool(tooltips=list(hover)))
    return shown


def make_plot(name: str, model: Model, *, label: str, height_px: int = 260) -> Plot:
    """A Bokeh figure or layout as a part of a page; see `Plot`."""
    for legend in model.select({"type": Legend}):
        legend.update(
            background_fill_color=None,
            border_line_color=None,
            label_text_color=_LEGEND_INK,
            label_text_font="system-ui, DejaVu Sans, sans-serif",
            label_text_font_size="11px",
        )
    return Plot(name, label, height_px, json_item(model))

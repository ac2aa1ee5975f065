"""HTML pages of one look, each a single file. They need no network, and everything that comes from the data is escaped.

A page is a template of `hiera_video/report/templates` that extends ``base.html`` and is filled with plain values. Its
policy forbids all scripts but those that belong to it, named by their digests.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from hiera_video.utils.files import write_whole

if TYPE_CHECKING:
    from hiera_video.report.plots import Plot

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Tile:
    """A number at a glance: a title, a value, and a note below it."""

    title: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """A horizontal bar.

    Attributes:
        name: what it stands for.
        share: its length in [0, 1].
        text: its value as it is written.
        kind: "right" and "wrong" have their own colors.
    """

    name: str
    share: float
    text: str
    kind: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table; numbers are set right and sort as numbers, the largest first.

    ``order`` is "ascending" or "descending" where the rows come sorted by it.
    """

    title: str
    is_number: bool = False
    order: str = "none"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: as it is written.
        key: what it sorts by: a number for columns of numbers; "" comes last.
        shows: what a click shows, for the page's script.
    """

    text: str
    key: str | float = ""
    shows: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    cells: Sequence[Cell]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: its id on the page: letters, digits and hyphens.
        caption: what it shows, for those who do not see it.
        columns: their headings.
        rows: with a cell for each column.
        sortable: by a click on a heading.
        kind: "pairs" for a short list of names and values, which shows no headings; "whole" for one that is not
            scrolled.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    sortable: bool = True
    kind: str = ""


def make_number(value: float | None, form: str = "{:.1f}") -> Cell:
    """A cell with a number, empty for None and NaN; ``form`` is a format such as ``{:.1f} %``."""
    if value is None or math.isnan(value):
        return Cell("")
    return Cell(form.format(value), value)


def make_text(text: str, *, shows: str = "") -> Cell:
    """A cell with a text that it sorts by."""
    return Cell(text, text, shows)


def render_page(
    template: str,
    *,
    title: str,
    facts: Sequence[str] = (),
    sections: Sequence[tuple[str, str]] = (),
    plots: Sequence[Plot] = (),
    scripts: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
    **values: Any,
) -> str:
    """A page as HTML.

    Args:
        template: file name of a template that extends ``base.html``.
        title: of the page.
        facts: lines below it.
        sections: (id, heading) of each section that the bar at the top leads to.
        plots: all that the template draws; Bokeh's script is part of the page if there are any.
        scripts: file names of the page's own scripts among the templates.
        data: id -> what these scripts read as JSON.
        **values: what the template names.
    """
    names = ["page.js", *(["plots.js"] if plots else []), *scripts]
    texts = [*([_read_bokeh()] if plots else []), *(_read(name) for name in names)]
    return (
        _make_environment()
        .get_template(template)
        .render(
            title=title,
            facts=facts,
            sections=sections,
            policy=_make_policy(texts),
            style=Markup(_read("style.css")),
            scripts=[Markup(text) for text in texts],
            items=[(plot.name, htmlsafe_json_dumps(plot.item)) for plot in plots],
            data={name: htmlsafe_json_dumps(content) for name, content in (data or {}).items()},
            **values,
        )
    )


def write_page(path: str | os.PathLike[str], page: str) -> None:
    """Writes a page as UTF-8, whole; bytes of file names that are no text become question marks."""
    write_whole(Path(path), page.encode("utf-8", errors="replace"))


def make_data_uri(content: bytes, kind: str = "image/jpeg") -> str:
    """A file as an address that holds it: ``data:image/jpeg;base64,...``."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@functools.lru_cache(maxsize=1)
def _make_environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _make_policy(scripts: Sequence[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "media-src * file: data: blob:"
    )


@functools.lru_cache(maxsize=16)
def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


@functools.lru_cache(maxsize=1)
def _read_bokeh() -> str:
    import bokeh

    folder = Path(bokeh.__file__).parent / "server" / "static" / "js"
    return (folder / "bokeh.min.js").read_text(encoding="utf-8")

"""Frames side by side, with titles: as one picture, or one picture for each moment of a video."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_MARGIN_PX = 6
_LINE_PX = 16
_INK, _PAPER = (30, 30, 30), (255, 255, 255)


def compose_strip(rows: Mapping[str, np.ndarray], *, caption: str, column_titles: Sequence[str]) -> Image.Image:
    """A row for each entry, time along the page.

    Args:
        rows: title -> frames uint8 (T, H, W, 3), all of one shape.
        caption: a text below, wrapped to the width.
        column_titles: T texts above the columns.
    """
    clips = list(rows.values())
    num_frames, height, width = clips[0].shape[:3]
    page_width = _MARGIN_PX + num_frames * (width + _MARGIN_PX)
    lines = _wrap(caption, page_width)
    row_height = height + _LINE_PX + _MARGIN_PX
    page = Image.new("RGB", (page_width, 2 * _LINE_PX + len(rows) * row_height + len(lines) * _LINE_PX), _PAPER)
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(column_titles):
        _write(draw, (_MARGIN_PX + column * (width + _MARGIN_PX), 2), title)
    for row, (title, clip) in enumerate(rows.items()):
        top = _LINE_PX + row * row_height
        _write(draw, (_MARGIN_PX, top), title)
        for column, frame in enumerate(clip):
            page.paste(Image.fromarray(frame), (_MARGIN_PX + column * (width + _MARGIN_PX), top + _LINE_PX))
    for number, line in enumerate(lines):
        _write(draw, (_MARGIN_PX, _LINE_PX + len(rows) * row_height + number * _LINE_PX), line)
    return page


def compose_moments(rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """The entries side by side at each moment: title -> (T, H, W, 3) becomes uint8 (T, H', W', 3), even in height and
    width, as video codecs want it.
    """
    clips = list(rows.values())
    num_frames, height, width = clips[0].shape[:3]
    page_width = _MARGIN_PX + len(rows) * (width + _MARGIN_PX)
    size = (page_width + page_width % 2, height + _LINE_PX + _MARGIN_PX + (height + _LINE_PX + _MARGIN_PX) % 2)
    moments = []
    for i in range(num_frames):
        page = Image.new("RGB", size, _PAPER)
        draw = ImageDraw.Draw(page)
        for column, (title, clip) in enumerate(rows.items()):
            left = _MARGIN_PX + column * (width + _MARGIN_PX)
            _write(draw, (left, 2), title)
            page.paste(Image.fromarray(clip[i]), (left, _LINE_PX))
        moments.append(np.asarray(page))
    return np.stack(moments)


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str) -> None:
    draw.text(place, text, fill=_INK, font=ImageFont.load_default(12))


def _wrap(text: str, width_px: int) -> list[str]:
    letter_px = ImageFont.load_default(12).getlength("abcdefghij klmnop") / 17
    return textwrap.wrap(text, max(int((width_px - 2 * _MARGIN_PX) / letter_px), 20))

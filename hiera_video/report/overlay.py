"""Labels drawn on the frames of a video."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

# Looked for where the system keeps its fonts; the first that has all letters of a text is taken.
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf")
_MIN_SIZE_PX = 12
_LINES_IN_HEIGHT = 24  # how many lines would fill a frame
_INK, _SHADE = (255, 255, 255, 255), (0, 0, 0, 170)  # white on a dark veil: readable on any background
_NO_GLYPH = "\U0010ffff"
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class LabelPainter:
    """Draws lines of text into the upper left corner of frames.

    A letter that no font here has is written as its code, such as \\u6e38.

    Args:
        width_px: of the frames.
        height_px: of the frames.
        font_path: a font file to use before those of the system.
        num_kept: how many renderings of lines to keep, for lines that stay the same over many frames.
    """

    def __init__(self, width_px: int, height_px: int, *, font_path: str = "", num_kept: int = 1) -> None:
        self._size_px = max(_MIN_SIZE_PX, height_px // _LINES_IN_HEIGHT)
        self._fonts = _load_fonts(self._size_px, font_path)
        self._margin_px = self._size_px // 2
        self._line_px = self._size_px * 4 // 3
        self._max_width_px = width_px - 4 * self._margin_px
        self._max_lines = max((height_px - 4 * self._margin_px) // self._line_px, 1)
        self._render = functools.lru_cache(maxsize=num_kept)(self._render_lines)

    def paint(self, frame: np.ndarray, lines: Sequence[str]) -> None:
        """Draws on a frame, uint8 (H, W, 3), in place; lines too long or too many are cut."""
        self.paint_at(frame, lines, left_px=self._margin_px, top_px=self._margin_px)

    def paint_at(self, frame: np.ndarray, lines: Sequence[str], *, left_px: int, top_px: int) -> None:
        """As `paint`, with the upper left corner of the text at a place of the frame."""
        if not lines:
            return
        region = frame[top_px:, left_px:]
        label, opacity = self._render(tuple(lines))  # (h, w, 3), (h, w, 1)
        region = region[: len(label), : label.shape[1]]
        label, opacity = (part[: len(region), : region.shape[1]] for part in (label, opacity))
        region[:] = np.rint(region * (1 - opacity) + label * opacity)

    def measure(self, lines: Sequence[str]) -> tuple[int, int]:
        """Width and height of lines of text, px."""
        if not lines:
            return 0, 0
        height, width = self._render(tuple(lines))[0].shape[:2]
        return width, height

    def _render_lines(self, lines: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
        rows = [self._fit(line) for line in lines[: self._max_lines]]
        margin = self._margin_px
        width = max(int(font.getlength(text)) for text, font in rows) + 2 * margin
        picture = Image.new("RGBA", (width, len(rows) * self._line_px + margin), _SHADE)
        draw = ImageDraw.Draw(picture)
        for number, (text, font) in enumerate(rows):
            place = (margin, margin // 2 + number * self._line_px)
            draw.text(place, text, fill=_INK, font=font, direction="ltr" if features.check("raqm") else None)
        pixels = np.asarray(picture).astype(np.float32)  # (h, w, 4)
        return pixels[..., :3], pixels[..., 3:] / 255

    def _fit(self, line: str) -> tuple[str, Font]:
        """The text as it can be drawn, and the font that can."""
        line = "".join(letter if letter.isprintable() else " " for letter in line)
        missing = [{letter for letter in line if not _has_glyph(font, letter)} for font in self._fonts]
        best = min(range(len(missing)), key=lambda i: len(missing[i]))
        font = self._fonts[best]
        for letter in missing[best]:
            line = line.replace(letter, letter.encode("ascii", "backslashreplace").decode())
        if font.getlength(line) <= self._max_width_px:
            return line, font
        while line and font.getlength(line + "…") > self._max_width_px:
            line = line[:-1]
        return line + "…", font


def find_undrawable(text: str, *, font_path: str = "") -> str:
    """The letters of a text for which each font here lacks at least one of them; empty where one has all.

    Raises:
        ValueError: the font file cannot be read.
    """
    fonts = _load_fonts(_MIN_SIZE_PX, font_path)
    return min(("".join(dict.fromkeys(c for c in text if not _has_glyph(font, c))) for font in fonts), key=len)


def load_font(size_px: int, text: str, *, font_path: str = "") -> Font:
    """The font that has the most letters of a text.

    Raises:
        ValueError: the font file cannot be read.
    """
    fonts = _load_fonts(size_px, font_path)
    return min(fonts, key=lambda font: sum(not _has_glyph(font, letter) for letter in set(text)))


def _load_fonts(size_px: int, font_path: str) -> list[Font]:
    fonts: list[Font] = []
    for name in (font_path, *_FONTS):
        try:
            fonts += [ImageFont.truetype(name, size_px)] if name else []
        except OSError as error:
            if name == font_path:
                raise ValueError(f"font {name} cannot be read: {error}") from error
    return [*fonts, ImageFont.load_default(size_px)]


@functools.lru_cache(maxsize=4096)
def _has_glyph(font: Font, letter: str) -> bool:
    """Whether a font has a letter; one that it lacks is drawn as the same box as any other that it lacks."""
    return letter.isspace() or bytes(font.getmask(letter)) != bytes(font.getmask(_NO_GLYPH))

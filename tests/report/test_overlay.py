"""Labels on frames can be read on any background, whatever is in them, and leave the rest of the picture alone."""

import numpy as np
import pytest
from PIL import ImageFont

from hiera_video.report.overlay import LabelPainter, _load_fonts, find_undrawable

UNKNOWN = "\U00013000"  # a hieroglyph, which no usual font has


def paint(lines, *, height=240, width=320, value=128, **options):
    frame = np.full((height, width, 3), value, dtype=np.uint8)
    LabelPainter(width, height, **options).paint(frame, lines)
    return frame


@pytest.mark.parametrize("value", [0, 128, 255])
def test_text_stands_out_from_any_background(value):
    frame = paint(["42.0% swimming"], value=value)
    label = frame[8:24, 8:120].mean(axis=-1)
    assert label.max() > 250
    assert np.median(label) < 100


def test_the_rest_of_the_picture_stays(tmp_path):
    before = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    frame = before.copy()
    LabelPainter(320, 240).paint(frame, ["a", "b"])
    changed = (frame != before).any(axis=-1)
    assert changed[:60, :40].any()
    assert not changed[60:].any() and not changed[:, 40:].any()


def test_nothing_to_say_changes_nothing():
    assert (paint([]) == 128).all()


def test_each_frame_shows_its_own_lines():
    painter = LabelPainter(320, 240)
    frames = np.full((4, 240, 320, 3), 128, dtype=np.uint8)
    for frame, line in zip(frames, ("one", "one", "two", "one"), strict=True):
        painter.paint(frame, [line])
    assert (frames[0] == frames[1]).all() and (frames[0] == frames[3]).all()
    assert (frames[0] != frames[2]).any()


@pytest.mark.parametrize("size", [(240, 320), (64, 96), (16, 16), (2, 2), (1080, 60)], ids=str)
def test_too_much_text_stays_inside(size):
    height, width = size
    frame = paint(["x" * 500, "ß" * 500] * 40, height=height, width=width)
    assert frame.shape == (height, width, 3)
    if min(size) > 60:  # a margin is left on all sides
        assert (frame[-4:] == 128).all() and (frame[:, -4:] == 128).all()
        assert (frame[10:-20, 10:30] != 128).any()


def test_a_long_line_keeps_its_beginning():
    font = ImageFont.load_default(12)
    text, drawn_with = LabelPainter(200, 100)._fit("99.1% " + "long " * 100)
    assert text.startswith("99.1% long") and text.endswith("…")
    assert drawn_with.getlength(text) <= 200 and font is not drawn_with


def test_letters_without_glyph_are_written_as_codes():
    text, _ = LabelPainter(600, 240)._fit(f"Wäsche {UNKNOWN} und mehr")
    assert text == "Wäsche \\U00013000 und mehr"
    assert find_undrawable(f"Wäsche {UNKNOWN}") == UNKNOWN
    assert find_undrawable("plain words, 100 %") == ""


def test_control_characters_are_not_drawn():
    text, _ = LabelPainter(600, 240)._fit("a\nb\x00c\td")
    assert text == "a b c d"


def test_a_font_of_ones_own_comes_first(tmp_path):
    path = next((font.path for font in _load_fonts(12, "") if isinstance(font.path, str)), None)
    if path is None:
        pytest.skip("no font file on this system")
    assert _load_fonts(12, path)[0].path == path
    (tmp_path / "bad.ttf").write_bytes(b"no font")
    with pytest.raises(ValueError, match="bad.ttf"):
        LabelPainter(320, 240, font_path=str(tmp_path / "bad.ttf"))

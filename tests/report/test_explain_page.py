"""The page of an explanation in a real browser, and the film beside it."""

import math

import av
import numpy as np
import pytest

from hiera_video.report.explain_page import (
    FILM,
    PAGE,
    ShownExplanation,
    ShownWindow,
    explain_grid,
    list_strongest,
    render_explain_page,
    write_film,
)
from hiera_video.report.page import write_page

EVIL = "<b onclick='alert(1)'>\"x\"</b>"


def make_window(number=0, *, grid=(2, 4, 4), known=True, **changes):
    """A window of 8 frames of 32 x 32 px in 2 s; the strongest unit is at (1, 2, 3)."""
    scores = np.full(grid, -0.25, dtype=np.float32)
    scores[tuple(min(place, size - 1) for place, size in zip((1, 2, 3), grid, strict=True))] = 1.5 + number
    frames = np.full((8, 32, 32, 3), 40 * (number + 1), dtype=np.uint8)
    start_sec = 2.0 * number if known else math.nan
    values = dict(start_sec=start_sec, end_sec=start_sec + 2, frames=frames, probability=0.9, evidence=2.2)
    values |= dict(scores=scores, cam=np.abs(scores), explained=0.5)
    return ShownWindow(**(values | changes))


def make_shown(windows, **changes):
    spans = np.array([(2.0 * i, 2.0 * i + 2) for i in range(4)])
    probabilities = {"run": np.array([0.1, 0.1, 0.2, 0.1]), EVIL: np.array([0.9, 0.9, 0.8, 0.9])}
    values = dict(video=f"/videos/{EVIL}.mp4", class_name=EVIL, probability=0.875, is_multilabel=False)
    values |= dict(spans_sec=spans, probabilities=probabilities, windows=windows, facts=["a fact"])
    return ShownExplanation(**(values | changes))


def write(folder, shown):
    starts_sec, poster = write_film(folder / FILM, shown.windows)
    write_page(folder / PAGE, render_explain_page(shown, starts_sec=starts_sec, poster=poster))
    return folder / PAGE


def test_the_page_in_a_browser(tmp_path, browser):
    browser.open(write(tmp_path, make_shown([make_window(0), make_window(1)])))
    tiles = dict(zip(browser.read(".tile dt"), browser.read(".tile dt + dd"), strict=True))
    assert tiles == {
        "Explained class": EVIL,
        "Probability": "87.5 %",
        "Windows explained": "2",
        "Predicted by the scores": "50 %",
    }
    assert browser.read("#coarse") == []
    stills = browser.read("#strongest .card p")
    assert stills[0] == "0:03.00-0:04.00, 24-32 px from the left, 16-24 px from the top" and len(stills) == 2
    assert browser.read("#strongest .bar-value") == ["+2.50", "+1.50"]
    rows = browser.read("#window-table tbody tr")
    assert rows[1].startswith("0:02.00-0:04.00 90.0 +2.20 -5.25 50 0:03.00") and len(rows) == 2
    assert browser.find("#plot-probabilities canvas") or browser.run(
        "return document.querySelector('#plot-probabilities .canvas').children.length > 0"
    )
    browser.check()


def test_a_click_on_a_window_plays_it_in_the_film(tmp_path, browser):
    browser.open(write(tmp_path, make_shown([make_window(0), make_window(1)])), scheme="dark", width=420)
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    browser.find("#window-table [data-shows]")[1].click()
    browser.wait("const film = document.querySelector('video.film'); return film.currentTime > 2.2 && !film.paused")
    browser.check()


def test_the_film_shows_each_window_at_its_place(tmp_path):
    windows = [make_window(0), make_window(1)]
    starts_sec, poster = write_film(tmp_path / FILM, windows)
    assert starts_sec == [0.0, 2.0]
    with av.open(str(tmp_path / FILM)) as film:
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in film.decode(video=0)]
    assert [time for time, _ in frames] == pytest.approx([i / 4 for i in range(17)])
    assert frames[0][1].shape == poster.shape
    levels = [frame[60:200, 40:180].mean() for _, frame in frames]  # of what the model sees
    np.testing.assert_allclose(levels, [40] * 8 + [80] * 9, atol=3)
    left = 6 + 224 + 6  # of the map; its unit (1, 2, 3) is warm in the last four frames of a window
    colors = np.stack([frame for _, frame in frames]).astype(float)
    warm = colors[:16, 16 + 120 : 16 + 160, left + 176 : left + 216].mean(axis=(1, 2))
    assert [color[0] - color[2] > 60 for color in warm] == [False] * 4 + [True] * 4 + [False] * 4 + [True] * 4
    cold = colors[12, 40:60, left + 10 : left + 40].mean(axis=(0, 1))
    assert cold[2] > cold[0]
    assert not list(tmp_path.glob("*.partial"))


def test_strongest_units_and_coarse_maps():
    windows = [make_window(0), make_window(1)]
    assert list_strongest(windows, 6) == [(1, (1, 2, 3), 2.5), (0, (1, 2, 3), 1.5)]
    assert explain_grid(windows) == ""
    only_times = explain_grid([make_window(grid=(4, 1, 1))])
    assert "can only tell times, not places: a mask unit is 32 x 32 px" in only_times
    assert "DATA.TEST_CROP_SIZE 64" in only_times
    assert "has only 2 x 2 places" in explain_grid([make_window(grid=(4, 2, 2))])


def test_unknown_times_and_nothing_that_speaks_for_the_class(tmp_path, browser):
    window = make_window(known=False, scores=np.full((2, 1, 1), -1.0), cam=np.zeros((2, 1, 1)), explained=math.nan)
    shown = make_shown([window], spans_sec=np.full((4, 2), math.nan), is_multilabel=True)
    browser.open(write(tmp_path, shown))
    assert "No mask unit speaks for this class." in browser.read("#strongest")[0]
    assert browser.read("#window-table tbody tr") == ["window 1 90.0 +2.20 -2.00 part 1 of 2"]
    assert browser.read(".tile dt + dd")[3] == "-" and "only tell times" in browser.read("#coarse")[0]
    assert "the logit of the class" in browser.read("#summary")[0]
    browser.check()

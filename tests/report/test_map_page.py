"""The map's page: what is packed into it, and how it answers in a real browser."""

import base64
import json
import re
import time

import numpy as np
import pandas as pd
import pytest

from hiera_video.report.map_page import choose_stills, make_coloring, quantize, render_map_page
from hiera_video.report.page import write_page

EVIL = "</script><script>throw 1</script>&'\"#?%.webm"
NAMES = ["juggling", "running", EVIL]
ORANGE, GRAY, PAPER = [0xE0, 0x80, 0x3A], [0x8A, 0x93, 0xA1], [0x1D, 0x22, 0x2B]  # class 1, unknown, dark background


def read_data(page):
    return json.loads(re.search(r'<script type="application/json" id="map-data">(.*?)</script>', page)[1])


def unpack(text, kind):
    return np.frombuffer(base64.b64decode(text), kind)


def test_coordinates_fill_the_longer_side_and_keep_their_proportions():
    points = np.array([[0.0, 0.0], [10.0, 5.0], [5.0, 2.5]])
    found = quantize(points)
    assert found[:, 0].tolist() == [0, 65535, 32768] and found[:, 1].tolist() == [16384, 49151, 32768]
    many = np.random.default_rng(0).normal(size=(500, 2)).astype(np.float32)
    span = np.ptp(many, axis=0).max()
    moved = quantize(many) / 65535 * span
    np.testing.assert_allclose(moved - moved[0], many - many[0], atol=1.01 * span / 65535)
    assert quantize(np.ones((4, 2))).tolist() == [[32768, 32768]] * 4


def test_stills_are_spread_over_the_map():
    crowd, others = np.tile([100, 100], (1000, 1)), np.array([[60000, 100], [100, 60000], [60000, 60000]])
    chosen = choose_stills(np.concatenate([crowd, others]), 4)
    assert chosen.tolist() == [0, 1000, 1001, 1002]
    assert choose_stills(crowd, 0).tolist() == [] and len(choose_stills(crowd, 5000)) == 1000


def test_colors_stand_for_values():
    found = make_coloring("label", pd.Series([2, 0, None, 2], dtype="Int64"), names=["a", "b", "c"])
    assert found.codes.tolist() == [1, 0, -1, 1] and list(found.names) == ["a", "c"]
    assert make_coloring("who", pd.Series(["y", "x"])).names == ["x", "y"]
    many = make_coloring("label", pd.Series(range(400)))
    assert len(set(many.colors)) == 400 and all(re.fullmatch("#[0-9a-f]{6}", color) for color in many.colors)


def test_fractions_are_colored_by_ranges_of_equal_size():
    values = pd.Series([*np.random.default_rng(0).exponential(size=800), np.nan])
    found = make_coloring("age", values)
    assert np.bincount(found.codes[:-1]).tolist() == [100] * 8 and found.codes[-1] == -1
    edges = [float(name.split(" to ")[0]) for name in found.names]
    np.testing.assert_allclose(edges[1:], np.quantile(values[:-1], np.arange(1, 8) / 8), rtol=5e-3)


def test_colors_that_nobody_could_tell_apart_are_refused():
    with pytest.raises(ValueError, match="the column path has 1,001 values; a map can color up to 1,000"):
        make_coloring("path", pd.Series(range(1001)).astype(str))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, painted_video):
    folder = tmp_path_factory.mktemp("map")
    video = painted_video("played.webm", codec="libvpx-vp9", num_frames=150, fps=25).read_bytes()
    for name in ("a.webm", "b.webm", EVIL.replace("/", "_")):
        (folder / name).write_bytes(video)
    return folder


@pytest.fixture
def page(folder):
    """Three videos: two windows of the first in the corners, one of the second; the third and a missing one beside."""
    names = ["a.webm", "a.webm", "b.webm", EVIL.replace("/", "_"), "gone.webm"]
    table = pd.DataFrame(
        {
            "path": [str(folder / name) for name in names],
            "start_sec": [0.4, 1.2, 0.0, np.nan, 0.0],
            "end_sec": [0.8, 1.6, 1.0, np.nan, 1.0],
        }
    )
    points = np.array([[0, 0], [1, 1], [0, 1], [1, 0], [0.5, 0.5]], float)
    colorings = [
        make_coloring("label", pd.Series([0, 0, 1, 2, None], dtype="Int64"), names=NAMES),
        make_coloring("cluster", pd.Series([0, 1, 0, 1, 1]), names=["1: juggling mostly", "2: no labels"]),
    ]
    page = render_map_page(table, points, colorings, title=EVIL, facts=[EVIL], page_dir=folder)
    write_page(folder / "map.html", page)
    return page


def test_what_is_packed_into_the_page(page, folder):
    data = read_data(page)
    assert unpack(data["x"], "<u2").tolist() == [0, 65535, 0, 65535, 32768]
    assert unpack(data["videos"], "<u4").tolist() == [0, 0, 1, 2, 3]
    assert data["paths"] == ["a.webm", "b.webm", EVIL.replace("/", "_"), "gone.webm"] and data["url"] == "./"
    np.testing.assert_array_equal(unpack(data["starts"], "<f4"), np.float32([0.4, 1.2, 0, np.nan, 0]))
    assert unpack(data["colorings"][0]["codes"], "<u2").tolist() == [0, 0, 1, 2, 65535]
    assert unpack(data["stills"]["rows"], "<u4").tolist() == [0, 1, 2, 3] and len(data["stills"]["sheets"]) == 1


def open_map(browser, folder, **look):
    browser.open(folder / "map.html", **look)
    browser.wait("return document.getElementById('map-canvas').dataset.draws")


def find_place(browser, x, y):
    """Where a point of the unit square stands in the window, after `Show all`."""
    return browser.run(
        "const box = document.getElementById('map-canvas').getBoundingClientRect(), [x, y] = arguments;"
        "const side = Math.min(box.width, box.height) - 48;"
        "return [box.left + (box.width - side) / 2 + x * side, box.top + (box.height - side) / 2 + (1 - y) * side];",
        x,
        y,
    )


def move(browser, x, y):
    browser._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)


def read_pixel(browser, x, y):
    return browser.run(
        "const canvas = document.getElementById('map-canvas'), box = canvas.getBoundingClientRect();"
        "const copy = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });"
        "copy.drawImage(canvas, box.left - arguments[0], box.top - arguments[1]);"
        "return [...copy.getImageData(0, 0, 1, 1).data];",
        x,
        y,
    )[:3]


def wait_for_pixel(browser, place, is_meant, *, seconds=60):
    """Waits until the color at a place is the one that is meant: the map is drawn anew when the browser gets to it."""
    end = time.monotonic() + seconds
    while not is_meant(color := read_pixel(browser, *place)):
        assert time.monotonic() < end, f"{place} stays {color}"
        time.sleep(0.02)


def test_a_pointer_sees_and_a_click_plays(page, folder, browser):
    open_map(browser, folder)
    x, y = find_place(browser, 1, 1)
    assert read_pixel(browser, x, y) == [0x3F, 0x7F, 0xDB]  # the color of the first class
    move(browser, x + 3, y)
    browser.wait("return !document.getElementById('map-tip').hidden")
    assert browser.read("#map-tip p") == ["a.webm", "juggling, 0:01.20-0:01.60"]
    browser.wait("return document.querySelector('#map-tip video').readyState > 1")  # the video's own frame
    assert abs(browser.run("return document.querySelector('#map-tip video').currentTime") - 1.4) < 0.05
    browser.click_at(x + 3, y)
    browser.wait("return document.querySelector('#map-clip video')?.currentTime > 1.25")
    browser.wait("return document.querySelector('#map-clip video').paused")
    # Of six seconds; on a busy machine it stops a little late.
    assert 1.55 < browser.run("return document.querySelector('#map-clip video').currentTime") < 5
    chips = ["label: juggling", "cluster: 2: no labels", "0:01.20-0:01.60"]
    assert browser.read("#map-clip .chip") == chips
    move(browser, x + 60, y + 60)
    browser.wait("return document.getElementById('map-tip').hidden")
    browser.check()


def test_names_with_any_letters_are_found_and_played(page, folder, browser):
    open_map(browser, folder)
    browser.find("#map-find")[0].send_keys("SCRIPT")
    browser.wait("return document.getElementById('map-count').textContent === '1 of 5 clips'")
    browser.find("#map-found button")[0].click()
    browser.wait("return document.querySelector('#map-clip video')?.currentTime > 0.1")
    assert browser.read("h1") == [EVIL] and browser.read("#map-clip .name") == [EVIL.replace("/", "_")]
    browser.check()


def test_search_and_legend_leave_the_others_faint(page, folder, browser):
    open_map(browser, folder)
    here, there = find_place(browser, 0, 1), find_place(browser, 0, 0)
    field = browser.find("#map-find")[0]
    field.send_keys("RUNN")  # a class
    browser.wait("return document.getElementById('map-count').textContent === '1 of 5 clips'")
    assert browser.read("#map-found li") == ["b.webm running, 0:00.00-0:01.00"]
    wait_for_pixel(browser, there, lambda color: min(color) > 200)
    assert read_pixel(browser, *here) == ORANGE
    move(browser, *there)
    assert browser.run("return document.getElementById('map-tip').hidden")  # what is faint does not answer
    field.clear()
    field.send_keys("a.we")  # a path
    browser.wait("return document.getElementById('map-count').textContent === '2 of 5 clips'")
    browser.run("arguments[0].value = ''; arguments[0].dispatchEvent(new Event('input'))", field)
    browser.wait("return document.getElementById('map-found').hidden")
    buttons = browser.find("#map-legend button")
    assert [button.text.split("\n")[-1] for button in buttons] == ["2", "1", "1", "1"]
    buttons[3].click()
    assert buttons[3].get_attribute("aria-pressed") == "true" and buttons[3].text.startswith("unknown")
    assert browser.read("#map-count") == ["1 of 5 clips"]
    browser.run("const s = document.getElementById('map-color'); s.value = 1; s.dispatchEvent(new Event('change'))")
    assert browser.read("#map-legend button span:nth-child(2)") == ["1: juggling mostly", "2: no labels"]
    assert browser.read("#map-count") == [""]
    browser.check()


def test_a_clip_that_is_gone_is_said(page, folder, browser):
    open_map(browser, folder)
    browser.find("#map-find")[0].send_keys("gone")
    browser.wait("return document.getElementById('map-count').textContent === '1 of 5 clips'")
    browser.find("#map-found button")[0].click()
    browser.wait("return document.querySelector('#map-clip').textContent.includes('no longer exists')")
    assert browser.find("#map-clip video") == [] and "gone" in browser.read("#map-clip")[0]


def test_keys_and_the_wheel_move_the_map(page, folder, browser):
    open_map(browser, folder, scheme="dark", width=420, height=800)
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    x, y = find_place(browser, 0.5, 0.5)

    def is_at(place, color):
        wait_for_pixel(browser, place, lambda found: found == color)

    is_at((x, y), GRAY)  # unknown
    browser.run("document.getElementById('map-canvas').focus()")
    browser.press("ARROW_LEFT")
    is_at((x + 60, y), GRAY)
    is_at((x, y), PAPER)
    browser.press("0")
    is_at((x, y), GRAY)
    browser.press("+")  # about the middle: what stood at a corner stands half as far out again
    is_at(find_place(browser, 0, 1), PAPER)
    browser.press("-")
    is_at(find_place(browser, 0, 1), ORANGE)
    corner = find_place(browser, 0, 1)
    browser._call("Input.dispatchMouseEvent", type="mouseWheel", x=corner[0], y=corner[1], deltaX=0, deltaY=-200)
    is_at((x, y), PAPER)
    is_at(corner, ORANGE)  # what the pointer is on stays
    browser.find("[data-zoom=all]")[0].click()
    is_at((x, y), GRAY)
    browser.find("#map-pictures")[0].click()
    wait_for_pixel(browser, find_place(browser, 0, 1), lambda found: found != ORANGE)  # a picture stands there
    browser.check()

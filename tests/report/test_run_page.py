"""The page of a run in a real browser: what it says, what a click lists, what plays."""

import json
import re

import numpy as np
import pytest
from run_folders import make_predictions, write_metrics, write_run

from hiera_video.report.page import write_page
from hiera_video.report.run_files import read_run
from hiera_video.report.run_page import get_center_sec, make_bars, render_run_page

EVIL = "<b onclick='alert(1)'>\"x\"</b>"
# Column and row of a cell -> its place in the window.
FIND_PLACE = """
const canvas = document.querySelector('#plot-confusion .canvas').getBoundingClientRect();
const plot = Bokeh.documents.map((doc) => doc.get_model_by_name('confusion')).find(Boolean);
const { x_scale, y_scale } = Bokeh.index.find_one(plot).frame;
return [canvas.x + x_scale.compute(arguments[0]), canvas.y + y_scale.compute(arguments[1])];
"""
NAMES = ("archery", "bowling & <i>golf</i>", EVIL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, painted_video):
    """12 videos of 3 classes: of class 0 two are taken for class 1, and one failed."""
    folder = tmp_path_factory.mktemp("reported")
    videos = folder / "videos #1"
    videos.mkdir()
    source = painted_video("reported.webm", codec="libvpx-vp9", num_frames=50, fps=25).read_bytes()
    paths = [videos / f"clip {i}.webm" for i in range(12)]
    for path in paths[:-1]:
        path.write_bytes(source)
    labels = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    predicted = [1, 1, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    predictions = make_predictions(labels, predicted, num_classes=3, failed=[11])
    return write_run(folder / "run", paths, predictions, class_names=NAMES, goodput=0.9)


@pytest.fixture(scope="module")
def page(folder):
    write_page(folder / "report.html", render_run_page(read_run(folder), page_dir=folder))
    return folder / "report.html"


def test_the_page_says_what_the_run_did(page, browser):
    browser.open(page)
    tiles = dict(zip(browser.read(".tile dt"), browser.read(".tile dt + dd"), strict=True))
    assert tiles["Top-1"] == "75.00 %" and tiles["Videos tested"] == "12"
    notes = browser.read(".tile dd.soft")
    assert notes[0].startswith("95 %: ") and "1 undecodable, counted as wrong" in notes
    drawn = [plot.get_attribute("id") for plot in browser.find(".plot")]
    curves = ("loss", "accuracy", "lr", "grad-norm", "speed", "goodput", "waiting")
    assert drawn == [*(f"plot-curve-{name}" for name in curves), "plot-confusion", "plot-reliability"]
    rows = browser.read("#class-table tbody tr")
    assert rows[0].startswith("archery 4 50.0") and rows[0].endswith("bowling & <i>golf</i> (2)")
    assert rows[1].startswith(f"{EVIL} 4 75.0") and rows[2].startswith("bowling & <i>golf</i> 4 100.0")
    missing = page.parent.parent / "videos #1" / "clip 11.webm"
    assert browser.read("#failures-table tbody tr") == [f"{missing} video 11 is <b>broken</b> test"]
    browser.check()


def test_a_click_in_the_matrix_lists_its_clips_and_plays_one(page, browser):
    browser.open(page)
    browser.run("document.getElementById('plot-confusion').scrollIntoView()")
    order = browser.run("return JSON.parse(document.getElementById('order-data').textContent)")
    x, y = browser.run(FIND_PLACE, order.index(1), order.index(0))
    browser.click_at(x, y)
    browser.wait("return document.querySelectorAll('#cell-clips li').length === 2")
    assert browser.read("#cell-clips h3") == ["archery: 2 of 4 taken for bowling & <i>golf</i>"]
    assert browser.read("#cell-name") == browser.read("#cell-clips h3")
    assert sorted(browser.read("#cell-clips li button")) == ["clip 0.webm", "clip 1.webm"]
    browser.find("#cell-clips li button")[0].click()
    browser.wait("return document.querySelector('#cell-clips video')?.currentTime > 0.2")
    browser.check()


def test_names_and_numbers_in_tables_list_clips_too(page, browser):
    browser.open(page)
    (evil,) = [button for button in browser.find("#class-table [data-shows]") if button.text == EVIL]
    evil.click()
    assert browser.read("#cell-clips h3") == [f"{EVIL}: 1 of 4 wrong"]
    assert browser.read("#cell-clips li") == ["clip 11.webm failed"]
    assert browser.run("return document.activeElement.id") == "cell-clips"
    browser.find("#confusion-table [data-shows]")[0].click()
    assert browser.read("#cell-clips h3") == ["archery: 2 of 4 taken for bowling & <i>golf</i>"]
    browser.check()


def test_galleries_play_their_videos(page, browser):
    browser.open(page, scheme="dark", width=420)
    assert sorted(browser.read("#mistakes .name")) == ["clip 0.webm", "clip 1.webm"]
    assert browser.read("#mistakes .chip") == ["archery"] * 2
    assert browser.read("#mistakes .bars .right .bar-name") == ["archery"] * 2
    assert browser.read("#mistakes .bars .wrong .bar-name") == ["bowling & <i>golf</i>"] * 2
    assert len(browser.find("#uncertain .card")) == 11
    browser.run("document.querySelector('#mistakes video').play()")
    browser.wait("return document.querySelector('#mistakes video').currentTime > 0.2")
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    browser.check()


def test_the_matrix_of_400_classes_stays_small(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(400), 50)
    predicted = np.where(rng.random(20_000) < 0.5, labels, rng.integers(0, 400, 20_000))
    predictions = make_predictions(labels, predicted, num_classes=400)
    paths = [f"/data/val/class_{label:03d}/a_video_of_kinetics_{i:06d}.mp4" for i, label in enumerate(labels)]
    names = tuple(f"doing something {i}" for i in range(400))
    run = read_run(write_run(tmp_path, paths, predictions, class_names=names, num_epochs=1000))
    page = render_run_page(run, page_dir=tmp_path, num_shown=0)
    assert len(page.encode()) < 5e6
    assert page.count("doing something 399") >= 2


def test_runs_of_other_tasks_show_their_numbers(tmp_path):
    write_metrics(tmp_path / "metrics.jsonl", num_epochs=2, mask_loss=0.5)
    per_class = {"a <b>": {"box_ap": 3.0}}
    results = {"box_ap": 31.5, "mask_ap": 28.25, "num_pictures": 10, "per_class": per_class, "failed": []}
    (tmp_path / "test_results.json").write_text(json.dumps(results))
    page = render_run_page(read_run(tmp_path), page_dir=tmp_path)
    assert "31.50 %" in page and "28.25 %" in page and "a &lt;b&gt;" in page
    assert "mask (training)" in page and 'id="confusion"' not in page


def test_a_test_of_which_nothing_was_decoded_has_a_page(tmp_path):
    predictions = make_predictions([0, 1], [0, 1], num_classes=3, failed=[0, 1])
    run = read_run(write_run(tmp_path, ["a.mp4", "b.mp4"], predictions))
    page = render_run_page(run, page_dir=tmp_path)
    text = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    assert "0.00 %" in text and not re.search(r"\bnan\b", text) and "unknown, as no video was decoded" in text
    assert "video 1 is &lt;b&gt;broken&lt;/b&gt;" in text


def test_a_run_without_a_test_shows_its_best_validation(tmp_path):
    write_metrics(tmp_path / "metrics.jsonl", num_epochs=3)
    page = render_run_page(read_run(tmp_path), page_dir=tmp_path)
    assert "Top-1, validation" in page and "36.00 %" in page and 'id="classes"' not in page


@pytest.mark.parametrize(
    ("views", "sampling", "length"), [("1", "clip", 2.0), ("2", "clip", None), ("1", "segment", None)]
)
def test_a_test_of_one_view_saw_the_middle(views, sampling, length):
    config = {"DATA.NUM_FRAMES": "16", "DATA.SAMPLING_RATE": "4", "DATA.TARGET_FPS": "32"}
    found = get_center_sec({**config, "TEST.NUM_ENSEMBLE_VIEWS": views, "DATA.SAMPLING": sampling})
    assert found == length if length else np.isnan(found)
    assert np.isnan(get_center_sec({}))


def test_the_true_class_has_a_bar_wherever_it_ranks(tmp_path):
    probs = make_predictions([6], [0], num_classes=7)
    probs.probs[0] = probs.probs.new_tensor([0.4, 0.2, 0.15, 0.1, 0.08, 0.06, 0.01])
    clips = read_run(write_run(tmp_path, ["a.mp4"], probs)).clips
    bars = make_bars(clips, 0)
    assert [bar.name for bar in bars] == ["0", "1", "2", "3", "4", "6"]
    assert [bar.kind for bar in bars] == ["wrong", "", "", "", "", "right"] and bars[0].text == "40.0 %"


def test_widths_of_bars_are_shares(page):
    widths = [float(width) for width in re.findall(r'<span style="width: ([\d.]+)%">', page.read_text())]
    assert widths and all(0 <= width <= 100 for width in widths)

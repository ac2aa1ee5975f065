"""Two runs on a page, in a real browser."""

import pytest
from run_folders import make_predictions, write_metrics, write_run

from hiera_video.report.compare_page import render_compare_page
from hiera_video.report.page import write_page
from hiera_video.report.run_files import read_run

LABELS = [0] * 6 + [1] * 6
FIRST = [0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 1]  # 8 right
SECOND = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0]  # 11 right: four won, one lost


@pytest.fixture(scope="module")
def runs(tmp_path_factory, painted_video):
    folder = tmp_path_factory.mktemp("compared")
    source = painted_video("reported.webm", codec="libvpx-vp9", num_frames=50, fps=25).read_bytes()
    paths = [folder / f"{i}.webm" for i in range(12)]
    for path in paths:
        path.write_bytes(source)
    for name, predicted, config in (("a", FIRST, "X: {Y: 1, Z: 5}"), ("b<i>", SECOND, "X: {Y: 2, Z: 5}")):
        write_run(folder / name, paths, make_predictions(LABELS, predicted, num_classes=2), config=config)
    return [read_run(folder / name) for name in ("a", "b<i>")]


def test_two_runs(runs, browser, tmp_path):
    write_page(tmp_path / "a.html", render_compare_page(runs, page_dir=tmp_path))
    browser.open(tmp_path / "a.html")
    assert browser.read("#key-table tbody tr") == ["X.Y 1 2"]
    tiles = dict(zip(browser.read(".tile dt"), browser.read(".tile dt + dd"), strict=True))
    assert tiles["Difference of top-1"] == "+25.00 points"
    assert tiles["McNemar's exact test"] == "p = 0.375"  # 2 * (C(5,0) + C(5,1)) / 32
    assert (tiles["Only b<i> is right"], tiles["Only a is right"], tiles["Both are right"]) == ("4", "1", "7")
    assert "no clear difference" in browser.read(".tile dd.soft")
    names = [
        sorted(name.text for name in group.find_elements("css selector", ".name"))
        for group in browser.find("#pair-1 .grid")
    ]
    assert names == [["4.webm", "5.webm", "6.webm", "7.webm"], ["11.webm"]]
    assert browser.read("#class-table-1 tbody tr") == ["0 6 66.7 100.0 +33.3", "1 6 66.7 83.3 +16.7"]
    legends = browser.run(
        "return Bokeh.documents.flatMap((doc) => [...doc.all_models]).filter((model) => model.type === 'Legend')"
        ".map((model) => model.items.map((item) => item.label.value))"
    )
    assert ["a", "b<i>"] in legends
    browser.run("document.querySelector('#pair-1 video').play()")
    browser.wait("return document.querySelector('#pair-1 video').currentTime > 0.2")
    browser.check()


@pytest.mark.parametrize(
    ("num_lost", "num_won", "p_value", "verdict"),
    [(0, 8, "0.008", "b is better"), (8, 0, "0.008", "a is better"), (1, 7, "0.070", "no clear difference")],
)
def test_the_verdict_is_that_of_the_test_it_stands_under(tmp_path, num_lost, num_won, p_value, verdict):
    """Of 1 lost and 7 won among 100 the interval, an approximation, does not hold 0; p is above 0.05 all the same."""
    right = {"a": [True] * num_lost + [False] * num_won, "b": [False] * num_lost + [True] * num_won}
    for name, changed in right.items():
        predicted = [0 if is_right else 1 for is_right in (*changed, *[True] * (100 - len(changed)))]
        predictions = make_predictions([0] * 100, predicted, num_classes=2)
        write_run(tmp_path / name, [f"{i}.mp4" for i in range(100)], predictions)
    page = render_compare_page([read_run(tmp_path / name) for name in "ab"], page_dir=tmp_path, num_shown=0)
    assert f'p = {p_value}</dd><dd class="soft">{verdict}</dd>' in page


def test_runs_that_share_no_video_are_not_compared(runs, tmp_path):
    other = make_predictions([0, 1], [0, 1], num_classes=2)
    third = read_run(write_run(tmp_path / "c", ["x.mp4", "y.mp4"], other))
    page = render_compare_page([*runs, third], page_dir=tmp_path)
    assert "a and c have no tested video in common" in page
    assert 'id="pair-1"' in page and 'id="pair-2"' not in page


def test_runs_without_a_test_have_curves_alone(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        write_metrics(tmp_path / name / "metrics.jsonl", num_epochs=2)
    page = render_compare_page([read_run(tmp_path / name) for name in "ab"], page_dir=tmp_path)
    assert "plot-curve-loss" in page and "plot-reliability" not in page and "McNemar" not in page

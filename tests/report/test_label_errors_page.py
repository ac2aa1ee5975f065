"""The page of labels that are probably wrong: numbers, escaped names, players in a real browser."""

import numpy as np
import pytest
from video_factory import write_video

from hiera_video.embeddings.label_errors import Evidence, Suspects
from hiera_video.report.label_errors_page import render_label_errors_page
from hiera_video.report.page import write_page

EVIL = "<b>&'\"</b>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("errors")
    for name in "abc":
        write_video(folder / f"{name}.webm", codec="libvpx-vp9", num_frames=25)
    paths = [str(folder / f"{name}.webm") for name in ("a", "b", "c", "gone")]
    shares = np.array([[0.1, 0.9, 0.0], [0.0, 1.0, 0.0], [0.2, 0.6, 0.2], [0.5, 0.5, 0.0]])
    evidence = Evidence(
        shares, np.array([[1, 2], [0, 3], [1, 0], [2, 1]]), np.full((4, 2), 0.5), shares[:, [0, 1, 2]] * 0.5
    )
    suspects = Suspects(np.array([0, 2]), np.array([1, 1]), np.array([-0.6, -0.3]), np.array([True, False]))
    page = render_label_errors_page(
        paths,
        np.array([0, 1, 2, 0]),
        ["up", EVIL, "left"],
        suspects,
        evidence,
        title=f"errors {EVIL}",
        num_found=1234,
        page_dir=folder,
    )
    write_page(folder / "errors.html", page)
    return folder


def test_each_suspect_is_shown_with_what_speaks_against_it(folder, browser):
    browser.open(folder / "errors.html")
    assert browser.read("h1") == [f"errors {EVIL}"] and "2 of 1,234 are shown" in browser.read(".lead")[0]
    assert browser.read(".score") == ["-0.600", "-0.300"]
    assert browser.read(".labels") == [f"up → {EVIL}", f"left → {EVIL}"]
    first, second = browser.find("article")
    bars = [item.text.split("\n") for item in first.find_elements("css selector", ".bars li")]
    assert bars == [[EVIL, "67.5 %"], ["up", "7.5 %"], ["left", "0.0 %"]]
    kinds = [item.get_attribute("class") for item in second.find_elements("css selector", ".bars li")]
    assert kinds == ["right", "", "wrong"]  # of equal ones the lower class first
    assert "10.0 % of the neighbors' votes, 5.0 % by the classifier" in first.text
    neighbors = first.find_elements("css selector", ".neighbors li")
    assert [item.text for item in neighbors] == [EVIL, "left"]
    assert [link.get_attribute("href").rpartition("/")[2] for link in browser.find(".neighbors a")][:2] == [
        "b.webm",
        "c.webm",
    ]
    browser.run("document.querySelector('article video').play()")
    browser.wait("return document.querySelector('article video').currentTime > 0.2")
    browser.check()


def test_the_page_fits_a_phone_in_the_dark(folder, browser):
    browser.open(folder / "errors.html", scheme="dark", width=400)
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    browser.check()


def test_nothing_found_is_said(tmp_path):
    nothing = Suspects(*(np.empty(0, kind) for kind in (np.int64, np.int64, float, bool)))
    evidence = Evidence(np.eye(2), np.array([[1], [0]]), np.ones((2, 1)), np.eye(2))
    page = render_label_errors_page(["a", "b"], np.arange(2), "xy", nothing, evidence, title="t", page_dir=tmp_path)
    assert "speak against its label." in page and "<article" not in page


def test_a_neighbor_that_no_browser_opens_has_no_link(tmp_path):
    evidence = Evidence(np.eye(2), np.array([[1], [0]]), np.ones((2, 1)), np.eye(2))
    suspects = Suspects(np.array([0]), np.array([1]), np.array([-0.5]), np.array([True]))
    options = {"title": "errors", "page_dir": tmp_path}
    for path, has_link in (("shards/0.tar#b.mp4", False), ("b.mp4", True)):
        paths = [str(tmp_path / "a.mp4"), str(tmp_path / path)]
        page = render_label_errors_page(paths, np.array([0, 1]), ["up", "down"], suspects, evidence, **options)
        assert ("<a href=" in page.partition('class="neighbors"')[2]) == has_link

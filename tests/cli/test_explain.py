"""The command writes a film, a page and the scores, and says what it found."""

import json

import av
import pytest
from tiny_checkpoint import write_tiny_checkpoint

from hiera_video.cli import explain as tool

LARGE = ("DATA.TEST_CROP_SIZE", "96", "DATA.TRAIN_JITTER_SCALES", "[96,96]")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pyth")


def test_film_page_and_scores_are_written(checkpoint, painted_video, tmp_path, capsys, browser):
    video = str(painted_video("to_explain.mp4", num_frames=60))
    words = [video, "--checkpoint", checkpoint, "--output-dir", str(tmp_path / "new"), "--max-windows", "2"]
    assert tool.main([*words, "--class", "run", "--num-masks", "30", *LARGE]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"{video}: ")
    assert printed[0].endswith("run, mean of 8 windows, 2 of them explained, spread evenly")
    assert printed[1].split()[0] == "0:00.00-0:00.32" and "evidence" in printed[1]
    assert printed[-1] == f"written: {tmp_path / 'new' / 'explain.html'}, explain.mp4, explain.json, explain.npz"
    content = json.loads((tmp_path / "new" / "explain.json").read_text())
    assert content["class"] == "run" and content["grid"] == [2, 3, 3] and len(content["windows"]) == 2
    with av.open(str(tmp_path / "new" / "explain.mp4")) as film:
        assert sum(1 for _ in film.decode(video=0)) == 2 * 4 + 1
    browser.open(tmp_path / "new" / "explain.html")
    assert len(browser.find("#window-table tbody tr")) == 2
    assert "A mask unit is 2 frames of 32 x 32 px, a window has 2 x 3 x 3" in browser.read("header")[0]
    browser.wait("return document.querySelector('video.film').readyState >= 1")
    browser.check()


def test_a_coarse_map_and_mistakes_are_explained(checkpoint, painted_video, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    video = str(painted_video("to_explain.mp4", num_frames=60))
    assert tool.main([video, "--checkpoint", checkpoint, "--max-windows", "1"]) == 0
    assert "The map can only tell times, not places" in capsys.readouterr().out
    assert (tmp_path / "output" / "explain" / "to_explain" / "explain.html").is_file()
    assert tool.main([video, "--checkpoint", checkpoint, "--class", "jumping"]) == 1
    assert "there is no class 'jumping'" in capsys.readouterr().err
    assert tool.main([video, "--checkpoint", checkpoint, "--max-windows", "0"]) == 1
    assert "max_windows is 0" in capsys.readouterr().err

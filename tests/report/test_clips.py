"""Addresses, times and thumbnails of clips; what pages make of them is tested with the search page."""

import base64
import math
import os

import pytest
from PIL import Image
from video_factory import read_number

from hiera_video.report import clips as module
from hiera_video.report.clips import ShownClip, format_span, load_cards, make_url
from hiera_video.video import VideoReader


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("https://host/a%20b.mp4?x=1&y=2", "https://host/a%20b.mp4?x=1&y=2"),
        ("http://host/a.mp4", "http://host/a.mp4"),
        ("s3://bucket/a.mp4", None),
        ("javascript://%0aalert(1)/a.mp4", None),
        ("/data/page/javascript:alert(1).mp4", "javascript%3Aalert%281%29.mp4"),
        ("/data/page/sub/a.mp4", "sub/a.mp4"),
        ("file:///data/page/a.mp4", "a.mp4"),
        ("/data/b.mp4", "../b.mp4"),
        ("/data/page/é\udcff.mp4", "%C3%A9%FF.mp4"),
    ],
)
def test_where_a_page_finds_a_video(path, url):
    assert make_url(path, "/data/page") == url


def test_relative_paths_are_those_of_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert make_url("videos/a.mp4", "pages") == "../videos/a.mp4"
    assert make_url("videos/a.mp4", tmp_path) == "work/videos/a.mp4"


def test_another_drive_is_reached_by_an_absolute_address(monkeypatch):
    def refuse(path, start):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", refuse)
    assert make_url("/videos/a b.mp4", "/page") == "file:///videos/a%20b.mp4"


def test_the_picture_is_the_middle_of_the_clip(painted_video):
    with VideoReader(painted_video("middle.mp4", num_frames=100)) as reader:
        for start, end, frame in (
            (math.nan, math.nan, 50),
            (0, 0.04, 0),
            (1, 1.2, 27),
            (3.9, 99, 99),
            (3.5, math.nan, 93),
        ):
            assert module._find_middle(reader, ShownClip("", start, end)) == frame


@pytest.mark.parametrize(
    ("span", "text"),
    [
        ((12, 14.13), "0:12.00-0:14.13"),
        ((59.999, 3661.5), "1:00.00-1:01:01.50"),
        ((math.nan, 2), "0:00.00-0:02.00"),
        ((2, math.nan), "0:02.00-end"),
        ((math.nan, math.nan), ""),
    ],
)
def test_times_are_written_as_clocks(span, text):
    assert format_span(*span) == text


def test_a_clip_in_the_middle_gets_its_times_from_the_video(painted_video, tmp_path):
    path = str(painted_video("middle.mp4", num_frames=100))  # 4 s
    cards = load_cards([ShownClip(path, center_sec=1.0), ShownClip(path, center_sec=4.0), ShownClip(path)], tmp_path)
    assert [card.source.partition("#")[2] for card in cards] == ["t=1.50,2.50", "", ""]
    assert [card.chips for card in cards] == [["0:01.50-0:02.50"], [], []]


def test_what_browsers_do_not_play_is_copied_on_request(painted_video, tmp_path):
    avi = str(painted_video("copied.avi", codec="mpeg4", num_frames=100, fps=25))
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(4):
        Image.new("RGB", (63, 33), (60 * number, 0, 0)).save(frames / f"{number:03d}.png")
    still = tmp_path / "still"
    still.mkdir()
    Image.new("RGB", (64, 64)).save(still / "000.png")
    whole = str(painted_video("middle.mp4", num_frames=100))
    clips = [ShownClip(avi, 1.0, 3.0), ShownClip(str(frames)), ShownClip(str(still)), ShownClip(whole)]
    assert [card.source for card in load_cards(clips, tmp_path)][:3] == ["", "", ""]
    cards = load_cards(clips, tmp_path, with_copies=True)
    assert [card.source.partition(",")[0] for card in cards[:3]] == ["data:video/mp4;base64"] * 2 + [""]
    assert cards[0].note == "Browsers do not play .avi. This is a small copy of its beginning." and cards[0].link
    assert cards[2].note == "Pictures, so there is nothing to play." and cards[3].source.endswith("middle.mp4")
    copies = []
    for card in cards[:2]:
        (tmp_path / "copy.mp4").write_bytes(base64.b64decode(card.source.partition(",")[2]))
        with VideoReader(tmp_path / "copy.mp4") as reader:
            copies.append(reader.get_frames(range(len(reader))).numpy())
    # [1 s, 3 s) of 25 frames a second, at 10 a second
    assert [read_number(frame) for frame in copies[0]] == [int(25 * (1 + i / 10) + 1e-6) for i in range(20)]
    assert copies[1].shape == (4, 32, 64, 3)

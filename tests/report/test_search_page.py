"""The page is parsed as a browser would, and nothing from the data becomes part of its structure."""

import base64
import io
import os
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from video_factory import cut_file, read_number, write_video

from hiera_video.report import clips as module
from hiera_video.report.clips import ShownClip
from hiera_video.report.page import write_page
from hiera_video.report.search_page import render_pairs_page, render_search_page
from hiera_video.video import VideoReader

EVIL = '"><script>alert(1)</script>.mp4'
VOID = ("meta", "img", "br", "link", "input")
ATTRIBUTES = {"class", "id", "src", "poster", "controls", "playsinline", "preload", "lang", "charset", "content", "alt"}
ATTRIBUTES |= {"name", "http-equiv", "tabindex", "href", "aria-label", "aria-labelledby"}


class Page(HTMLParser):
    """Elements of a page: (tag, attributes), the text within each tag, and a check that tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self.open = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("class")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        self.texts.append((*self.open[-1], data) if self.open else (None, None, data))

    def find(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def read(self, kind):
        return [text for _, name, text in self.texts if name == kind]


def read_links(page):
    return [link["href"] for link in page.find("a") if link["href"] != "#content"]


def decode_picture(uri):
    assert uri.startswith("data:image/jpeg;base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert picture.format == "JPEG"
    return np.asarray(picture)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.mp4", num_frames=100)
    write_video(folder / "b #1 100%?.mp4", num_frames=10)
    return folder


def make_search(clips, page_dir, **options):
    query, *found = clips
    results = [(clip, 0.9 - 0.1 * i) for i, clip in enumerate(found)]
    return Page(render_search_page(query, results, title="Found", page_dir=page_dir, **options))


def test_a_clip_has_its_picture_its_time_and_a_player_of_just_that_time(folder):
    clip = ShownClip(str(folder / "a.mp4"), 1.2, 2.0, "juggling", 7)
    page = make_search([clip, clip, ShownClip(str(folder / "b #1 100%?.mp4"))], folder / "pages")
    players = page.find("video")
    assert [unquote(player["src"]) for player in players] == [
        "../a.mp4#t=1.20,2.00",
        "../a.mp4#t=1.20,2.00",
        "../b #1 100%?.mp4",
    ]
    assert players[2]["src"] == "../b%20%231%20100%25%3F.mp4"
    assert all("controls" in player and player["preload"] == "none" for player in players)
    assert [read_number(decode_picture(player["poster"])) for player in players] == [40, 40, 5]
    assert page.read("score") == ["0.9000", "0.8000"]
    assert page.read("chip") == ["juggling", "0:01.20-0:02.00", "row 7"] * 2
    assert page.read("name") == ["a.mp4", "a.mp4", "b #1 100%?.mp4"]
    assert page.read("path")[0] == str(folder / "a.mp4")


def test_the_players_addresses_lead_to_the_files(folder, tmp_path):
    page = make_search([ShownClip(str(folder / name)) for name in os.listdir(folder)], tmp_path)
    for player in page.find("video"):
        assert (tmp_path / unquote(player["src"])).resolve().parent == folder.resolve()
        assert os.path.isfile(tmp_path / unquote(player["src"]))


@pytest.mark.parametrize(
    "name", [EVIL, "' onerror='alert(1)' x='.mp4", "&lt;b&gt;&amp;.mp4", "a\nb\t<!--.mp4", "-->]]>.mp4"]
)
def test_names_from_the_data_stay_text(tmp_path, painted_video, name):
    folder = tmp_path / "<b>videos"
    path = folder / name  # a "/" in it makes a folder of the first part
    path.parent.mkdir(parents=True)
    path.write_bytes(painted_video("a.mp4").read_bytes())
    clip = ShownClip(str(path), 0.1, 0.5, f"<b>{name}</b>", 3)
    missing = ShownClip(f"{path}.gone{name}", 0.1, 0.5, name)
    for page in (
        make_search([clip, clip, missing], tmp_path, facts=[name]),
        Page(render_pairs_page([(clip, missing, 0.5)], title=name, facts=[name], page_dir=tmp_path)),
    ):
        assert not {tag for tag, _ in page.elements} & {"b", "iframe", "object"} and len(page.find("script")) == 1
        assert {name for _, attributes in page.elements for name in attributes} <= ATTRIBUTES
        assert f"<b>{name}</b>" in page.read("chip") and name in page.read("soft")
        assert page.read("path").count(str(path)) >= 1 and path.name in page.read("name")
        players = page.find("video")
        assert players and all(
            os.path.samefile(tmp_path / unquote(player["src"].partition("#")[0]), path) for player in players
        )


def test_nothing_is_loaded_from_elsewhere(folder):
    page = make_search([ShownClip(str(folder / "a.mp4"))] * 2, folder)
    assert not page.find("link")
    for tag in ("img", "video"):
        for attributes in page.find(tag):
            assert attributes.get("poster", attributes["src"]).startswith("data:")


def test_what_browsers_do_not_play_has_a_note_instead_of_a_player(tmp_path):
    mpeg4 = {"codec": "mpeg4", "num_frames": 8, "fps": 25}
    (tmp_path / "frames").mkdir()
    for i in range(3):
        Image.new("RGB", (32, 32)).save(tmp_path / "frames" / f"{i:03d}.png")
    paths = [
        write_video(tmp_path / "a.avi", **mpeg4),
        write_video(tmp_path / "b.mkv", num_frames=8),
        write_video(tmp_path / "c.mp4", **mpeg4),
        tmp_path / "frames",
        f"{tmp_path}/frames/%03d.png#0-2",
    ]
    page = make_search([ShownClip(str(path)) for path in paths], tmp_path)
    assert page.find("video") == [] and len(page.find("img")) == 5
    assert [text for text in page.read("soft") if text.startswith(("Browsers", "Pictures"))] == [
        "Browsers do not play .avi. Open the file ",
        "Browsers do not play .mkv. Open the file ",
        "Browsers do not play mpeg4 video. Open the file ",
        "Pictures, so there is nothing to play.",
        "Pictures, so there is nothing to play.",
    ]
    assert read_links(page) == ["a.avi", "b.mkv", "c.mp4"]
    for image in page.find("img"):
        decode_picture(image["src"])


def test_remote_videos(monkeypatch, painted_video):
    local = str(painted_video("a.mp4"))
    monkeypatch.setattr(module, "VideoReader", lambda path, **options: VideoReader(local, **options))
    clips = [
        ShownClip("https://host/a b.mp4?token=1&x=2#t=5", 0.2, 0.4),
        ShownClip("https://host/video", 0.2, 0.4),
        ShownClip("https://host/a.avi?x=.mp4", 0.2, 0.4),
        ShownClip("s3://bucket/a.mp4", 0.2, 0.4),
        ShownClip("http://[broken/a.mp4", 0.2),
    ]
    page = make_search(clips, "/page")
    assert [player["src"] for player in page.find("video")] == [
        "https://host/a b.mp4?token=1&x=2#t=0.20,0.40",
        "https://host/video#t=0.20,0.40",
        "http://[broken/a.mp4#t=0.20",
    ]
    assert read_links(page) == ["https://host/a.avi?x=.mp4"]
    assert "Browsers do not open s3://." in page.read("soft")
    assert page.read("name") == ["a b.mp4", "video", "a.avi", "a.mp4", "a.mp4"]


def test_remote_addresses_stay_within_their_attributes(monkeypatch, painted_video):
    local = str(painted_video("a.mp4"))
    monkeypatch.setattr(module, "VideoReader", lambda path, **options: VideoReader(local, **options))
    for suffix in ("mp4", "avi"):
        url = f"https://host/\"><script>alert(1)</script>' onplay='alert(1)' &amp;.{suffix}"
        page = make_search([ShownClip(url)], "/page")
        assert len(page.find("script")) == 1  # the page's own
        (address,) = [*(player["src"] for player in page.find("video")), *read_links(page)]
        assert address == url and page.read("path") == [url]


def test_videos_that_cannot_be_shown_get_a_placeholder(tmp_path, painted_video):
    whole = painted_video("a.mp4")
    cut_file(whole, tmp_path / "cut.mp4", num_bytes=200)
    (tmp_path / "page.mp4").write_text("<html>404</html>")
    (tmp_path / "empty").mkdir()
    names = ["gone.mp4", "cut.mp4", "page.mp4", "empty"]
    page = make_search([ShownClip(str(whole)), *(ShownClip(str(tmp_path / name), 0, 1) for name in names)], tmp_path)
    assert page.read("none") == ["This video no longer exists."] + ["This video cannot be read."] * 3
    assert len(page.find("video")) == 1 and read_links(page) == []
    assert page.read("name")[1:] == names and page.read("chip") == ["0:00.00-0:01.00"] * 4


def test_a_player_counts_from_zero_where_the_video_starts_later(tmp_path):
    write_video(tmp_path / "a.webm", codec="libvpx-vp9", num_frames=50, pts=[8000 + 40 * i for i in range(50)])
    page = make_search([ShownClip(str(tmp_path / "a.webm"), 1.0, 1.5), ShownClip(str(tmp_path / "a.webm"))], tmp_path)
    assert [player["src"] for player in page.find("video")] == ["a.webm#t=9.00,9.50", "a.webm"]
    assert read_number(decode_picture(page.find("video")[0]["poster"])) == 31
    assert "0:01.00-0:01.50" in page.read("chip")


def test_each_video_is_opened_once(folder, monkeypatch):
    opened = []

    def count(path, **options):
        opened.append(path)
        return VideoReader(path, **options)

    monkeypatch.setattr(module, "VideoReader", count)
    make_search([ShownClip(str(folder / "a.mp4"), i / 10, i / 10 + 1) for i in range(5)], folder)
    assert len(opened) == 1


def test_large_frames_make_small_pictures(tmp_path):
    write_video(tmp_path / "a.mp4", num_frames=2, width=1280, height=720)
    write_video(tmp_path / "b.mp4", num_frames=2, width=360, height=640)
    page = make_search([ShownClip(str(tmp_path / "a.mp4")), ShownClip(str(tmp_path / "b.mp4"))], tmp_path)
    assert [decode_picture(player["poster"]).shape for player in page.find("video")] == [(216, 384, 3), (288, 162, 3)]


def test_pairs_stand_side_by_side(folder):
    a, b = (ShownClip(str(folder / name), 0.0, 0.4, row=row) for row, name in enumerate(("a.mp4", "b #1 100%?.mp4")))
    page = Page(render_pairs_page([(a, b, 0.98765), (b, a, 0.5)], title="Pairs", page_dir=folder))
    assert page.read("score") == ["0.9877", "0.5000"]
    assert page.read("name") == ["a.mp4", "b #1 100%?.mp4", "b #1 100%?.mp4", "a.mp4"]
    assert len(page.find("section")) == 2 and len(page.find("video")) == 4


def test_a_page_says_that_nothing_was_found(folder):
    assert "Nothing was found." in render_search_page(ShownClip(str(folder / "a.mp4")), [], title="", page_dir=folder)
    assert "No pairs were found." in render_pairs_page([], title="", page_dir=folder)


def test_a_name_that_is_no_text_is_written(tmp_path):
    page = render_search_page(ShownClip("/gone/\udcff.mp4"), [], title="x", page_dir=tmp_path)
    write_page(tmp_path / "new" / "page.html", page)
    assert "/gone/?.mp4" in Page((tmp_path / "new" / "page.html").read_text()).read("path")


def test_real_videos(shared_videos, tmp_path):
    paths = sorted(path for path in shared_videos.iterdir() if path.suffix != ".md")
    page = make_search([ShownClip(str(path), 0.1, 0.5) for path in paths], tmp_path)
    assert page.read("none") == []
    played = {Path(unquote(player["src"].partition("#")[0])).name for player in page.find("video")}
    assert {"arm_wrestling_340x256.mp4", "testsrc2_vp9.webm"} <= played
    assert not played & {
        "dog.mp4",
        "goat.mp4",
        "apply_eye_makeup_320x240.avi",
        "sign_book_640x480.mkv",
        "av1_video.mkv",
    }

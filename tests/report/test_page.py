"""What all pages share: the policy, escaping, tables and bars, with a look at them in a real browser."""

import base64
import hashlib
import io
import re

import jinja2
import numpy as np
import pytest
from markupsafe import escape
from PIL import Image

from hiera_video.report import page as module
from hiera_video.report.clips import ShownClip, load_cards
from hiera_video.report.page import (
    Bar,
    Cell,
    Column,
    Row,
    Table,
    Tile,
    make_data_uri,
    make_number,
    make_text,
    render_page,
    write_page,
)
from hiera_video.report.plots import make_figure, make_plot

EVIL = "</script><script>throw 1</script><b>\"' onload=throw 1"
TEMPLATE = """
{% extends "base.html" %}{% import "macros.html" as parts %}
{% block content %}
{% call parts.section("numbers", "Numbers") %}{{ parts.tiles(tiles) }}{{ parts.table(table, filter=true) }}{% endcall %}
{{ parts.bars(bars) }}{% for plot in plots_shown %}{{ parts.plot(plot) }}{% endfor %}
{% for card in cards %}{{ parts.clip(card) }}{% endfor %}
{% endblock %}
"""


@pytest.fixture
def render(monkeypatch):
    """Renders a page that has one of each part."""
    folder = module._TEMPLATES
    loader = jinja2.ChoiceLoader([jinja2.DictLoader({"all.html": TEMPLATE}), jinja2.FileSystemLoader(folder)])
    environment = module._make_environment().overlay(loader=loader)
    monkeypatch.setattr(module, "_make_environment", lambda: environment)

    def render(text="word", cards=(), plots=()):
        rows = [
            Row([make_text("b"), make_number(2.0), Cell("", "")]),
            Row([make_text("a"), make_number(10.0), make_text("x")]),
            Row([make_text(text), make_number(None), make_text("y")]),
            Row([make_text("c"), make_number(-1.5), make_text("z")]),
        ]
        return render_page(
            "all.html",
            title=text,
            facts=[text],
            sections=[("numbers", text)],
            plots=plots,
            plots_shown=plots,
            tiles=[Tile(text, text, text)],
            table=Table("t", text, [Column(text), Column("n", is_number=True), Column("m")], rows),
            bars=[Bar(text, 0.25, text, "right")],
            cards=cards,
        )

    return render


def make_curve(text):
    shown = make_figure(text, x_label=text, y_label=text, hover=[(text, "@y")])
    shown.line([0, 1, 2], [1.0, float("nan"), 3.0], legend_label=text)
    return make_plot("curve", shown, label=text)


def test_the_policy_names_each_script_of_the_page_and_no_other(render):
    page = render(plots=[make_curve("a")])
    policy = re.search('Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#39;", "'")
    scripts = re.findall("<script>(.*?)</script>", page, flags=re.DOTALL)
    digests = {f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts}
    assert len(scripts) == 3 and set(re.findall("'sha256-[^']*'", policy)) == digests
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe-eval" not in policy
    assert "bokeh" not in render().lower() and len(render()) < 30_000


def test_all_text_is_escaped(render):
    page = render(EVIL, plots=[make_curve(EVIL)])
    assert EVIL not in page and page.count(str(escape(EVIL))) >= 10
    assert page.count("</script>") == 4  # Bokeh, the plot, two of ours


def test_styles_and_scripts_name_nothing_outside():
    for path in module._TEMPLATES.iterdir():
        assert not re.search(r"https?:|url\(|@import|\beval\(|new Function|innerHTML", path.read_text()), path.name


def test_a_value_that_a_template_lacks_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="query"):
        render_page("search.html", title="a")


def test_cells_without_a_number_are_empty():
    assert make_number(float("nan")) == make_number(None) == Cell("", "")
    assert make_number(12.345, "{:.1f} %") == Cell("12.3 %", 12.345)
    assert make_data_uri(b"a", "text/plain") == "data:text/plain;base64,YQ=="


def test_a_page_is_written_whole_and_names_that_are_no_text_do_not_stop_it(tmp_path):
    write_page(tmp_path / "new" / "page.html", "é\udcff")
    assert (tmp_path / "new" / "page.html").read_bytes() == "é?".encode()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


def test_tables_sort_by_mouse_and_keyboard_and_say_so(render, browser, tmp_path):
    write_page(tmp_path / "a.html", render())
    browser.open(tmp_path / "a.html")
    first, second, third = browser.find("#t thead button")

    def read():
        order = [heading.get_attribute("aria-sort") for heading in browser.find("#t thead th")]
        return " ".join(row.split()[0] for row in browser.read("#t tbody tr")), order

    second.click()  # the largest first, what has no number last
    assert read() == ("a b c word", ["none", "descending", "none"])
    browser.press("ENTER")  # the button has the focus
    assert read() == ("c b a word", ["none", "ascending", "none"])
    first.click()
    assert read() == ("a b c word", ["ascending", "none", "none"])
    browser.press("SPACE")
    assert read() == ("word c b a", ["descending", "none", "none"])
    third.click()
    assert read()[0] == "a word c b"
    browser.find("input[type=search]")[0].send_keys("x")
    assert browser.read("#t tbody tr:not([hidden])") == ["a 10.0 x"] and browser.read("[data-count]") == ["1 of 4"]
    browser.check()


def test_a_player_plays_its_time_and_stops(render, browser, tmp_path, painted_video):
    # WebM, which each build of Chromium plays.
    video = painted_video("played.webm", codec="libvpx-vp9", num_frames=150, fps=25)
    clips = [ShownClip(str(video), 0.4, 0.8), ShownClip(str(video), 1.2, 1.6)]
    write_page(tmp_path / "a.html", render(cards=load_cards(clips, tmp_path)))
    browser.open(tmp_path / "a.html")
    for _ in range(2):  # played again it starts again
        browser.run("document.querySelector('video').play()")
        browser.wait("return document.querySelector('video').currentTime > 0.5")
        browser.wait("return document.querySelector('video').paused")
        # Of six seconds; on a busy machine it stops a little late.
        assert 0.75 < browser.run("return document.querySelector('video').currentTime") < 5
    for number, start_sec in enumerate((0.4, 1.2)):
        browser.run(f"document.querySelectorAll('video')[{number}].play()")
        browser.wait(f"return document.querySelectorAll('video')[{number}].currentTime > {start_sec} + 0.1")
    assert browser.run("return document.querySelector('video').paused")  # one at a time
    browser.check()


def test_a_copy_inside_the_page_plays(render, browser, tmp_path, painted_video):
    video = painted_video("copied.avi", codec="mpeg4", num_frames=100, fps=25)
    write_page(tmp_path / "a.html", render(cards=load_cards([ShownClip(str(video))], tmp_path, with_copies=True)))
    browser.open(tmp_path / "a.html")
    if not browser.run("return document.createElement('video').canPlayType('video/mp4; codecs=\"avc1.42E01E\"')"):
        pytest.skip("this browser was built without H.264")
    browser.run("document.querySelector('video').play()")
    browser.wait("return document.querySelector('video').currentTime > 0.2")
    assert browser.run("return document.querySelector('video').currentSrc").startswith("data:video/mp4")
    browser.check()


def test_plots_are_drawn_in_the_colors_of_the_page(render, browser, tmp_path):
    write_page(tmp_path / "a.html", render(plots=[make_curve("loss")]))
    read = "return [...Bokeh.documents[0].all_models].find((model) => model.type === 'Title').text_color"
    for scheme, ink in (("light", "#1d2330"), ("dark", "#e8ebf0")):
        browser.open(tmp_path / "a.html", scheme=scheme)
        assert browser.run(read) == ink
    browser.set_look(scheme="light")  # while the page is open
    browser.wait(f"{read} === '#1d2330'")
    assert browser.run("return document.querySelector('#plot-curve .canvas').firstChild.shadowRoot !== null")
    browser.check()


def test_printers_get_pictures_of_plots_in_the_colors_of_paper(render, browser, tmp_path):
    write_page(tmp_path / "a.html", render(plots=[make_curve("loss")]))
    browser.open(tmp_path / "a.html", scheme="dark")
    browser.run("window.addEventListener('afterprint', () => { window.wasPrinted = true })")
    browser.run("dispatchEvent(new Event('beforeprint'))")
    (picture,) = browser.find(".plot img.on-paper")
    assert picture.get_attribute("alt") == "loss" and not picture.is_displayed()  # on the screen
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.get_attribute("src").partition(",")[2]))))
    is_ink = pixels[..., 3] > 128
    assert is_ink.any() and pixels[is_ink].min() == 0  # letters are black, where they were nearly white
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert browser.find(".on-paper") == []
    browser.save_print(tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    browser.wait("return window.wasPrinted && document.querySelector('.on-paper') === null")
    browser.check()


def test_the_browser_runs_no_script_from_the_data(render, browser, tmp_path):
    write_page(tmp_path / "a.html", render(EVIL, plots=[make_curve(EVIL)]))
    browser.open(tmp_path / "a.html")
    assert browser.read("h1") == [EVIL]
    browser.check()


def test_a_script_that_was_slipped_in_is_refused_and_the_check_sees_it(render, browser, tmp_path):
    write_page(tmp_path / "a.html", render().replace("</main>", "<script>window.evil = 1</script></main>"))
    browser.open(tmp_path / "a.html")
    assert browser.run("return window.evil === undefined")
    with pytest.raises(AssertionError):
        browser.check()


def test_the_way_to_the_content_is_the_first_stop_of_the_keyboard(render, browser, tmp_path):
    write_page(tmp_path / "a.html", render())
    browser.open(tmp_path / "a.html", width=400)
    browser.press("TAB")
    assert browser.run("return document.activeElement.textContent") == "Skip to the content"
    browser.press("ENTER")
    assert browser.run("return document.activeElement.id") == "content"
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    browser.check()

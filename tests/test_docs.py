"""The pages say only what is there: links lead somewhere, and recipes, config keys and public names exist.

That their commands run is in test_page_commands.py.
"""

import functools
import importlib.util
import re
import subprocess
import sys
import xml.etree.ElementTree

import pytest
from page_commands import PAGES, ROOT, find_blocks, find_commands, name_of

import hiera_video as hv
from hiera_video.config import load_config
from hiera_video.config.defaults import KEYS
from hiera_video.config.load import find_config

_spec = importlib.util.spec_from_file_location("build_site", ROOT / "docs" / "build_site.py")
site = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(site)
SECTIONS = {key.split(".")[0] for key in KEYS if "." in key}
MAX_README_LINES = 150
# What docs/coming-from.md sets beside our keys, and what we do not have.
KEYS_OF_SLOWFAST = {
    *("AUG.ENABLE", "AUG.MASK_RATIO", "AUG.MASK_TUBE", "DATA.ENSEMBLE_METHOD", "DATA.MULTI_LABEL"),
    *("SOLVER.BASE_LR_SCALE_NUM_SHARDS", "TEST.DATASET", "TRAIN.DATASET"),
}


def find_anchors(page):
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def find_code(page):
    """Everything between backticks, and code blocks with their continued lines joined."""
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL))
    return [*(content for _, content in find_blocks(page)), *inline]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.replace("\n", " ").partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in find_anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_config_keys_exist(page):
    known = KEYS.keys() | (KEYS_OF_SLOWFAST if page.name == "coming-from.md" else set())
    for code in find_code(page):
        for word in re.findall(r"(?<![\w/.])([A-Z_]{2,}\.[A-Z_0-9]+)(?![\w.])", code):
            assert word.split(".")[0] not in SECTIONS or word in known, word


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_recipes_and_scripts_exist(page):
    for code in find_code(page):
        for name in re.findall(r"--cfg ([\w/.{}-]+\.yaml)", code):
            find_config(name)
        for name in re.findall(r"(?:tools|benchmarks|examples)/\w+\.py", code):
            assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pairs_of_shown_commands_load(page):
    """What a page tells people to type passes the checks of the config."""
    for command in find_commands(page):
        if not re.search(r"hiera-video (run|check)|run_net\.py", command) or "FILE" in command:
            continue
        words = command.replace("'", "").split()
        start = words.index("--cfg") if "--cfg" in words else len(words)
        files = [word for word in words[start + 1 :] if word.endswith(".yaml")]
        pairs = [word for word in words[start + 1 + len(files) :] if not word.startswith("--")]
        if files:
            cfg = load_config(files, pairs)
            values = dict(zip(pairs[::2], pairs[1::2], strict=True))
            assert {key: str(functools.reduce(getattr, key.split("."), cfg)) for key in values} == values


def test_the_readme_is_short():
    assert (ROOT / "README.md").read_text().count("\n") < MAX_README_LINES


def test_every_public_name_is_on_the_page_of_python():
    named = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "api.md").read_text(), flags=re.MULTILINE)
    assert set(hv.__all__) <= {name.removeprefix("hiera_video.") for name in named}
    for name in named:
        module, _, attribute = name.rpartition(".")
        assert getattr(importlib.import_module(module), attribute).__doc__, name


def test_the_menu_of_the_site_has_every_page():
    menu = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE)
    pages = {page.name for page in ROOT.glob("docs/*.md")} | set(site.ROOT_PAGES.values())
    assert sorted(menu) == sorted(pages)


def test_the_page_of_keys_has_all_of_them():
    text = site.format_keys()
    rows = re.findall(r"^\| `([\w.]+)` \| `([^`]+)` \| (.+) \|$", text, flags=re.MULTILINE)
    assert [name for name, _, _ in rows] == sorted(KEYS, key=[name for name, _, _ in rows].index)
    found = {name: (default, words) for name, default, words in rows}
    assert found["TRAIN.BATCH_SIZE"][0] == "64" and "Clips per optimizer step" in found["TRAIN.BATCH_SIZE"][1]
    assert found["SOLVER.BETAS"][0] == "[0.9, 0.999]" and "pretrain" in found["TASK"][1]
    assert site.KEYS_MARK in (ROOT / "docs" / "config-keys.md").read_text()


def test_links_and_drawings_of_the_site():
    text = "[a](../MODEL_ZOO.md#x) [b](docs/data.md) [c](../examples/explain.py) ![A <clip>](drawings/mask-units.svg)"
    made = site.inline_drawings(site.lead_links_to_the_site(text))
    assert made.startswith("[a](model-zoo.md#x) [b](data.md) [c](examples/explain.py) <figure")
    assert 'aria-label="A &lt;clip&gt;"' in made and "<style>" not in made and "\n" not in made


def test_drawings_are_drawings():
    for path in ROOT.glob("docs/drawings/*.svg"):
        root = xml.etree.ElementTree.parse(path).getroot()
        assert root.tag.endswith("svg") and "currentColor" in path.read_text()
        assert path.name in (ROOT / "docs" / "how-it-works.md").read_text()


@pytest.fixture(scope="module")
def built_site():
    """The folder of the site, made as `make docs` makes it; and what that printed."""
    pytest.importorskip("zensical")
    run = subprocess.run([sys.executable, "docs/build_site.py"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    return site.SITE, run.stdout + run.stderr


@pytest.mark.slow
def test_the_site_is_built_without_warnings_and_fetches_nothing(built_site):
    folder, output = built_site
    assert "arning" not in output
    pages = sorted(folder.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        fetched = re.findall(r"<(?:script|img|iframe|source)[^>]* src=[\"']?(https?:[^\"' >]+)", page.read_text())
        fetched += re.findall(r"<link[^>]* href=[\"']?(https?:[^\"' >]+)", page.read_text())
        assert fetched == [], page


@pytest.mark.slow
def test_the_search_works_from_a_disk(built_site, browser):
    from selenium.webdriver import ActionChains, Keys

    browser.open(built_site[0] / "index.html")
    browser.wait("return document.querySelectorAll('iframe').length")  # in which docs/file-worker.js runs the search
    ActionChains(browser.driver).key_down(Keys.CONTROL).send_keys("k").key_up(Keys.CONTROL).perform()
    box = "[...document.querySelectorAll('div')].find(e => e.shadowRoot?.querySelector('input'))?.shadowRoot"
    browser.wait(f"return {box}?.activeElement?.matches('input')")  # before that, keys go nowhere
    # What is typed while the index is still being read may be dropped: typed again, it must be found.
    for attempt in range(6):
        ActionChains(browser.driver).send_keys("LAYER_DECAY").perform()
        try:
            browser.wait(f"return {box}.textContent.includes('SOLVER.LAYER_DECAY')", seconds=10)
            break
        except TimeoutError:
            assert attempt < 5, "the search finds nothing"
            browser.run(f"{box}.querySelector('input').select()")
    browser.check()

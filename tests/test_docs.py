"""The pages say only what is there: links lead somewhere, and commands, recipes and config keys exist."""

import functools
import importlib
import re
import shlex
from pathlib import Path

import pytest

from hiera_video.cli.main import COMMANDS
from hiera_video.config import load_config
from hiera_video.config.defaults import KEYS
from hiera_video.config.load import find_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
SECTIONS = {key.split(".")[0] for key in KEYS if "." in key}
MAX_README_LINES = 150


def name_of(page):
    return str(page.relative_to(ROOT))


def find_anchors(page):
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def find_code(page):
    """Everything between backticks, and code blocks with their continued lines joined."""
    text = page.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return [*blocks, *inline]


def find_commands(page):
    """The commands of a page's code blocks, each as one line."""
    blocks = re.findall(r"^```\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+", " ", line).strip() for line in lines if line.strip()]


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
    for code in find_code(page):
        for word in re.findall(r"(?<![\w/.])([A-Z_]{2,}\.[A-Z_0-9]+)(?![\w.])", code):
            assert word.split(".")[0] not in SECTIONS or word in KEYS, word


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_recipes_and_scripts_exist(page):
    for code in find_code(page):
        for name in re.findall(r"--cfg ([\w/.{}-]+\.yaml)", code):
            find_config(name)
        for name in re.findall(r"(?:tools|benchmarks)/\w+\.py", code):
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


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_shown_commands_have_these_options(page):
    for command in find_commands(page):
        if not command.startswith("hiera-video ") or "FILE" in command:
            continue
        words = shlex.split(command, comments=True)
        assert words[1] in COMMANDS, command
        parse = importlib.import_module(f"hiera_video.cli.{words[1].replace('-', '_')}").parse_args
        parse(words[2:])  # ends the test where an option is unknown


def test_the_readme_is_short():
    assert (ROOT / "README.md").read_text().count("\n") < MAX_README_LINES

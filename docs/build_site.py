"""Builds the site of these pages into build/site: ``make docs``.

The pages are those that GitHub shows. Here they get what a site has beyond that: pages of the repository's root, the
table of all config keys, drawings whose colors follow the page's, and a search that also works from a disk.
"""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import sys
from pathlib import Path

from hiera_video.config.defaults import KEYS
from hiera_video.config.legal import Key

ROOT = Path(__file__).resolve().parents[1]
PAGES, SITE = ROOT / "build" / "pages", ROOT / "build" / "site"
KEYS_MARK = "<!-- the table of all keys comes here -->"
SEARCH_SHIM = "https://unpkg.com/iframe-worker/shim"
# Pages of the root -> their names on the site.
ROOT_PAGES = {
    "MODEL_ZOO.md": "model-zoo.md",
    "CONTRIBUTING.md": "contributing.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "README.md": "index.md",
}
SECTIONS = {
    "": "The run",
    "TRAIN": "Training",
    "TEST": "Testing",
    "DATA": "Data",
    "DATA_LOADER": "Decoding processes",
    "AUG": "Augmentation",
    "MIXUP": "Mixup and CutMix",
    "MODEL": "The model",
    "HIERA": "The encoder",
    "MAE": "Masked autoencoder",
    "SOLVER": "Optimizer and schedule",
    "EXTRACT": "Embeddings",
    "AVA": "Actions in boxes",
    "COCO": "Boxes and masks: data",
    "DETECTOR": "Boxes and masks: model",
    "TENSORBOARD": "TensorBoard",
    "REPORT": "Reports",
    "CUDNN": "cuDNN",
}


def main() -> int:
    """Brings the pages together and builds the site; returns the exit status."""
    gather_pages(PAGES)
    build = [
        sys.executable,
        "-m",
        "zensical",
        "build",
        "--strict",
        "--clean",
        "--config-file",
        str(ROOT / "mkdocs.yml"),
    ]
    status = subprocess.run(build, cwd=ROOT).returncode
    if status == 0:
        use_own_shim(SITE)
        print(f"{SITE / 'index.html'} is the front page")
    return status


def gather_pages(folder: Path) -> None:
    """Writes what the site is made of into a folder, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sources = [*ROOT.glob("docs/*.md"), *(ROOT / name for name in ROOT_PAGES if name != "README.md")]
    for page in sources:
        text = lead_links_to_the_site(page.read_text(encoding="utf-8"))
        text = inline_drawings(text.replace(KEYS_MARK, format_keys()))
        (folder / ROOT_PAGES.get(page.name, page.name)).write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__", "*.md"))
    for name in ("site.css", "file-worker.js"):
        shutil.copy(ROOT / "docs" / name, folder / name)


def lead_links_to_the_site(text: str) -> str:
    """Links among the files of the repository -> links among the pages of the site."""
    text = re.sub(r"\]\(docs/", "](", text).replace("](../examples/", "](examples/")
    for name, on_site in ROOT_PAGES.items():
        text = re.sub(rf"\]\((?:\.\./)?{re.escape(name)}", f"]({on_site}", text)
    return text


def inline_drawings(text: str) -> str:
    """``![What it shows](drawings/x.svg)`` -> the drawing itself, whose lines take the color of the text."""

    def replace(match: re.Match[str]) -> str:
        drawing = (ROOT / "docs" / match[2]).read_text(encoding="utf-8")
        drawing = re.sub(r"<style>.*?</style>\s*", "", drawing, flags=re.DOTALL)
        drawing = re.sub(r"\n\s*", "", drawing).replace(
            "<svg ", f'<svg role="img" aria-label="{html.escape(match[1])}" ', 1
        )
        return f'<figure class="drawing">{drawing}</figure>'

    return re.sub(r"!\[([^\]]*)\]\((drawings/[\w-]+\.svg)\)", replace, text)


def format_keys() -> str:
    """All config keys as tables, one for each section."""
    groups: dict[str, list[str]] = {}
    for name in KEYS:
        groups.setdefault(name.rpartition(".")[0], []).append(name)
    parts = []
    for section, names in groups.items():
        title = f"{SECTIONS.get(section, '')} `{section}`".strip() if section else SECTIONS[section]
        rows = "\n".join(format_key(name, KEYS[name]) for name in names)
        parts.append(f"## {title}\n\n| key | default | meaning, and what is legal |\n|---|---|---|\n{rows}\n")
    return "\n".join(parts)


def format_key(name: str, key: Key) -> str:
    """A row of the table. A key's words are text: nothing in them is markup."""
    default = str(key.default) if key.default != "" else "(empty)"
    text = f"{escape_markup(key.meaning)}<br>*Legal: {escape_markup(key.legal.text)}.*"
    cells = (f"`{name}`", f"`{default}`", text)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def escape_markup(text: str) -> str:
    """Text whose characters Markdown leaves as they are."""
    return re.sub(r"([\\`*_\[\]<>#])", r"\\\1", text)


def use_own_shim(site: Path) -> None:
    """Takes out the one script that pages would fetch: what lets the search run where the site lies on a disk.

    Raises:
        ValueError: a page does not ask for that script, so that nothing takes its place.
    """
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        if SEARCH_SHIM not in text:
            raise ValueError(f"{page} does not name {SEARCH_SHIM}; docs/file-worker.js has to come in another way")
        up = "../" * (len(page.relative_to(site).parts) - 1) or "./"
        page.write_text(text.replace(SEARCH_SHIM, f"{up}file-worker.js"), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

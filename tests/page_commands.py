"""The commands that the pages tell people to type."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]


def name_of(page):
    return str(page.relative_to(ROOT))


def find_blocks(page):
    """(language, content) of a page's fenced blocks, in their order; the language of a plain one is ''."""
    blocks, language, lines = [], None, []
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            if language is None:
                language, lines = line[3:].strip(), []
            else:
                blocks.append((language, "".join(lines)))
                language = None
        elif language is not None:
            lines.append(line + "\n")
    assert language is None, f"{page}: a fenced block has no end"
    return blocks


def find_commands(page):
    """The lines of plain blocks, each command as one line. A block that holds no commands says ``text`` at its head."""
    plain = "".join(content for language, content in find_blocks(page) if not language)
    lines = plain.replace("\\\n", " ").splitlines()
    return [re.sub(r"\s+", " ", line).strip() for line in lines if line.strip()]


def split_command(command):
    """The words of a command, as a shell takes them; without what is behind a #."""
    return shlex.split(command, comments=True)

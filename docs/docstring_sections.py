"""The sections of this project's docstrings that Google's style does not know, as the site shows them."""

import re

import griffe

_SECTION = re.compile(r"^(Follows|Differs): (.+(?:\n[ \t]+.+)*)", flags=re.MULTILINE)


class DocstringSections(griffe.Extension):
    """Makes paragraphs of ``Follows: ...`` and ``Differs: ...``, which would become boxes without these words."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Is called with each function and class."""
        if obj.docstring:
            obj.docstring.value = _SECTION.sub(make_paragraph, obj.docstring.value)


def make_paragraph(match: re.Match[str]) -> str:
    """``Follows: a`` and lines that are indented below it -> a paragraph that begins with the word in bold."""
    return f"\n**{match[1]}.** " + re.sub(r"\n[ \t]+", "\n", match[2]) + "\n"

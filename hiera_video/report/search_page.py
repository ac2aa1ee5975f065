"""An HTML page of found clips."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hiera_video.report.clips import ShownClip, load_cards
from hiera_video.report.page import render_page


def render_search_page(
    query: ShownClip,
    results: Sequence[tuple[ShownClip, float]],
    *,
    title: str,
    facts: Sequence[str] = (),
    page_dir: str | os.PathLike[str],
) -> str:
    """The query, and what was found with its scores, the best first.

    Args:
        query: the clip that was looked for.
        results: found clips and their scores.
        title: of the page.
        facts: lines below the title.
        page_dir: folder that the page will lie in; videos are linked relative to it.
    """
    asked, *found = load_cards([query, *(clip for clip, _ in results)], page_dir)
    scores = [score for _, score in results]
    return render_page(
        "search.html", title=title, facts=facts, query=asked, found=list(zip(found, scores, strict=True))
    )


def render_pairs_page(
    pairs: Sequence[tuple[ShownClip, ShownClip, float]],
    *,
    title: str,
    facts: Sequence[str] = (),
    page_dir: str | os.PathLike[str],
) -> str:
    """Pairs of clips side by side with their scores, the most similar first; arguments as for `render_search_page`."""
    cards = load_cards([clip for first, second, _ in pairs for clip in (first, second)], page_dir)
    scores = [score for _, _, score in pairs]
    return render_page(
        "pairs.html", title=title, facts=facts, pairs=list(zip(cards[::2], cards[1::2], scores, strict=True))
    )

"""What a search among embeddings found: as a table, as JSON, and as a page."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hiera_video.embeddings.query import MAX_PAIRS, Query
from hiera_video.embeddings.reading import Embeddings
from hiera_video.embeddings.search import EXACT, Hits, Pairs
from hiera_video.report.clips import ShownClip, format_span
from hiera_video.report.search_page import render_pairs_page, render_search_page
from hiera_video.utils.tables import format_table

_MAX_ON_PAGE = 500  # results: a page holds a picture for each of them
_HEADING = ["", "score", "row", "time", "label", "path"]


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        text: for a terminal.
        content: for JSON.
        make_page: folder that the page will lie in -> HTML. It decodes a picture of each clip.
    """

    text: str
    content: dict[str, Any]
    make_page: Callable[[str], str]


def present_hits(
    table: pd.DataFrame,
    query: Query,
    hits: Hits,
    method: Mapping[str, Any],
    *,
    folder: str,
    num_rows: int,
    num_videos: int,
    class_names: Sequence[str] = (),
) -> Found:
    """The rows that are similar to a query.

    Args:
        table: of all rows, or of those that were found; its index holds their numbers.
        query: what was looked for.
        hits: what was found, (1, k).
        method: how, as `hiera_video.embeddings.query.search` says.
        folder: where the embeddings are.
        num_rows: there.
        num_videos: there.
        class_names: by label; may be empty.
    """
    rows, scores = hits.rows[0].tolist(), hits.scores[0].tolist()
    clips = [describe_row(table, row, class_names) for row in rows]
    asked = _describe_query(query, class_names)
    facts = [f"among {num_rows:,} rows of {num_videos:,} videos in {folder}", describe_method(method)]
    span = format_span(query.start_sec, query.end_sec)
    lines = [_HEADING]
    for rank, (clip, score) in enumerate(zip(clips, scores, strict=True), start=1):
        lines.append([str(rank), f"{score:.4f}", *_list_cells(clip)])
    listed = format_table(lines, ">>><<<") if clips else "Nothing was found."
    title = f"similar to {query.path}{f', {span}' if span else ''}"
    content = {
        "folder": folder,
        "query": {
            "path": query.path,
            "start_sec": query.start_sec,
            "end_sec": query.end_sec,
            "rows": query.rows.tolist(),
        },
        **method,
        "results": [
            {"rank": rank, "score": score, **_make_record(table, row, class_names)}
            for rank, (row, score) in enumerate(zip(rows, scores, strict=True), start=1)
        ],
    }

    def make_page(page_dir: str) -> str:
        return render_search_page(
            asked,
            list(zip(clips, scores, strict=True))[:_MAX_ON_PAGE],
            title=f"Similar to {os.path.basename(query.path)}",
            facts=facts,
            page_dir=page_dir,
        )

    return Found("\n".join([format_table([[title]], "<"), *facts, "", listed]), content, make_page)


def present_pairs(
    embeddings: Embeddings,
    pairs: Pairs,
    *,
    folder: str,
    threshold: float,
    top_k: int,
    include_same_video: bool,
    group_by_video: bool,
    class_names: Sequence[str] = (),
) -> Found:
    """The first ``top_k`` pairs; the other arguments are those that `hiera_video.embeddings.query.find_pairs` got."""
    num_listed = min(top_k, len(pairs))
    first_rows, second_rows, scores = (part[:num_listed].tolist() for part in (pairs.first, pairs.second, pairs.scores))
    listed = list(zip(first_rows, second_rows, scores, strict=True))
    shown = [
        (describe_row(embeddings.table, first, class_names), describe_row(embeddings.table, second, class_names), score)
        for first, second, score in listed
    ]
    summary = _describe_pairs(pairs, num_listed, threshold, include_same_video, group_by_video)
    lines = [_HEADING]
    for rank, (first, second, score) in enumerate(shown, start=1):
        lines += [[str(rank), f"{score:.4f}", *_list_cells(first)], ["", "", *_list_cells(second)]]
    content = {
        "folder": folder,
        "threshold": threshold,
        "num_found": pairs.num_found,
        "pairs": [
            {
                "score": score,
                "first": _make_record(embeddings.table, first, class_names),
                "second": _make_record(embeddings.table, second, class_names),
            }
            for first, second, score in listed
        ],
    }

    def make_page(page_dir: str) -> str:
        return render_pairs_page(
            shown[:_MAX_ON_PAGE],
            title="Near-duplicates",
            facts=[f"among {len(embeddings):,} rows in {folder}", summary],
            page_dir=page_dir,
        )

    return Found("\n".join([summary, *(["", format_table(lines, ">>><<<")] if shown else [])]), content, make_page)


def describe_row(table: pd.DataFrame, row: int, class_names: Sequence[str]) -> ShownClip:
    """What a page shows of a row."""
    entry = table.loc[row]
    label = _name_label(entry["label"], class_names)
    return ShownClip(entry["path"], entry["start_sec"], entry["end_sec"], label, row)


def describe_method(method: Mapping[str, Any]) -> str:
    """How the rows were found, for people."""
    if method["index"] == EXACT:
        return "exact search"
    recall = ""
    if "recall" in method:
        share, count = f"recall@{method['recall_at']} {method['recall']:.3f}", method["recall_queries"]
        recall = f": {share} against exact search, of {count} rows as queries"
    return f"approximate search, FAISS {_name_index(method['index'])}{recall}"


def _name_index(index: str) -> str:
    kind, *rest = index.split(", ")
    return ", ".join([kind.upper(), *rest])


def _describe_query(query: Query, class_names: Sequence[str]) -> ShownClip:
    row = int(query.rows[0]) if len(query.rows) == 1 else None
    return ShownClip(query.path, query.start_sec, query.end_sec, _name_label(query.label, class_names), row)


def _describe_pairs(
    pairs: Pairs, num_listed: int, threshold: float, include_same_video: bool, group_by_video: bool
) -> str:
    within = "" if include_same_video else ", pairs within a video left out"
    summary = f"{pairs.num_found:,} pairs of rows with a cosine of {threshold:g} or more{within}"
    if group_by_video:
        summary += f"; of {len(pairs):,} pairs of videos"
        if pairs.num_found > MAX_PAIRS:
            summary += f" (among the {MAX_PAIRS:,} most similar pairs of rows)"
    if num_listed < len(pairs) or (num_listed < pairs.num_found and not group_by_video):
        summary += f"; the {num_listed:,} most similar are listed (--top-k)"
    return summary


def _name_label(label: Any, class_names: Sequence[str]) -> str:
    if pd.isna(label):
        return ""
    return class_names[label] if 0 <= label < len(class_names) else f"class {label}"


def _make_record(table: pd.DataFrame, row: int, class_names: Sequence[str]) -> dict[str, Any]:
    """A row for JSON; None where something is unknown."""
    entry = table.loc[row]
    record: dict[str, Any] = {name: None if pd.isna(entry[name]) else entry[name] for name in table.columns}
    name = _name_label(entry["label"], class_names) if class_names else None
    record |= {"label": None if record["label"] is None else int(record["label"]), "view": int(record["view"])}
    return {"row": row, **record, "class_name": name or None}


def _list_cells(clip: ShownClip) -> list[str]:
    return [str(clip.row), format_span(clip.start_sec, clip.end_sec) or "-", clip.label or "-", clip.path]

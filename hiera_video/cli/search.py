"""Finds the clips most similar to an example among embeddings that EXTRACT wrote, or pairs that are nearly the same.

    python tools/search_embeddings.py output/embeddings --video example.mp4 --start-sec 2 --end-sec 4
    python tools/search_embeddings.py output/embeddings --path videos/a.mp4 --group-by-video --html found.html
    python tools/search_embeddings.py output/embeddings --row 17 --exclude-same-video --json -
    python tools/search_embeddings.py output/embeddings --near-duplicates --threshold 0.98 --html pairs.html

An example file is embedded with the folder's own settings, by the same weights. A video of the folder (--path) or a
time range of it is the mean of its rows; rows that make up the query are not among the results. The page shows
thumbnails and plays the time ranges in a browser.
"""

from __future__ import annotations

import argparse
import difflib
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import simplejson
import torch
from tqdm import tqdm

from hiera_video.data.lists import load_class_names
from hiera_video.embeddings.reading import Embeddings, read_embeddings
from hiera_video.embeddings.search import (
    EXACT,
    FaissIndex,
    Hits,
    Pairs,
    choose_index,
    find_near_duplicates,
    measure_recall,
    search_exact,
    search_filtered,
)
from hiera_video.report.search_page import ShownClip, format_span, render_pairs_page, render_search_page, write_page
from hiera_video.utils.logging import setup_logging
from hiera_video.utils.tables import format_table
from hiera_video.video import VideoDecodeError

INDEXES = ("auto", "exact", "faiss")
MAX_PAIRS = 100_000  # that are held
MAX_ON_PAGE = 500  # results: a page holds a picture for each
TOP_K, TOP_K_PAIRS = 10, 100
NUM_COMPARED = 20_000  # names that a misspelt one is compared with
RECALL_QUERIES = 200
TIME_TOLERANCE_SEC = 0.005  # times are told to a hundredth
THRESHOLD = 0.95


@dataclass(frozen=True, eq=False)
class Query:
    """What is looked for: vector (D,), the clip that it is of, and the rows of the folder that it is made of."""

    vector: torch.Tensor
    clip: ShownClip
    rows: np.ndarray


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line.

    Raises:
        ValueError: options that do not go together, or values out of range.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folder", help="what EXTRACT wrote (EXTRACT's OUTPUT_DIR)")
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--video", metavar="FILE", help="any video as the example")
    query.add_argument(
        "--row", type=int, metavar="N", help="a row of the folder as the example; tables show the numbers"
    )
    query.add_argument("--path", metavar="P", help="a video of the folder as the example: its path or its video_id")
    query.add_argument("--near-duplicates", action="store_true", help="pairs of clips that are nearly the same")
    parser.add_argument("--start-sec", type=float, metavar="A", help="time range of --video or --path")
    parser.add_argument("--end-sec", type=float, metavar="B")
    parser.add_argument("--top-k", type=int, metavar="K", help=f"results; default {TOP_K}, pairs {TOP_K_PAIRS}")
    parser.add_argument("--group-by-video", action="store_true", help="only the best row (or pair) of each video")
    parser.add_argument("--exclude-same-video", action="store_true", help="no results from the query's own video")
    parser.add_argument("--include-same-video", action="store_true", help="near-duplicates also within a video")
    parser.add_argument("--threshold", type=float, help=f"lowest cosine of near-duplicates; default {THRESHOLD}")
    parser.add_argument(
        "--index",
        choices=INDEXES,
        default="auto",
        help="auto: exact, as making an index takes longer than a search; faiss: approximate, and its recall is told",
    )
    parser.add_argument(
        "--checkpoint", metavar="FILE", default="", help="weights, to embed --video; default: where they were"
    )
    parser.add_argument("--json", metavar="FILE", help="results for programs; -: to the standard output, and no table")
    parser.add_argument("--html", metavar="FILE", help="results as a page for browsers")
    parser.add_argument("--class-names", metavar="FILE", help="names of the labels: one a line, or json")
    args = parser.parse_args(argv)
    _check_args(args)
    pairs = args.near_duplicates
    args.top_k = args.top_k if args.top_k is not None else (TOP_K_PAIRS if pairs else TOP_K)
    args.threshold = args.threshold if args.threshold is not None else THRESHOLD
    return args


def _check_args(args: argparse.Namespace) -> None:
    has_range = args.start_sec is not None or args.end_sec is not None
    misplaced = {
        "--start-sec and --end-sec belong to --video or --path": has_range and not (args.video or args.path),
        "--checkpoint belongs to --video": args.checkpoint and not args.video,
        "--threshold belongs to --near-duplicates": args.threshold is not None and not args.near_duplicates,
        "--include-same-video belongs to --near-duplicates": args.include_same_video and not args.near_duplicates,
        "--exclude-same-video belongs to a search; near-duplicates leave out the same video unless told otherwise": (
            args.exclude_same_video and args.near_duplicates
        ),
        "--index faiss belongs to a search; near-duplicates are always exact": (
            args.index == "faiss" and args.near_duplicates
        ),
    }
    for message, is_wrong in misplaced.items():
        if is_wrong:
            raise ValueError(message)
    if args.top_k is not None and args.top_k < 1:
        raise ValueError(f"--top-k is {args.top_k}; it must be at least 1")
    start, end = args.start_sec or 0.0, math.inf if args.end_sec is None else args.end_sec
    if not 0 <= start < end:
        raise ValueError(f"the time range is {start:g} to {end:g} s; it must begin at 0 or later and end after that")


def load_vectors(folder: str) -> Embeddings:
    """The embeddings of a folder, one vector each.

    Raises:
        ValueError: they are maps.
    """
    embeddings = read_embeddings(folder)
    shape = embeddings.info.get("shape") or [embeddings.vectors.shape[1]]
    if len(shape) > 1:
        raise ValueError(
            f"{folder} holds maps of shape {tuple(shape)}, which have no cosine that means anything; extract pooled "
            "features to search among them"
        )
    if len(embeddings) == 0:
        raise ValueError(f"{folder} holds no rows")
    return embeddings


def embed_example(
    info: dict[str, Any], path: str, *, start_sec: float | None, end_sec: float | None, checkpoint: str
) -> torch.Tensor:
    """Embeds a video as the folder's were: (D,)."""
    from hiera_video.engine.extraction.embed import embed_query  # slow to import, and needed for example files alone

    return embed_query(info, path, start_sec=start_sec, end_sec=end_sec, checkpoint=checkpoint)


def make_query(embeddings: Embeddings, args: argparse.Namespace, class_names: Sequence[str]) -> Query:
    """What the command line asks for.

    Raises:
        ValueError: there is no such row, video or time range; or the example's embedding is of another length.
    """
    if args.video:
        span = {"start_sec": args.start_sec, "end_sec": args.end_sec}
        vector = embed_example(embeddings.info, args.video, **span, checkpoint=args.checkpoint)
        ends = (math.nan if value is None else value for value in span.values())
        return Query(vector.float().cpu(), ShownClip(args.video, *ends), np.empty(0, np.int64))
    if args.row is not None:
        if not 0 <= args.row < len(embeddings):
            raise ValueError(f"--row is {args.row}; legal values: 0 to {len(embeddings) - 1}")
        clip = describe_row(embeddings.table, args.row, class_names)
        return Query(embeddings.vectors[args.row], clip, np.array([args.row]))
    rows = find_video(embeddings.table, args.path)
    if args.start_sec is not None or args.end_sec is not None:
        rows = find_range(embeddings.table, rows, args.start_sec, args.end_sec)
    part = embeddings.take(rows).mean_by_video()
    return Query(part.vectors[0], describe_row(part.table, 0, class_names, has_number=False), rows)


def find_video(table: pd.DataFrame, name: str) -> np.ndarray:
    """Rows of the video with this path or video_id.

    Raises:
        ValueError: there is none; suggests similar names.
    """
    paths = table["path"].drop_duplicates()
    for column, names in (("path", [name]), ("video_id", [name]), ("path", _find_same_files(paths, name))):
        found = np.flatnonzero(table[column].isin(names))
        if len(found):
            return found
    by_name = {os.path.basename(path): path for path in paths}
    wanted = os.path.basename(name)
    near = difflib.get_close_matches(wanted, list(by_name)[:NUM_COMPARED], n=3, cutoff=0.5)
    if wanted in by_name:
        near = [wanted]
    some = [by_name[match] for match in near] or list(paths[:3])
    raise ValueError(
        f"--path is {name!r}, which is none of the {len(paths):,} videos there; "
        f"{'similar' if near else 'there are'}: {', '.join(map(repr, some))}"
    )


def _find_same_files(paths: Iterable[str], name: str) -> list[str]:
    wanted = os.path.abspath(name)
    return [path for path in paths if path == name or ("://" not in path and os.path.abspath(path) == wanted)]


def find_range(table: pd.DataFrame, rows: np.ndarray, start_sec: float | None, end_sec: float | None) -> np.ndarray:
    """Those of a video's rows that lie within the range; where none does, the one that shares most with it.

    Raises:
        ValueError: no row shares anything with the range, or no times are known.
    """
    start = 0.0 if start_sec is None else start_sec
    end = math.inf if end_sec is None else end_sec
    starts, ends = (table[name].to_numpy()[rows] for name in ("start_sec", "end_sec"))
    if np.isnan(starts).any() or np.isnan(ends).any():
        raise ValueError("no times are known for this video's rows: leave out --start-sec and --end-sec, or use --row")
    inside = (starts >= start - TIME_TOLERANCE_SEC) & (ends <= end + TIME_TOLERANCE_SEC)
    if inside.any():
        return rows[inside]
    shared = np.minimum(ends, end) - np.maximum(starts, start)
    if shared.max() <= 0:
        raise ValueError(
            f"no row of this video is within {start:g} to {end:g} s; its rows are of {starts.min():g} to "
            f"{ends.max():g} s"
        )
    distances = np.abs(starts + ends - start - min(end, ends.max()))  # of the middles: among rows that share the same
    return rows[np.lexsort((distances, -shared.round(3)))[:1]]


def describe_row(table: pd.DataFrame, row: int, class_names: Sequence[str], *, has_number: bool = True) -> ShownClip:
    """What a page shows of a row."""
    entry = table.iloc[row]
    label = _name_label(entry["label"], class_names)
    return ShownClip(entry["path"], entry["start_sec"], entry["end_sec"], label, row if has_number else None)


def _name_label(label: Any, class_names: Sequence[str]) -> str:
    if pd.isna(label):
        return ""
    return class_names[label] if 0 <= label < len(class_names) else f"class {label}"


def pick_device() -> str:
    """A GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def search(embeddings: Embeddings, query: Query, args: argparse.Namespace) -> tuple[Hits, dict[str, Any]]:
    """The best rows for the query, and how they were found."""
    vectors, queries = embeddings.vectors, query.vector[None]  # (1, D)
    codes, paths = pd.factorize(embeddings.table["path"])
    is_allowed = np.ones(len(vectors), dtype=bool)
    is_allowed[query.rows] = False
    if args.exclude_same_video:
        is_allowed &= ~np.isin(codes, np.flatnonzero(paths.isin(_find_same_files(paths, query.clip.path))))
    limits = {
        "is_allowed": torch.from_numpy(is_allowed),
        "groups": torch.from_numpy(codes) if args.group_by_video else None,
    }
    kind = choose_index(len(vectors)) if args.index == "auto" else args.index
    if kind == EXACT:
        device = pick_device()
        hits = search_filtered(lambda k: search_exact(queries, vectors, k, device=device), args.top_k, **limits)
        return hits, {"index": EXACT}
    index = FaissIndex(vectors, kind=None if kind == "faiss" else kind)
    hits = search_filtered(lambda k: index.search(queries, k), args.top_k, **limits)
    method = {"index": index.kind}
    if len(vectors) > 1:
        recall = measure_recall(index, vectors, k=args.top_k, num_queries=RECALL_QUERIES)
        method |= {"recall": recall, "recall_at": args.top_k, "recall_queries": min(RECALL_QUERIES, len(vectors))}
    return hits, method


def find_pairs(embeddings: Embeddings, args: argparse.Namespace) -> Pairs:
    """Near-duplicates, the best MAX_PAIRS of them; with --group-by-video the best pair of two videos."""
    codes = torch.from_numpy(pd.factorize(embeddings.table["path"])[0])
    num_rows = len(embeddings)
    with tqdm(total=num_rows**2 // 2, unit="pair", unit_scale=True, delay=5, disable=not sys.stderr.isatty()) as bar:
        pairs = find_near_duplicates(
            embeddings.vectors,
            threshold=args.threshold,
            groups=None if args.include_same_video else codes,
            max_pairs=MAX_PAIRS,
            device=pick_device(),
            report_progress=bar.update,
        )
    if not args.group_by_video:
        return pairs
    videos = torch.stack([codes[pairs.first], codes[pairs.second]]).sort(dim=0).values  # (2, P)
    first = np.sort(np.unique(videos.numpy(), axis=1, return_index=True)[1])
    return Pairs(pairs.first[first], pairs.second[first], pairs.scores[first], pairs.num_found)


def describe_method(method: Mapping[str, Any]) -> str:
    """How it was searched, for people."""
    if method["index"] == EXACT:
        return "exact search"
    recall = ""
    if "recall" in method:
        share, count = f"recall@{method['recall_at']} {method['recall']:.3f}", method["recall_queries"]
        recall = f": {share} against exact search, of {count} rows as queries"
    return f"approximate search, FAISS {method['index'].upper()}{recall}"


def describe_pairs(pairs: Pairs, num_listed: int, args: argparse.Namespace) -> str:
    """How many there are, for people."""
    within = "" if args.include_same_video else ", pairs within a video left out"
    told = f"{pairs.num_found:,} pairs of rows with a cosine of {args.threshold:g} or more{within}"
    if args.group_by_video:
        told += f"; of {len(pairs):,} pairs of videos"
        if pairs.num_found > MAX_PAIRS:
            told += f" (among the {MAX_PAIRS:,} most similar pairs of rows)"
    if num_listed < len(pairs) or (num_listed < pairs.num_found and not args.group_by_video):
        told += f"; the {num_listed:,} most similar are listed (--top-k)"
    return told


def make_record(table: pd.DataFrame, row: int, class_names: Sequence[str]) -> dict[str, Any]:
    """A row for JSON; None where something is unknown."""
    entry = table.iloc[row]
    record = {name: None if pd.isna(entry[name]) else entry[name] for name in table.columns}
    name = _name_label(entry["label"], class_names) if class_names else None
    record |= {"label": None if record["label"] is None else int(record["label"]), "view": int(record["view"])}
    return {"row": row, **record, "class_name": name or None}


def _list_cells(clip: ShownClip) -> list[str]:
    return [str(clip.row), format_span(clip.start_sec, clip.end_sec) or "-", clip.label or "-", clip.path]


def run_search(embeddings: Embeddings, args: argparse.Namespace, class_names: Sequence[str]) -> dict[str, Any]:
    """Searches; gives ``table``, ``json`` and ``page`` (made when called)."""
    query = make_query(embeddings, args, class_names)
    hits, method = search(embeddings, query, args)
    rows, scores = hits.rows[0].tolist(), hits.scores[0].tolist()
    clips = [describe_row(embeddings.table, row, class_names) for row in rows]
    num_videos = embeddings.table["path"].nunique()
    facts = [f"among {len(embeddings):,} rows of {num_videos:,} videos in {args.folder}", describe_method(method)]
    span = format_span(query.clip.start_sec, query.clip.end_sec)
    asked = f"{query.clip.path}{f', {span}' if span else ''}"
    lines = [["", "score", "row", "time", "label", "path"]]
    for rank, (clip, score) in enumerate(zip(clips, scores, strict=True), start=1):
        lines.append([str(rank), f"{score:.4f}", *_list_cells(clip)])
    table = format_table(lines, ">>><<<") if clips else "Nothing was found."
    described = {"path": query.clip.path, "start_sec": query.clip.start_sec, "end_sec": query.clip.end_sec}
    return {
        "table": "\n".join([format_table([[f"similar to {asked}"]], "<"), *facts, "", table]),
        "json": {
            "folder": args.folder,
            "query": described | {"rows": query.rows.tolist()},
            **method,
            "results": [
                {"rank": rank, "score": score, **make_record(embeddings.table, row, class_names)}
                for rank, (row, score) in enumerate(zip(rows, scores, strict=True), start=1)
            ],
        },
        "page": lambda page_dir: render_search_page(
            query.clip,
            list(zip(clips, scores, strict=True))[:MAX_ON_PAGE],
            title=f"Similar to {os.path.basename(query.clip.path)}",
            facts=facts,
            page_dir=page_dir,
        ),
    }


def run_near_duplicates(embeddings: Embeddings, args: argparse.Namespace, class_names: Sequence[str]) -> dict[str, Any]:
    """Looks for pairs; gives the same as `run_search`."""
    pairs = find_pairs(embeddings, args)
    num_listed = min(args.top_k, len(pairs))
    listed = [part[:num_listed].tolist() for part in (pairs.first, pairs.second, pairs.scores)]
    shown = [
        (*(describe_row(embeddings.table, row, class_names) for row in (first, second)), score)
        for first, second, score in zip(*listed, strict=True)
    ]
    told = describe_pairs(pairs, num_listed, args)
    lines = [["", "score", "row", "time", "label", "path"]]
    for rank, (first, second, score) in enumerate(shown, start=1):
        lines += [[str(rank), f"{score:.4f}", *_list_cells(first)], ["", "", *_list_cells(second)]]
    return {
        "table": "\n".join([told, *(["", format_table(lines, ">>><<<")] if shown else [])]),
        "json": {
            "folder": args.folder,
            "threshold": args.threshold,
            "num_found": pairs.num_found,
            "pairs": [
                {
                    "score": score,
                    "first": make_record(embeddings.table, first, class_names),
                    "second": make_record(embeddings.table, second, class_names),
                }
                for first, second, score in zip(*listed, strict=True)
            ],
        },
        "page": lambda page_dir: render_pairs_page(
            shown[:MAX_ON_PAGE],
            title="Near-duplicates",
            facts=[f"among {len(embeddings):,} rows in {args.folder}", told],
            page_dir=page_dir,
        ),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Searches, and writes what is asked for."""
    setup_logging(None)
    try:
        args = parse_args(argv)
        embeddings = load_vectors(args.folder)
        class_names = load_class_names(args.class_names) if args.class_names else ()
        found = (run_near_duplicates if args.near_duplicates else run_search)(embeddings, args, class_names)
        text = simplejson.dumps(found["json"], indent=1, ignore_nan=True)
        print(text if args.json == "-" else found["table"])
        if args.json and args.json != "-":
            Path(args.json).parent.mkdir(parents=True, exist_ok=True)
            Path(args.json).write_text(text + "\n")
            print(f"written: {args.json}")
        if args.html:
            write_page(args.html, found["page"](os.path.dirname(os.path.abspath(args.html))))
            print(f"written: {args.html}", file=sys.stderr if args.json == "-" else sys.stdout)
    except (ValueError, FileNotFoundError, ImportError, VideoDecodeError) as error:
        sys.exit(f"error: {error}")

"""Finds the clips most similar to an example among extracted embeddings, or pairs that are nearly the same.

    hiera-video search output/embeddings --video example.mp4 --start-sec 2 --end-sec 4
    hiera-video search output/embeddings --path videos/a.mp4 --group-by-video --html found.html
    hiera-video search output/embeddings --row 17 --exclude-same-video --json -
    hiera-video search output/embeddings --near-duplicates --threshold 0.98 --html pairs.html
    hiera-video search output/embeddings --path videos/a.mp4 --memory-gb 4

An example file is embedded with the folder's own settings, by the same weights. A video of the folder (--path) or a
time range of it is the mean of its rows; the rows that make up the query are not among the results. The page shows
thumbnails and plays the time ranges in a browser.

With --memory-gb the rows stay on disk: an approximate index is made within that memory, kept in the folder, and used
again. Rows are then numbered in the order of the shards.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiera_video.cli.arguments import make_parser, report_errors

if TYPE_CHECKING:
    import torch

    from hiera_video.embeddings.query import Query
    from hiera_video.embeddings.reading import Embeddings
    from hiera_video.report.search_results import Found

INDEXES = ("auto", "exact", "faiss")
TOP_K, TOP_K_PAIRS = 10, 100
THRESHOLD = 0.95


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command.

    Raises:
        ValueError: options that do not go together, or values out of range.
    """
    parser = make_parser("search", __doc__)
    parser.add_argument("folder", help="the OUTPUT_DIR of the extraction")
    query = parser.add_mutually_exclusive_group(required=True)
    query.add_argument("--video", metavar="FILE", help="any video as the example")
    query.add_argument(
        "--row", type=int, metavar="N", help="a row of the folder as the example; tables show the numbers"
    )
    query.add_argument("--path", metavar="P", help="a video of the folder as the example: its path or its video_id")
    query.add_argument("--near-duplicates", action="store_true", help="pairs of clips that are nearly the same")
    parser.add_argument("--start-sec", type=float, metavar="A", help="start of the time range of --video or --path")
    parser.add_argument("--end-sec", type=float, metavar="B", help="its end")
    parser.add_argument("--top-k", type=int, metavar="K", help=f"results; default {TOP_K}, pairs {TOP_K_PAIRS}")
    parser.add_argument("--group-by-video", action="store_true", help="only the best row (or pair) of each video")
    parser.add_argument("--exclude-same-video", action="store_true", help="no results from the query's own video")
    parser.add_argument("--include-same-video", action="store_true", help="near-duplicates also within a video")
    parser.add_argument("--threshold", type=float, help=f"lowest cosine of near-duplicates; default {THRESHOLD}")
    parser.add_argument(
        "--index",
        choices=INDEXES,
        default="auto",
        help="auto: exact, because making an index takes longer than one search; faiss: approximate, and its recall is "
        "shown",
    )
    parser.add_argument(
        "--memory-gb",
        type=float,
        metavar="G",
        help="search the rows on disk by a FAISS index that is made within this memory of the process, kept in the "
        "folder and used again; for more rows than fit into the memory",
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
        "--exclude-same-video belongs to a search; near-duplicates are of different videos by default": (
            args.exclude_same_video and args.near_duplicates
        ),
        "--index faiss belongs to a search; near-duplicates are always exact": (
            args.index == "faiss" and args.near_duplicates
        ),
        "--memory-gb belongs to a search; near-duplicates are found among rows in memory": (
            args.memory_gb is not None and args.near_duplicates
        ),
        "--memory-gb searches by its own index; leave out --index": (
            args.memory_gb is not None and args.index != "auto"
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


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Searches, and writes what is asked for."""
    args = parse_args(argv)
    import simplejson

    from hiera_video.data.lists import load_class_names
    from hiera_video.embeddings.reading import read_vectors
    from hiera_video.report.page import write_page
    from hiera_video.utils.logging import setup_logging

    setup_logging(None)
    class_names = load_class_names(args.class_names) if args.class_names else ()
    if args.memory_gb is not None:
        found = find_similar_on_disk(args, class_names)
    else:
        find = find_near_duplicates if args.near_duplicates else find_similar
        found = find(read_vectors(args.folder), args, class_names)
    text = simplejson.dumps(found.content, indent=1, ignore_nan=True)
    print(text if args.json == "-" else found.text)
    if args.json and args.json != "-":
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        Path(args.json).write_text(text + "\n")
        print(f"written: {args.json}")
    if args.html:
        write_page(args.html, found.make_page(os.path.dirname(os.path.abspath(args.html))))
        print(f"written: {args.html}", file=sys.stderr if args.json == "-" else sys.stdout)
    return 0


def find_similar(embeddings: Embeddings, args: argparse.Namespace, class_names: Sequence[str]) -> Found:
    """The rows most similar to what the command line names."""
    from hiera_video.embeddings.query import search
    from hiera_video.report.search_results import present_hits

    query = make_query(embeddings, args)
    hits, method = search(
        embeddings,
        query,
        top_k=args.top_k,
        index=args.index,
        exclude_same_video=args.exclude_same_video,
        group_by_video=args.group_by_video,
    )
    counts = {"num_rows": len(embeddings), "num_videos": embeddings.table["path"].nunique()}
    return present_hits(embeddings.table, query, hits, method, folder=args.folder, **counts, class_names=class_names)


def find_similar_on_disk(args: argparse.Namespace, class_names: Sequence[str]) -> Found:
    """The same by the index that is kept in the folder; makes it where it is missing or of other shards."""
    from tqdm import tqdm

    from hiera_video.embeddings.disk_index import FOLDER, open_index
    from hiera_video.embeddings.shard_query import query_shard_row, query_shard_video, search_shards
    from hiera_video.embeddings.shard_rows import ShardRows
    from hiera_video.engine.output_lock import lock_output
    from hiera_video.report.search_results import present_hits
    from hiera_video.utils.machine import read_process_memory

    span = {"start_sec": args.start_sec, "end_sec": args.end_sec}
    example = None
    if args.video:  # before the index is there: the model is gone when that needs the memory
        example = make_example(ShardRows(args.folder).info, args)
    memory_bytes = int(args.memory_gb * 2**30) - read_process_memory()
    with tqdm(unit="row", unit_scale=True, delay=2, disable=not sys.stderr.isatty()) as bar:

        def show(stage: str, num_rows: int) -> None:
            bar.set_description(f"index: {stage}")
            bar.update(num_rows)

        lock = lock_output(Path(args.folder) / FOLDER)
        index = open_index(args.folder, memory_bytes=memory_bytes, report_progress=show, lock=lock)
    if example is not None:
        query = example
    elif args.row is not None:
        query = query_shard_row(index.rows, args.row)
    else:
        query = query_shard_video(index.rows, args.path, **span)
    hits, table, method = search_shards(
        index,
        query,
        top_k=args.top_k,
        exclude_same_video=args.exclude_same_video,
        group_by_video=args.group_by_video,
    )
    counts = {"num_rows": len(index.rows), "num_videos": index.content["videos"]}
    return present_hits(table, query, hits, method, folder=args.folder, **counts, class_names=class_names)


def make_query(embeddings: Embeddings, args: argparse.Namespace) -> Query:
    """What the command line names as the example.

    Raises:
        ValueError: there is no such row, video or time range.
    """
    from hiera_video.embeddings.query import query_row, query_video

    if args.row is not None:
        return query_row(embeddings, args.row)
    if args.path:
        return query_video(embeddings, args.path, start_sec=args.start_sec, end_sec=args.end_sec)
    return make_example(embeddings.info, args)


def make_example(info: dict[str, Any], args: argparse.Namespace) -> Query:
    """The example file of the command line as a query."""
    from hiera_video.embeddings.query import query_example

    span = {"start_sec": args.start_sec, "end_sec": args.end_sec}
    return query_example(embed_example(info, args.video, **span, checkpoint=args.checkpoint), args.video, **span)


def embed_example(
    info: dict[str, Any], path: str, *, start_sec: float | None, end_sec: float | None, checkpoint: str
) -> torch.Tensor:
    """Embeds a video as the folder's were: (D,)."""
    from hiera_video.engine.extraction.embed import embed_query

    return embed_query(info, path, start_sec=start_sec, end_sec=end_sec, checkpoint=checkpoint)


def find_near_duplicates(embeddings: Embeddings, args: argparse.Namespace, class_names: Sequence[str]) -> Found:
    """Pairs of rows that are nearly the same; shows progress where that takes long."""
    from tqdm import tqdm

    from hiera_video.embeddings.query import find_pairs
    from hiera_video.report.search_results import present_pairs

    num_pairs = len(embeddings) ** 2 // 2
    options = {
        "threshold": args.threshold,
        "include_same_video": args.include_same_video,
        "group_by_video": args.group_by_video,
    }
    with tqdm(total=num_pairs, unit="pair", unit_scale=True, delay=5, disable=not sys.stderr.isatty()) as bar:
        pairs = find_pairs(embeddings, **options, report_progress=bar.update)
    return present_pairs(embeddings, pairs, folder=args.folder, top_k=args.top_k, class_names=class_names, **options)

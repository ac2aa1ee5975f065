"""Draws extracted embeddings in two dimensions, as a page to look at, to search, and to play clips from.

    hiera-video map output/embeddings
    hiera-video map output/embeddings --method tsne --per-video --class-names classnames.json
    hiera-video map output/embeddings --color subject --metadata people.csv --html map.html

Each row is a point; rows are scaled to length 1 first, as search compares them by cosine. The page colors them by
label, by k-means cluster, by split, or by any other column; it finds clips by path or class, shows a picture of the one
that the pointer rests on, and plays the one that is clicked at its time range. It is one file that works from disk. It
holds small stills of some clips (--stills), spread over the map; of others the browser shows the video's own frame.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hiera_video.cli.arguments import make_parser, report_errors

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from hiera_video.embeddings.clusters import Group
    from hiera_video.report.map_page import Coloring

# As `hiera_video.embeddings.projection.METHODS`, which is slow to import; a test compares the two.
METHODS = ("pca", "tsne", "umap")
MAX_POINTS = {"pca": 100_000, "tsne": 5_000, "umap": 50_000}
OWN_COLORS = ("label", "cluster", "split")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command.

    Raises:
        ValueError: a value out of range.
    """
    parser = make_parser("map", __doc__)
    parser.add_argument("folder", help="the OUTPUT_DIR of the extraction")
    parser.add_argument("--method", choices=METHODS, default="pca", help="default: %(default)s")
    parser.add_argument(
        "--color", metavar="WHAT", help="shown first: label, cluster, split, or a column; default: label, else cluster"
    )
    parser.add_argument("--per-video", action="store_true", help="a point for each video, the mean over its rows")
    parser.add_argument(
        "--clusters", type=int, metavar="K", help="of k-means; default: number of classes, at most 1,000"
    )
    limits = ", ".join(f"{count:,} for {method}" for method, count in MAX_POINTS.items())
    parser.add_argument(
        "--max-points", type=int, metavar="N", help=f"more are drawn at random, and it is said; default: {limits}"
    )
    parser.add_argument(
        "--stills", type=int, default=400, metavar="N", help="that the page holds; default: %(default)s"
    )
    parser.add_argument("--metadata", help=".csv or .parquet with a column path and further columns to color by")
    parser.add_argument("--class-names", metavar="FILE", help="names of the labels: one a line, or json")
    parser.add_argument("--html", metavar="FILE", help="the page; default: map.html in the folder")
    parser.add_argument("--csv", metavar="FILE", help="the points too: path, times, label, cluster, x, y")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    args = parser.parse_args(argv)
    for name, low in (("clusters", 1), ("max_points", 3), ("stills", 0), ("seed", 0)):
        value = getattr(args, name)
        if value is not None and value < low:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; it must be at least {low}")
    args.max_points = args.max_points or MAX_POINTS[args.method]
    return args


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Projects, clusters, and writes the page."""
    args = parse_args(argv)
    from hiera_video.data.lists import load_class_names
    from hiera_video.embeddings.clusters import choose_num_clusters, cluster, describe_clusters
    from hiera_video.embeddings.projection import choose_rows, project, scale_rows
    from hiera_video.embeddings.reading import check_finite
    from hiera_video.embeddings.splits import load_with_metadata
    from hiera_video.report.map_page import MAX_COLORS, render_map_page
    from hiera_video.report.page import write_page
    from hiera_video.utils.files import write_whole
    from hiera_video.utils.logging import setup_logging

    setup_logging(None)
    class_names = load_class_names(args.class_names) if args.class_names else ()
    everything = load_with_metadata(args.folder, args.metadata)
    check_finite(everything)
    embeddings = everything.mean_by_video() if args.per_video else everything
    num_rows = len(embeddings)
    embeddings = embeddings.take(choose_rows(num_rows, args.max_points, seed=args.seed))
    table, vectors = embeddings.table, scale_rows(embeddings.vectors.numpy())
    check_color(table, args.color)
    projection = project(vectors, method=args.method, seed=args.seed)
    count = args.clusters or choose_num_clusters(len(vectors), min(table["label"].nunique(), MAX_COLORS))
    codes = cluster(vectors, count, seed=args.seed)
    groups = describe_clusters(codes, table["label"])
    num_videos, folder = f"{table['path'].nunique():,} videos", os.path.normpath(args.folder)
    facts = [
        f"{'' if args.per_video else f'{len(table):,} rows of '}{num_videos} in {folder}"
        + (f", drawn at random from {num_rows:,} (--max-points)" if len(table) < num_rows else ""),
        projection.fact,
    ]
    path = Path(args.html or os.path.join(args.folder, "map.html"))
    page = render_map_page(
        table,
        projection.points,
        make_colorings(table, codes, groups, args.color, class_names),
        title=f"Map of {os.path.basename(folder) or folder}",
        facts=facts,
        page_dir=path.resolve().parent,
        num_stills=args.stills,
    )
    write_page(path, page)
    print("\n".join([*facts, "", format_groups(groups, class_names), "", f"written: {path}, {len(page) / 1e6:.1f} MB"]))
    if args.csv:
        points = table.assign(cluster=codes, x=projection.points[:, 0], y=projection.points[:, 1])
        write_whole(Path(args.csv), points.to_csv(index=False).encode())
        print(f"written: {args.csv}")
    return 0


def check_color(table: pd.DataFrame, color: str | None) -> None:
    """Raises ValueError where there is nothing to color by."""
    if color is None or color == "cluster":
        return
    if color not in table:
        known = dict.fromkeys([*OWN_COLORS, *map(str, table)])
        raise ValueError(f"--color {color}: there is no such column; there are {', '.join(known)}")
    if table[color].isna().all():
        raise ValueError(f"--color {color}: the column has no values here; --color cluster needs none")


def make_colorings(
    table: pd.DataFrame, codes: np.ndarray, groups: Sequence[Group], color: str | None, class_names: Sequence[str]
) -> list[Coloring]:
    """What the page can color by; what is asked for comes first, else the labels where there are some.

    Raises:
        ValueError: what is asked for has too many values.
    """
    import pandas as pd

    from hiera_video.report.map_page import MAX_COLORS, make_coloring
    from hiera_video.utils.logging import get_logger

    logger = get_logger(__name__)
    names = [f"{number}: {describe_group(group, class_names)}" for number, group in enumerate(groups, start=1)]
    found = {}
    for column in dict.fromkeys([*OWN_COLORS, *([color] if color else [])]):
        if column == "cluster":
            found[column] = make_coloring(column, pd.Series(codes), names=names)
        elif column in table and table[column].notna().any():
            if column != color and table[column].nunique() > MAX_COLORS:
                num_values = table[column].nunique()
                logger.warning("no colors for %s: it has %d values, more than %d", column, num_values, MAX_COLORS)
                continue
            found[column] = make_coloring(column, table[column], names=class_names if column == "label" else None)
    first = color or ("label" if "label" in found else "cluster")
    return [found[first], *(coloring for name, coloring in found.items() if name != first)]


def describe_group(group: Group, class_names: Sequence[str]) -> str:
    """What most of a cluster is."""
    if group.label is None:
        return "no labels"
    known = isinstance(group.label, int) and 0 <= group.label < len(class_names)
    name = class_names[int(group.label)] if known else str(group.label)
    return f"{100 * group.share:.0f} % {name}"


def format_groups(groups: Sequence[Group], class_names: Sequence[str]) -> str:
    """A table of the clusters."""
    from hiera_video.utils.tables import format_table

    lines = [["cluster", "rows", "most of its labels"]]
    for number, group in enumerate(groups, start=1):
        lines.append([str(number), f"{group.size:,}", describe_group(group, class_names)])
    return format_table(lines, ">><")

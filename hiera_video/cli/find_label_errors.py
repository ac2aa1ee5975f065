"""Ranks the clips whose label is probably wrong, by their embeddings, and shows them with what speaks against them.

    hiera-video find-label-errors output/embeddings --class-names classnames.json
    hiera-video find-label-errors output/embeddings --crossval output/crossval --html errors.html --json errors.json

Two kinds of evidence about a video do not depend on its own label: the votes of its nearest neighbors among the
others, and the probabilities of a classifier that was fitted without it: a logistic regression on the embeddings of the
other folds or, with --crossval, the models of `hiera-video crossval`. A video is listed where their mean likes another
class more than its label; the margin between the two ranks (from -1: surely wrong). The page plays each video beside
its nearest neighbors; .csv and .json files hold all of them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiera_video.cli.arguments import make_parser, report_errors

if TYPE_CHECKING:
    import numpy as np

    from hiera_video.embeddings.label_errors import Evidence, Suspects
    from hiera_video.embeddings.splits import Side

RANKINGS = ("both", "neighbors", "classifier")
_NUM_IN_TABLE, _NUM_IN_JSON = 20, 5


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command.

    Raises:
        ValueError: a value out of range.
    """
    parser = make_parser("find-label-errors", __doc__)
    parser.add_argument("folder", help="the OUTPUT_DIR of the extraction")
    parser.add_argument("--crossval", metavar="DIR", help="predictions of `hiera-video crossval` as the classifier")
    parser.add_argument("--rank-by", choices=RANKINGS, default="both", help="which evidence; default: %(default)s")
    parser.add_argument("--neighbors", type=int, default=20, metavar="K", help="that vote; default: %(default)s")
    parser.add_argument("--folds", type=int, default=5, help="of the logistic regression; default: %(default)s")
    parser.add_argument("--top-k", type=int, default=100, metavar="N", help="videos on the page; default: %(default)s")
    parser.add_argument("--metadata", help=".csv or .parquet with a column path and further columns to use here")
    parser.add_argument("--label-column", default="label", help="column of the labels; default: %(default)s")
    parser.add_argument("--class-names", metavar="FILE", help="names of the labels: one a line, or json")
    parser.add_argument("--html", metavar="FILE", help="the page; default: label_errors.html in the folder")
    parser.add_argument("--csv", metavar="FILE", help="all of them as a table")
    parser.add_argument("--json", metavar="FILE", help="all of them for programs; - prints them instead of the table")
    parser.add_argument("--seed", type=int, default=0, help="of the folds; default: %(default)s")
    args = parser.parse_args(argv)
    for name, low in (("neighbors", 1), ("folds", 2), ("top_k", 0), ("seed", 0)):
        if getattr(args, name) < low:
            raise ValueError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be at least {low}")
    return args


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Ranks, and writes what is asked for."""
    args = parse_args(argv)
    import pandas as pd
    import simplejson

    from hiera_video.data.lists import load_class_names
    from hiera_video.embeddings.label_errors import gather_evidence, load_crossval, rank_suspects
    from hiera_video.embeddings.probes.labeled import group_by_video
    from hiera_video.utils.files import write_whole
    from hiera_video.utils.logging import setup_logging

    setup_logging(None)
    side, classes = choose_videos(args)
    videos = group_by_video(side.embeddings, classes)
    labels = videos.labels.numpy()
    paths = side.embeddings.table["path"].drop_duplicates().tolist()
    predicted = load_crossval(args.crossval, paths, labels, classes) if args.crossval else None
    evidence = gather_evidence(
        videos.compute_means(),
        labels,
        num_classes=len(classes),
        predicted=predicted,
        num_neighbors=args.neighbors,
        num_folds=args.folds,
        seed=args.seed,
    )
    by = {"both": evidence.combine(), "neighbors": evidence.neighbor_shares, "classifier": evidence.predicted}
    suspects = rank_suspects(by[args.rank_by], labels)
    names = name_classes(classes, load_class_names(args.class_names) if args.class_names else ())
    facts = describe(side, suspects, len(paths), len(classes), args)
    records = list_records(paths, labels, classes, names, suspects, evidence)
    text = simplejson.dumps({"folder": args.folder, "facts": facts, "suspects": records}, indent=1)
    print(text if args.json == "-" else "\n".join([*facts, "", format_records(records)]))
    written = []
    if args.json and args.json != "-":
        write_whole(Path(args.json), (text + "\n").encode())
        written.append(args.json)
    if args.csv:
        columns = [name for name in records[0] if name != "neighbors"] if records else ["path"]
        write_whole(Path(args.csv), pd.DataFrame(records, columns=columns).to_csv(index=False).encode())
        written.append(args.csv)
    written.append(write_html(args, paths, labels, names, suspects, evidence, facts))
    print(f"written: {', '.join(written)}", file=sys.stderr if args.json == "-" else sys.stdout)
    return 0


def choose_videos(args: argparse.Namespace) -> tuple[Side, list[Any]]:
    """The labeled videos of classes with at least two of them, and these classes.

    Raises:
        ValueError: there are fewer than two such classes.
    """
    from dataclasses import replace

    from hiera_video.embeddings.splits import choose_all, load_with_metadata

    side = choose_all(load_with_metadata(args.folder, args.metadata), args.label_column)
    table = side.embeddings.table
    counts = table.drop_duplicates("path")["label"].value_counts()
    classes = sorted(counts.index[counts > 1].tolist())
    if len(classes) < 2:
        found = f"{len(counts)} classes, {len(classes)} of them with two videos or more"
        raise ValueError(f"{args.folder}: the column {args.label_column} has {found}; there must be two such classes")
    rows = table["label"].isin(classes).to_numpy().nonzero()[0]
    left_out = {**side.left_out, "alone in their class": int(counts[counts == 1].sum())}
    return replace(side, embeddings=side.embeddings.take(rows), left_out=left_out), classes


def name_classes(classes: Sequence[Any], class_names: Sequence[str]) -> list[str]:
    """A name for each class: that of its number where there is one."""
    return [
        class_names[label] if isinstance(label, int) and 0 <= label < len(class_names) else str(label)
        for label in classes
    ]


def describe(side: Side, suspects: Suspects, num_videos: int, num_classes: int, args: argparse.Namespace) -> list[str]:
    """Lines about what was looked at and found."""
    from hiera_video.embeddings.splits import format_left_out

    classifier = f"the predictions in {args.crossval}" if args.crossval else "a logistic regression of other folds"
    evidence = {"neighbors": f"their {args.neighbors} neighbors", "classifier": classifier}
    used = " and ".join(evidence.values()) if args.rank_by == "both" else evidence[args.rank_by]
    return [
        f"{num_videos:,} videos of {num_classes} classes in {args.folder}"
        + format_left_out(side.left_out, prefix="; left out: "),
        f"{len(suspects):,} videos ({100 * len(suspects) / num_videos:.1f} %) are more like another class to {used}; "
        f"{int(suspects.is_confident.sum()):,} are confidently wrong",
    ]


def list_records(
    paths: Sequence[str],
    labels: np.ndarray,
    classes: Sequence[Any],
    names: Sequence[str],
    suspects: Suspects,
    evidence: Evidence,
) -> list[dict[str, Any]]:
    """What the files say of each suspect."""
    records = []
    for place, row in enumerate(suspects.rows.tolist()):
        given, other = int(labels[row]), int(suspects.suggested[place])
        near = zip(evidence.neighbors[row, :_NUM_IN_JSON].tolist(), evidence.cosines[row].tolist(), strict=False)
        records.append(
            {
                "rank": place + 1,
                "path": paths[row],
                "label": classes[given],
                "suggested": classes[other],
                "label_name": names[given],
                "suggested_name": names[other],
                "margin": round(float(suspects.margins[place]), 6),
                "is_confident": bool(suspects.is_confident[place]),
                "neighbors_for_label": round(float(evidence.neighbor_shares[row, given]), 6),
                "neighbors_for_suggested": round(float(evidence.neighbor_shares[row, other]), 6),
                "classifier_for_label": round(float(evidence.predicted[row, given]), 6),
                "classifier_for_suggested": round(float(evidence.predicted[row, other]), 6),
                "neighbors": [
                    {"path": paths[neighbor], "label": classes[labels[neighbor]], "cosine": round(cosine, 6)}
                    for neighbor, cosine in near
                ],
            }
        )
    return records


def format_records(records: Sequence[dict[str, Any]]) -> str:
    """The first ones as a table."""
    from hiera_video.utils.tables import format_table

    if not records:
        return "No label looks wrong."
    lines = [["", "margin", "label", "suggested", "path"]]
    for record in records[:_NUM_IN_TABLE]:
        words = [str(record[name]) for name in ("label_name", "suggested_name", "path")]
        lines.append([str(record["rank"]), f"{record['margin']:.3f}", *words])
    more = len(records) - _NUM_IN_TABLE
    return format_table(lines, ">><<<") + (f"\nand {more:,} more" if more > 0 else "")


def write_html(
    args: argparse.Namespace,
    paths: Sequence[str],
    labels: np.ndarray,
    names: Sequence[str],
    suspects: Suspects,
    evidence: Evidence,
    facts: Sequence[str],
) -> str:
    """Writes the page and returns where."""
    from hiera_video.report.label_errors_page import render_label_errors_page
    from hiera_video.report.page import write_page

    path = Path(args.html or os.path.join(args.folder, "label_errors.html"))
    page = render_label_errors_page(
        paths,
        labels,
        names,
        suspects.take(args.top_k),
        evidence,
        title=f"Probably wrong labels of {os.path.basename(os.path.normpath(args.folder))}",
        facts=facts,
        num_found=len(suspects),
        page_dir=path.resolve().parent,
    )
    write_page(path, page)
    return str(path)

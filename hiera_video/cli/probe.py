"""Measures what embeddings tell about the class of a video, with simple classifiers on top and by retrieval.

    hiera-video probe output/k400                                   # splits as EXTRACT wrote them
    hiera-video probe output/ucf --train-list train.csv --test-list test.csv
    hiera-video probe output/falls --metadata people.csv --group-column subject --test-groups s01 s02
    hiera-video probe output/k400_train --test-folder output/k400_val --probes knn linear --json -

Which videos train the classifiers and which ones test them:
  lists           lines 'path label'; a path is that of the embeddings or its end, such as 'class/video.mp4'
  a group column  of the embeddings or of --metadata; where the groups of one side are given, the other side has all
                  other groups
  neither         the column split: train against test, or val where there is no test;
                  with --test-folder all of FOLDER against all of the test folder

A number is the mean over the test videos, in percent. Beside it stand the 95 % bootstrap interval over test videos, and
the number that one gets without embeddings: by always naming the most frequent training class, or, for retrieval, by
ordering the videos at random.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hiera_video.cli.arguments import make_parser, report_errors

if TYPE_CHECKING:
    from hiera_video.data.lists import VideoList
    from hiera_video.embeddings.reading import Embeddings
    from hiera_video.embeddings.splits import Side

# The probes of `hiera_video.embeddings.probes.run`, which is slow to import; a test compares the two.
PROBES = ("knn", "linear", "attentive", "retrieval")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command."""
    parser = make_parser("probe", __doc__)
    parser.add_argument("folder", help="the OUTPUT_DIR of the extraction")
    parser.add_argument("--test-folder", help="embeddings of the test videos, if they are in another folder")
    parser.add_argument("--train-list", help="training videos: lines 'path label'")
    parser.add_argument("--test-list", help="test videos")
    parser.add_argument("--separator", default=" ", help="between path and label of the lists; default: a space")
    parser.add_argument("--group-column", help="column that says whether a video trains or tests; default: split")
    parser.add_argument("--train-groups", nargs="+", metavar="GROUP", help="the column's values for training videos")
    parser.add_argument("--test-groups", nargs="+", metavar="GROUP", help="the column's values for test videos")
    parser.add_argument("--metadata", help=".csv or .parquet with a column path and further columns to use here")
    parser.add_argument(
        "--multilabel", type=int, metavar="CLASSES", help="the lists have lines 'path 3,17', with labels below CLASSES"
    )
    parser.add_argument("--label-column", help="column of the classes; default: label, or the labels of the lists")
    parser.add_argument("--probes", nargs="+", choices=PROBES, help="default: all; with --multilabel knn and linear")
    parser.add_argument("--neighbors", type=int, default=20, help="of the probe knn; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--json", metavar="FILE", help="the results for programs; - prints them instead of the table")
    args = parser.parse_args(argv)
    if (args.train_list is None) != (args.test_list is None):
        parser.error("--train-list and --test-list need each other")
    if args.train_list and (args.group_column or args.train_groups or args.test_groups):
        parser.error("give either lists or groups")
    if args.multilabel and not args.train_list:
        parser.error("--multilabel needs --train-list and --test-list")
    if args.neighbors < 1:
        parser.error(f"--neighbors is {args.neighbors}; it must be at least 1")
    return args


def choose_sides(args: argparse.Namespace, codes: dict[tuple[int, ...], int]) -> tuple[Side, Side]:
    """Training and test videos; with --multilabel their labels are numbers of sets of classes, which ``codes`` gets.

    Raises:
        FileNotFoundError: a folder or file is missing.
        ValueError: nothing says which videos are on which side, they share a video, or they do not fit together.
    """
    from hiera_video.embeddings.splits import check_sides, choose_all, load_with_metadata

    train = test = load_with_metadata(args.folder, args.metadata)
    if args.test_folder:
        test = load_with_metadata(args.test_folder, args.metadata)
    if args.train_list:
        sides = (
            choose_listed(train, args.folder, args.train_list, args, codes),
            choose_listed(test, args.test_folder or args.folder, args.test_list, args, codes),
        )
    elif args.test_folder and not (args.group_column or args.train_groups or args.test_groups):
        label_column = args.label_column or "label"
        sides = choose_all(train, label_column), choose_all(test, label_column)
    else:
        sides = choose_groups(train, test, args)
    check_sides(*sides)
    return sides


def choose_listed(
    embeddings: Embeddings, folder: str, list_path: str, args: argparse.Namespace, codes: dict[tuple[int, ...], int]
) -> Side:
    """The videos of a list.

    Args:
        codes: of sets of labels, with --multilabel; gets those that are new. See `encode_label_sets`.
    """
    from hiera_video.data.lists import load_kinetics_csv
    from hiera_video.data.multilabel_lists import load_multilabel_csv
    from hiera_video.embeddings.splits import choose_by_list, load_failed_paths

    if args.multilabel:
        videos = load_multilabel_csv(list_path, num_classes=args.multilabel, separator=args.separator)
        labels = encode_label_sets(videos, codes)
    else:
        videos = load_kinetics_csv(list_path, separator=args.separator, require_labels=args.label_column is None)
        labels = videos.labels.tolist()
    return choose_by_list(
        embeddings,
        videos.paths.tolist(),
        labels,
        source=list_path,
        failed=load_failed_paths(folder),
        label_column=args.label_column,
    )


def encode_label_sets(videos: VideoList, codes: dict[tuple[int, ...], int]) -> list[int]:
    """A number for each video's set of labels: equal ones share theirs. New sets go into ``codes``."""
    sets = videos.label_sets
    rows = [tuple(sets.get(i).tolist()) for i in range(len(videos))] if sets else []
    return [codes.setdefault(row, len(codes)) for row in rows]


def choose_groups(train: Embeddings, test: Embeddings, args: argparse.Namespace) -> tuple[Side, Side]:
    """The videos of the groups that the command line names; by default the splits train, and test or val."""
    from hiera_video.embeddings.splits import choose_by_group, has_group

    column, label_column = args.group_column or "split", args.label_column or "label"
    train_groups, test_groups = args.train_groups, args.test_groups
    if train_groups is None and test_groups is None:
        test_group = next((group for group in ("test", "val") if has_group(test, column, group)), None)
        if test_group is None and not args.group_column:
            raise ValueError(
                f"{args.test_folder or args.folder} has no split test or val; give --train-list and --test-list, or "
                "--group-column"
            )
        train_groups, test_groups = ["train"], [test_group or "val"]
    return (
        choose_by_group(train, column, train_groups, test_groups or (), label_column),
        choose_by_group(test, column, test_groups, train_groups or (), label_column),
    )


def make_report(args: argparse.Namespace) -> dict[str, Any]:
    """All results, for programs.

    Raises:
        FileNotFoundError, ValueError: see `choose_sides` and `hiera_video.embeddings.probes.run.run_probes`.
    """
    from hiera_video.data.label_sets import LabelSets
    from hiera_video.embeddings.probes.labeled import group_by_video
    from hiera_video.embeddings.probes.multilabel import PROBES as MULTILABEL_PROBES
    from hiera_video.embeddings.probes.multilabel import run_multilabel_probes
    from hiera_video.embeddings.probes.run import run_probes
    from hiera_video.embeddings.splits import compare_settings
    from hiera_video.utils.versions import get_versions

    codes: dict[tuple[int, ...], int] = {}
    train, test = choose_sides(args, codes)
    classes = list(codes.values()) or sorted(train.embeddings.table["label"].unique().tolist())
    videos = [group_by_video(side.embeddings, classes) for side in (train, test)]
    options = {"seed": args.seed, "num_neighbors": args.neighbors}
    if args.multilabel:
        targets = LabelSets.from_lists(codes, num_classes=args.multilabel).make_targets()
        probed = run_multilabel_probes(*videos, targets=targets, probes=args.probes or MULTILABEL_PROBES, **options)
    else:
        probed = run_probes(*videos, num_classes=len(classes), probes=args.probes or PROBES, **options)
    data = {
        name: {
            "folder": folder,
            "videos": len(group),
            "windows": len(group.windows),
            "classes": args.multilabel or int(side.embeddings.table["label"].nunique()),
            "videos_of_unseen_classes": int((group.labels < 0).sum()),
            "left_out": side.left_out,
        }
        for name, folder, side, group in zip(
            ("train", "test"), (args.folder, args.test_folder or args.folder), (train, test), videos, strict=True
        )
    }
    return {
        "data": data,
        "scores": [asdict(score) for score in probed.scores],
        "unit": "percent",
        "settings": probed.settings,
        "seed": args.seed,
        "different_settings": compare_settings(train.embeddings.info, test.embeddings.info),
        "versions": get_versions(),
    }


def format_report(report: Mapping[str, Any]) -> str:
    """The report for people."""
    from hiera_video.embeddings.splits import format_left_out
    from hiera_video.utils.tables import format_table

    rows = [("probe", "metric", "value", "95 % interval", "baseline")]
    for score in report["scores"]:
        interval = f"[{score['low']:.1f}, {score['high']:.1f}]"
        numbers = f"{score['value']:.1f}", interval, f"{score['baseline']:.1f}"
        rows.append((score["probe"], score["metric"], *numbers))
    lines = [format_table(rows, "<<>>>"), ""]
    for name, side in report["data"].items():
        line = f"{name}: {side['videos']:,} videos ({side['windows']:,} windows) of {side['classes']:,} classes"
        if side["videos_of_unseen_classes"]:
            line += f"; {side['videos_of_unseen_classes']:,} of classes without training videos, counted as wrong"
        lines.append(line + format_left_out(side["left_out"], prefix="; left out: "))
    for probe, settings in report["settings"].items():
        lines.append(f"{probe}: " + ", ".join(f"{name} {value:g}" for name, value in settings.items()))
    if report["different_settings"]:
        differences = "; ".join(f"{name}: {a!r}, {b!r}" for name, (a, b) in report["different_settings"].items())
        lines.append(f"warning: train and test were extracted with different settings ({differences})")
    return "\n".join(lines)


@report_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Probes, and prints or writes the results."""
    args = parse_args(argv)
    import simplejson

    from hiera_video.utils.logging import setup_logging

    setup_logging(None)
    report = make_report(args)
    text = simplejson.dumps(report, indent=1, ignore_nan=True)
    if args.json == "-":
        print(text)
        return 0
    print(format_report(report))
    if args.json:
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        Path(args.json).write_text(text + "\n")
    return 0

"""Measures how much embeddings tell of the class of a video, with simple classifiers on top and by retrieval.

    python tools/probe_embeddings.py output/k400                                   # splits as EXTRACT wrote them
    python tools/probe_embeddings.py output/ucf --train-list train.csv --test-list test.csv
    python tools/probe_embeddings.py output/falls --metadata people.csv --group-column subject --test-groups s01 s02
    python tools/probe_embeddings.py output/k400_train --test-folder output/k400_val --probes knn linear --json -

Which videos train the classifiers and which ones test them:
  lists           lines 'path label'; a path is that of the embeddings or its end, such as 'class/video.mp4'
  a group column  of the embeddings or of --metadata; where one side's groups are given, the other has all other groups
  neither         the column split: train against test, or val where there is no test;
                  with --test-folder all of FOLDER against all of the test folder

A number is the mean over the test videos, in percent. Beside it: the 95 % bootstrap interval over test videos, and what
is had without embeddings (the most frequent training class; for retrieval the mean over random orders).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import simplejson

from hiera_video.data.lists import load_kinetics_csv
from hiera_video.embeddings.probes.labelled import group_by_video
from hiera_video.embeddings.probes.run import PROBES, run_probes
from hiera_video.embeddings.reading import Embeddings, read_embeddings
from hiera_video.embeddings.store import FAILURES
from hiera_video.utils.logging import setup_logging
from hiera_video.utils.pathmgr import pathmgr
from hiera_video.utils.tables import format_table
from hiera_video.utils.versions import get_versions

_NUM_NAMED = 3  # paths that a message shows


@dataclass(frozen=True)
class Side:
    """The training or the test videos.

    Attributes:
        embeddings: of all its labelled videos; the column ``label`` holds their labels.
        left_out: reason -> number of videos.
    """

    embeddings: Embeddings
    left_out: dict[str, int]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of this tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="embeddings, as EXTRACT writes them")
    parser.add_argument("--test-folder", help="embeddings of the test videos, where they are in another folder")
    parser.add_argument("--train-list", help="training videos: lines 'path label'")
    parser.add_argument("--test-list", help="test videos")
    parser.add_argument("--separator", default=" ", help="between path and label of the lists; default: a space")
    parser.add_argument("--group-column", help="column that tells training from test videos; default: split")
    parser.add_argument("--train-groups", nargs="+", metavar="GROUP", help="its values of training videos")
    parser.add_argument("--test-groups", nargs="+", metavar="GROUP", help="its values of test videos")
    parser.add_argument("--metadata", help=".csv or .parquet with a column path, and others to use here")
    parser.add_argument("--label-column", help="column of the classes; default: label, or the labels of the lists")
    parser.add_argument("--probes", nargs="+", choices=PROBES, default=list(PROBES), help="default: all")
    parser.add_argument("--neighbors", type=int, default=20, help="of the probe knn; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--json", metavar="FILE", help="the results for programs; - prints them instead of the table")
    args = parser.parse_args(argv)
    if (args.train_list is None) != (args.test_list is None):
        parser.error("--train-list and --test-list need each other")
    if args.train_list and (args.group_column or args.train_groups or args.test_groups):
        parser.error("give either lists or groups")
    if args.neighbors < 1:
        parser.error(f"--neighbors is {args.neighbors}; it must be at least 1")
    return args


def match_paths(wanted: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Wanted path -> the known path that equals it, or else the only one that ends with it (whole names: 'b/c.mp4' is
    the end of 'a/b/c.mp4', not of 'a/bb/c.mp4'). Paths without a match are left out.

    Raises:
        ValueError: a path is the end of several known ones.
    """
    exact = set(known)
    ends: dict[int, dict[tuple[str, ...], list[str]]] = {}  # number of names -> last names -> paths
    found = {}
    for path in wanted:
        names = _split_path(path)
        if path not in exact and len(names) not in ends:
            ends[len(names)] = {}
            for candidate in exact:
                ends[len(names)].setdefault(_split_path(candidate)[-len(names) :], []).append(candidate)
        matches = [path] if path in exact else ends[len(names)].get(names, [])
        if len(matches) > 1:
            raise ValueError(f"{path!r} is the end of {len(matches)} paths of the embeddings: {_name(sorted(matches))}")
        if matches:
            found[path] = matches[0]
    return found


def _split_path(path: str) -> tuple[str, ...]:
    return tuple(name for name in path.split("/") if name not in ("", "."))


def _name(items: Sequence[Any]) -> str:
    """The first few."""
    return ", ".join(map(str, items[:_NUM_NAMED])) + (" ..." if len(items) > _NUM_NAMED else "")


def load_embeddings(folder: str, metadata_path: str | None) -> Embeddings:
    """Embeddings with the columns of the metadata, which replace columns of the same name.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the embeddings are maps, or the metadata does not belong to them.
    """
    embeddings = read_embeddings(folder)
    shape = embeddings.info.get("shape") or []
    if len(shape) > 1:
        raise ValueError(
            f"{folder} holds maps of shape {tuple(shape)}; probes need one vector for each window: extract pooled "
            "features"
        )
    if metadata_path is None:
        return embeddings
    with pathmgr.open(metadata_path, "rb") as file:
        rows = pd.read_parquet(file) if metadata_path.lower().endswith(".parquet") else pd.read_csv(file)
    if "path" not in rows:
        raise ValueError(f"{metadata_path} has no column path; it has {', '.join(map(str, rows))}")
    table, paths = embeddings.table, rows["path"].astype(str)
    rows = rows.assign(path=paths.map(match_paths(paths.tolist(), table["path"].unique().tolist())))
    rows = rows[rows["path"].notna()]
    if rows.empty:
        raise ValueError(f"{metadata_path}: none of {len(paths)} paths is in {folder}: {_name(paths.tolist())}")
    if rows["path"].duplicated().any():
        twice = rows["path"][rows["path"].duplicated()].unique().tolist()
        raise ValueError(f"{metadata_path} has several rows of {len(twice)} videos: {_name(twice)}")
    kept = table.drop(columns=[column for column in rows if column != "path" and column in table])
    return Embeddings(
        kept.merge(rows, on="path", how="left", validate="many_to_one"), embeddings.vectors, embeddings.info
    )


def _get_column(embeddings: Embeddings, column: str) -> pd.Series:
    """Path -> value, missing where unknown."""
    table = embeddings.table
    if column not in table:
        raise ValueError(f"there is no column {column!r}; the embeddings have {', '.join(map(str, table))}")
    return table.drop_duplicates("path").set_index("path")[column].convert_dtypes()


def choose_by_list(
    embeddings: Embeddings, folder: str, list_path: str, *, separator: str, label_column: str | None
) -> Side:
    """The videos of a list. Those that EXTRACT could not read are left out.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: a line cannot be read, its path is of no video, or a video is listed with different labels.
    """
    videos = load_kinetics_csv(list_path, separator=separator, require_labels=label_column is None)
    wanted = videos.paths.tolist()
    failed: list[str] = []
    if (Path(folder) / FAILURES).is_file():
        failed = pd.read_parquet(Path(folder) / FAILURES)["path"].tolist()
    embedded = set(embeddings.table["path"])
    found = match_paths(wanted, [*embedded, *(path for path in failed if path not in embedded)])
    missing = [path for path in wanted if path not in found]
    if missing:
        raise ValueError(f"{list_path}: {len(missing)} of {len(wanted)} videos are not in {folder}: {_name(missing)}")
    labels: dict[str, Any] = {}
    for path, label in zip((found[path] for path in wanted), videos.labels.tolist(), strict=True):
        if labels.setdefault(path, label) != label:
            raise ValueError(f"{list_path} lists {path} with the labels {labels[path]} and {label}")
    chosen = [path for path in labels if path in embedded]
    if label_column is None:
        known = {path: label for path, label in labels.items() if label >= 0}
    else:
        known = _get_column(embeddings, label_column).dropna().to_dict()
    return _take(embeddings, chosen, known, {"without embeddings (see failures.parquet)": len(labels) - len(chosen)})


def choose_by_group(
    embeddings: Embeddings, column: str, groups: Sequence[str] | None, others: Sequence[str] | None, label_column: str
) -> Side:
    """The videos whose column has one of the groups; without groups, those that have one but none of the others.

    Raises:
        ValueError: there is no such column, or no video of a group.
    """
    values = _get_column(embeddings, column).astype("string").dropna()
    absent = [group for group in groups or () if group not in set(values)]
    if absent:
        raise ValueError(
            f"the column {column} has no {_name(absent)}; it has {_name(sorted(values.unique())) or 'no values'}"
        )
    chosen = values[values.isin(groups)] if groups else values[~values.isin(others)]
    labels = _get_column(embeddings, label_column).dropna().to_dict()
    return _take(embeddings, chosen.index.tolist(), labels, {})


def choose_all(embeddings: Embeddings, label_column: str) -> Side:
    """All videos of a folder."""
    labels = _get_column(embeddings, label_column)
    return _take(embeddings, labels.index.tolist(), labels.dropna().to_dict(), {})


def _take(embeddings: Embeddings, paths: Sequence[str], labels: Mapping[str, Any], left_out: dict[str, int]) -> Side:
    table = embeddings.table
    taken = [path for path in paths if path in labels]
    rows = table["path"].isin(taken).to_numpy().nonzero()[0]
    part = embeddings.take(rows)
    part = Embeddings(part.table.assign(label=part.table["path"].map(labels)), part.vectors, part.info)
    return Side(part, left_out | {"unlabelled": len(paths) - len(taken)})


def choose_sides(args: argparse.Namespace) -> tuple[Side, Side]:
    """Training and test videos.

    Raises:
        FileNotFoundError: a folder or file is missing.
        ValueError: the two cannot be told apart, share a video, or do not fit together.
    """
    train = test = load_embeddings(args.folder, args.metadata)
    test_folder = args.test_folder or args.folder
    if args.test_folder:
        test = load_embeddings(args.test_folder, args.metadata)
    label_column = args.label_column or "label"
    by_group = bool(args.group_column or args.train_groups or args.test_groups)
    if args.train_list:
        options = {"separator": args.separator, "label_column": args.label_column}
        sides = (
            choose_by_list(train, args.folder, args.train_list, **options),
            choose_by_list(test, test_folder, args.test_list, **options),
        )
    elif args.test_folder and not by_group:
        sides = choose_all(train, label_column), choose_all(test, label_column)
    else:
        column, groups = args.group_column or "split", (args.train_groups, args.test_groups)
        if groups == (None, None):
            splits = set(_get_column(test, column).astype("string").dropna())
            if not args.group_column and not splits:
                raise ValueError(f"{test_folder} tells no splits; give --train-list and --test-list, or --group-column")
            groups = ["train"], ["test" if "test" in splits else "val"]
        sides = (
            choose_by_group(train, column, groups[0], groups[1], label_column),
            choose_by_group(test, column, groups[1], groups[0], label_column),
        )
    _check_sides(*sides)
    return sides


def _check_sides(train: Side, test: Side) -> None:
    for name, side in (("training", train), ("test", test)):
        if len(side.embeddings) == 0:
            raise ValueError(f"there is no labelled {name} video ({_format_left_out(side.left_out) or 'none chosen'})")
    widths = [side.embeddings.vectors.shape[1] for side in (train, test)]
    if widths[0] != widths[1]:
        raise ValueError(f"training embeddings have {widths[0]} values and test embeddings {widths[1]}")
    shared = sorted(set(train.embeddings.table["path"]) & set(test.embeddings.table["path"]))
    if shared:
        raise ValueError(f"training and test videos overlap in {len(shared)}: {_name(shared)}")


def make_report(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that is told.

    Raises:
        FileNotFoundError, ValueError: see `choose_sides` and `hiera_video.embeddings.probes.run.run_probes`.
    """
    train, test = choose_sides(args)
    classes = sorted(train.embeddings.table["label"].unique().tolist())
    videos = [group_by_video(side.embeddings, classes) for side in (train, test)]
    probed = run_probes(
        *videos,
        num_classes=len(classes),
        probes=args.probes,
        seed=args.seed,
        num_neighbors=args.neighbors,
    )
    data = {
        name: {
            "folder": folder,
            "videos": len(group),
            "windows": len(group.windows),
            "classes": int(side.embeddings.table["label"].nunique()),
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


def compare_settings(train: Mapping[str, Any], test: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Name of a setting of the extraction that differs -> its two values."""
    old, new = train.get("settings", {}), test.get("settings", {})
    return {name: [old.get(name), new.get(name)] for name in sorted({*old, *new}) if old.get(name) != new.get(name)}


def format_report(report: Mapping[str, Any]) -> str:
    """The report for people."""
    rows = [("probe", "metric", "value", "95 % interval", "baseline")]
    for score in report["scores"]:
        interval = f"[{score['low']:.1f}, {score['high']:.1f}]"
        numbers = f"{score['value']:.1f}", interval, f"{score['baseline']:.1f}"
        rows.append((score["probe"], score["metric"], *numbers))
    lines = [format_table(rows, "<<>>>"), ""]
    for name, side in report["data"].items():
        line = f"{name}: {side['videos']:,} videos ({side['windows']:,} windows) of {side['classes']:,} classes"
        if side["videos_of_unseen_classes"]:
            line += f"; {side['videos_of_unseen_classes']:,} of classes that train lacks, counted as wrong"
        lines.append(line + _format_left_out(side["left_out"], prefix="; left out: "))
    for probe, settings in report["settings"].items():
        lines.append(f"{probe}: " + ", ".join(f"{name} {value:g}" for name, value in settings.items()))
    if report["different_settings"]:
        told = "; ".join(f"{name}: {a!r}, {b!r}" for name, (a, b) in report["different_settings"].items())
        lines.append(f"warning: train and test were extracted with different settings ({told})")
    return "\n".join(lines)


def _format_left_out(left_out: Mapping[str, int], *, prefix: str = "") -> str:
    told = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count)
    return prefix + told if told else ""


def main(argv: Sequence[str] | None = None) -> None:
    """Probes, and tells or writes."""
    args = parse_args(argv)
    setup_logging(None)
    try:
        report = make_report(args)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    text = simplejson.dumps(report, indent=1, ignore_nan=True)
    if args.json == "-":
        print(text)
        return
    print(format_report(report))
    if args.json:
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        Path(args.json).write_text(text + "\n")

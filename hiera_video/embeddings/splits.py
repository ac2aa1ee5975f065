"""Which videos of extracted embeddings train classifiers and which ones test them: by lists, groups, or folders."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hiera_video.embeddings.reading import Embeddings, read_vectors
from hiera_video.embeddings.store import FAILURES
from hiera_video.utils.pathmgr import pathmgr

_NUM_NAMED = 3  # paths that a message shows


@dataclass(frozen=True)
class Side:
    """The training or the test videos.

    Attributes:
        embeddings: of all its labeled videos; the column ``label`` holds their labels.
        left_out: reason -> number of videos.
    """

    embeddings: Embeddings
    left_out: dict[str, int]


def load_with_metadata(folder: str, metadata_path: str | None) -> Embeddings:
    """Embeddings with the columns of the metadata, which replace columns of the same name.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the embeddings are maps, or the metadata does not belong to them.
    """
    embeddings = read_vectors(folder)
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


def load_failed_paths(folder: str) -> list[str]:
    """The videos that EXTRACT could not decode."""
    path = Path(folder) / FAILURES
    return pd.read_parquet(path)["path"].tolist() if path.is_file() else []


def choose_by_list(
    embeddings: Embeddings,
    paths: Sequence[str],
    labels: Sequence[int],
    *,
    source: str,
    failed: Collection[str] = (),
    label_column: str | None = None,
) -> Side:
    """The videos of a list, without those that could not be decoded.

    Args:
        embeddings: of all videos.
        paths: of the list: those of the embeddings, or their ends.
        labels: of the list; -1: unknown.
        source: the list's file, for messages.
        failed: videos without embeddings that the list may name.
        label_column: column of the embeddings that holds the labels; None: they are those of the list.

    Raises:
        ValueError: a path belongs to no video or to several ones, or a video is listed with different labels.
    """
    embedded = set(embeddings.table["path"])
    found = match_paths(paths, [*embedded, *(path for path in failed if path not in embedded)])
    missing = [path for path in paths if path not in found]
    if missing:
        raise ValueError(
            f"{source}: {len(missing)} of {len(paths)} videos are not among the embeddings: {_name(missing)}"
        )
    listed: dict[str, int] = {}
    for path, label in zip((found[path] for path in paths), labels, strict=True):
        if listed.setdefault(path, label) != label:
            raise ValueError(f"{source} lists {path} with the labels {listed[path]} and {label}")
    chosen = [path for path in listed if path in embedded]
    known: Mapping[str, Any] = {path: label for path, label in listed.items() if label >= 0}
    if label_column is not None:
        known = _get_known(embeddings, label_column)
    return _take(embeddings, chosen, known, {"without embeddings (see failures.parquet)": len(listed) - len(chosen)})


def has_group(embeddings: Embeddings, column: str, group: str) -> bool:
    """Whether a video has this value in a column.

    Raises:
        ValueError: there is no such column.
    """
    return group in set(_get_column(embeddings, column).astype("string").dropna())


def choose_by_group(
    embeddings: Embeddings, column: str, groups: Sequence[str] | None, others: Sequence[str], label_column: str
) -> Side:
    """The videos whose column has one of the groups; without groups, the videos with any value but the others.

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
    return _take(embeddings, chosen.index.tolist(), _get_known(embeddings, label_column), {})


def choose_all(embeddings: Embeddings, label_column: str) -> Side:
    """All videos of a folder."""
    paths = _get_column(embeddings, label_column).index.tolist()
    return _take(embeddings, paths, _get_known(embeddings, label_column), {})


def check_sides(train: Side, test: Side) -> None:
    """Makes sure that a classifier can be trained on one side and tested on the other.

    Raises:
        ValueError: a side is empty, the vectors differ in length, or a video is on both sides.
    """
    for name, side in (("training", train), ("test", test)):
        if len(side.embeddings) == 0:
            raise ValueError(f"there is no labeled {name} video ({format_left_out(side.left_out) or 'none chosen'})")
    widths = [side.embeddings.vectors.shape[1] for side in (train, test)]
    if widths[0] != widths[1]:
        raise ValueError(f"training embeddings have {widths[0]} values and test embeddings {widths[1]}")
    shared = sorted(set(train.embeddings.table["path"]) & set(test.embeddings.table["path"]))
    if shared:
        raise ValueError(f"training and test videos overlap in {len(shared)}: {_name(shared)}")


def compare_settings(train: Mapping[str, Any], test: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Settings of the extraction in which two side-cars differ: name -> its two values."""
    old, new = train.get("settings", {}), test.get("settings", {})
    return {name: [old.get(name), new.get(name)] for name in sorted({*old, *new}) if old.get(name) != new.get(name)}


def format_left_out(left_out: Mapping[str, int], *, prefix: str = "") -> str:
    """Reasons and numbers in a line; "" where nothing was left out."""
    text = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count)
    return prefix + text if text else ""


def _get_column(embeddings: Embeddings, column: str) -> pd.Series:
    """Path -> value, missing where unknown."""
    table = embeddings.table
    if column not in table:
        raise ValueError(f"there is no column {column!r}; the embeddings have {', '.join(map(str, table))}")
    return table.drop_duplicates("path").set_index("path")[column].convert_dtypes()


def _get_known(embeddings: Embeddings, column: str) -> dict[str, Any]:
    """Path -> value, of the videos whose value is known."""
    values = _get_column(embeddings, column).dropna()
    return dict(zip(values.index.tolist(), values.tolist(), strict=True))


def _take(embeddings: Embeddings, paths: Sequence[str], labels: Mapping[str, Any], left_out: dict[str, int]) -> Side:
    table = embeddings.table
    taken = [path for path in paths if path in labels]
    rows = table["path"].isin(taken).to_numpy().nonzero()[0]
    part = embeddings.take(rows)
    part = Embeddings(part.table.assign(label=part.table["path"].map(labels)), part.vectors, part.info)
    return Side(part, left_out | {"unlabeled": len(paths) - len(taken)})

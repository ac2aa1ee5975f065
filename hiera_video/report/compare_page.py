"""The page of several runs: curves over each other, and whether one is really better than another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hiera_video.report.clips import ClipCard, ShownClip, load_cards
from hiera_video.report.page import Bar, Cell, Column, Row, Table, Tile, make_number, make_text, render_page
from hiera_video.report.paired import Difference, Pairs, compare_rights, pair_clips
from hiera_video.report.run_files import RunFiles
from hiera_video.report.run_page import (
    RESULTS,
    describe_interval,
    describe_run,
    get_center_sec,
    make_bars,
    make_failure_table,
)
from hiera_video.report.run_plots import make_curves, make_reliability_plot
from hiera_video.report.scored_clips import ScoredClips, compute_calibration

_NUM_SHOWN = 8  # clips of each direction of each comparison


@dataclass(frozen=True)
class Comparison:
    """What a page shows of the first run and another one.

    Attributes:
        number: of the other run.
        name: of the other run.
        base: name of the first run.
        difference: of their accuracies on the videos that both have.
        tiles: the same at a glance.
        note: which videos are compared.
        groups: title, and cards with the bars of both runs, of the videos that changed sides.
        classes: accuracy of each class in both.
    """

    number: int
    name: str
    base: str
    difference: Difference
    tiles: Sequence[Tile]
    note: str
    groups: Sequence[tuple[str, Sequence[tuple[ClipCard, Sequence[Bar], Sequence[Bar]]]]]
    classes: Table


def render_compare_page(
    runs: Sequence[RunFiles], *, page_dir: str | os.PathLike[str], num_shown: int = _NUM_SHOWN
) -> str:
    """The page of several runs as HTML; each is compared with the first.

    Args:
        runs: two or more.
        page_dir: folder that the page will lie in; videos are linked relative to it.
        num_shown: clips that were won, and that were lost, in each comparison.

    Raises:
        ValueError: two tests have the same video with different labels.
    """
    curves = make_curves(runs)
    tested = [(run, run.clips) for run in runs if run.clips is not None and len(run.clips)]
    comparisons, remarks = [], []
    for number, (run, clips) in enumerate(tested[1:], start=1):
        base, base_clips = tested[0]
        pairs = pair_clips(base_clips, clips)
        if len(pairs):
            comparisons.append(_compare((base, base_clips), (run, clips), pairs, number, page_dir, num_shown))
        else:
            remarks.append(f"{base.name} and {run.name} have no tested video in common: they cannot be compared.")
    calibrations = [(run.name, compute_calibration(clips)) for run, clips in tested]
    reliability = make_reliability_plot(calibrations) if calibrations else None
    failures = make_failure_table(runs)
    values: dict[str, Any] = {
        "results": _make_result_table(runs),
        "keys": _make_key_table(runs),
        "curves": curves,
        "comparisons": comparisons,
        "remarks": remarks,
        "reliability": reliability,
        "failures": failures if failures.rows else None,
    }
    present = [
        ("results", "Results", True),
        ("keys", "Differences of the configs", True),
        ("training", "Training", curves),
        *((f"pair-{each.number}", f"{each.name} against {each.base}", True) for each in comparisons),
        ("calibration", "Calibration", reliability),
        ("failures", "Failures", values["failures"]),
    ]
    return render_page(
        "compare.html",
        title=f"{' against '.join(run.name for run in runs[:2])}{' and others' if len(runs) > 2 else ''}",
        facts=[describe_run(run) for run in runs],
        sections=[(name, heading) for name, heading, is_there in present if is_there],
        plots=[*curves, *([reliability] if reliability else [])],
        **values,
    )


def _compare(
    base: tuple[RunFiles, ScoredClips],
    other: tuple[RunFiles, ScoredClips],
    pairs: Pairs,
    number: int,
    page_dir: str | os.PathLike[str],
    num_shown: int,
) -> Comparison:
    (run, clips), (base_run, base_clips) = other, base
    first, second = base_clips.is_right[pairs.first], clips.is_right[pairs.second]
    found = compare_rights(first, second)
    note = f"{len(pairs):,} videos that both have tested"
    if pairs.num_only_first or pairs.num_only_second:
        note += f"; {pairs.num_only_first:,} only {base_run.name}, {pairs.num_only_second:,} only {run.name}"
    groups = []
    for title, changed in (
        (f"Won: right in {run.name}, wrong in {base_run.name}", second & ~first),
        (f"Lost: right in {base_run.name}, wrong in {run.name}", first & ~second),
    ):
        chosen = _choose(base_clips, clips, pairs, changed)[:num_shown]
        shown = [
            ShownClip(
                clips.paths[pairs.second[i]],
                label=clips.class_names[clips.labels[pairs.second[i]]],
                center_sec=get_center_sec(run.config),
            )
            for i in chosen
        ]
        bars = [(make_bars(base_clips, pairs.first[i]), make_bars(clips, pairs.second[i])) for i in chosen]
        cards = [(card, *both) for card, both in zip(load_cards(shown, page_dir, with_copies=True), bars, strict=True)]
        groups.append((f"{title}: {int(changed.sum()):,} videos", cards))
    tiles = _make_tiles(found, base_run.name, run.name)
    classes = _make_class_table(base_clips, clips, pairs, number, (base_run.name, run.name))
    return Comparison(number, run.name, base_run.name, found, tiles, note, groups, classes)


def _choose(base: ScoredClips, other: ScoredClips, pairs: Pairs, changed: np.ndarray) -> list[int]:
    """Pairs that changed sides, those first whose true class gained or lost the most probability."""
    places = np.flatnonzero(changed)
    labels = base.labels[pairs.first[places]]
    moves = other.probs[pairs.second[places], labels] - base.probs[pairs.first[places], labels]
    return places[np.argsort(-np.abs(np.nan_to_num(moves)), kind="stable")].tolist()


def _make_tiles(found: Difference, base: str, other: str) -> list[Tile]:
    low, high = found.interval
    better = other if found.difference > 0 else base
    verdict = f"{better} is better" if found.p_value < 0.05 else "no clear difference"
    p_value = f"{found.p_value:.3f}" if found.p_value >= 0.001 else f"{found.p_value:.1e}"
    return [
        Tile("Difference of top-1", f"{found.difference:+.2f} points", f"95 %: {low:+.2f} to {high:+.2f}"),
        Tile("McNemar's exact test", f"p = {p_value}", verdict),
        Tile(f"Only {other} is right", f"{found.num_won:,}", f"won by {other}"),
        Tile(f"Only {base} is right", f"{found.num_lost:,}", f"lost by {other}"),
        Tile("Both are right", f"{found.num_both:,}", f"both are wrong: {found.num_neither:,}"),
    ]


def _make_class_table(
    base: ScoredClips, other: ScoredClips, pairs: Pairs, number: int, names: tuple[str, str]
) -> Table:
    labels = base.labels[pairs.first]
    count = np.bincount(labels, minlength=base.num_classes)
    rights = [
        np.bincount(labels, weights=clips.is_right[places], minlength=base.num_classes)
        for clips, places in ((base, pairs.first), (other, pairs.second))
    ]
    rows = []
    for label in np.flatnonzero(count).tolist():
        one, two = (100 * float(right[label]) / int(count[label]) for right in rights)
        cells = [make_text(base.class_names[label]), make_number(int(count[label]), "{:,}")]
        rows.append(Row([*cells, make_number(one), make_number(two), make_number(two - one, "{:+.1f}")]))
    columns = [Column("Class"), Column("Videos", True), *(Column(f"{name}, %", True) for name in names)]
    title = f"Accuracy of each class in {names[0]} and {names[1]}"
    return Table(f"class-table-{number}", title, [*columns, Column("Difference", True)], rows)


def _make_result_table(runs: Sequence[RunFiles]) -> Table:
    keys = [key for key in RESULTS if any(isinstance(run.results.get(key), int | float) for run in runs)]
    rows = []
    for run in runs:
        cells = [make_text(run.name)]
        for key in keys:
            value = run.results.get(key)
            interval = describe_interval(run.results, key)
            text = "" if value is None else f"{value:.2f}{f' ({interval})' if interval else ''}"
            cells.append(Cell(text, "" if value is None else value))
        for column, form, choose in (("loss", "{:.4g}", -1), ("clips_per_sec", "{:,.4g}", None)):
            values = run.train[column].astype(float) if column in run.train else None
            number = None if values is None else values.iloc[choose] if choose is not None else values.median()
            cells.append(make_number(number, form))
        rows.append(Row(cells))
    titles = [f"{RESULTS[key]}, %" for key in keys]
    columns = [Column("Run"), *(Column(title, True) for title in titles)]
    return Table(
        "result-table",
        "Results of each run",
        [*columns, Column("Last loss", True), Column("Clips a second", True)],
        rows,
    )


def _make_key_table(runs: Sequence[RunFiles]) -> Table:
    """The keys of the configs that differ."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    rows = []
    for key in keys:
        values = [run.config.get(key, "") for run in runs]
        if len(set(values)) > 1:
            rows.append(Row([make_text(key), *map(make_text, values)]))
    columns = [Column("Key"), *(Column(run.name) for run in runs)]
    return Table("key-table", "Keys of the configs that differ", columns, rows)

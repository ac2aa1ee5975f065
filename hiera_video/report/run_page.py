"""The page of one run: what it is, how it learned, what came out, which classes and clips fail."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from hiera_video.report.clip_table import make_clip_data
from hiera_video.report.clips import ClipCard, ShownClip, load_cards
from hiera_video.report.label_sets import ScoredLabelSets
from hiera_video.report.page import (
    Bar,
    Cell,
    Column,
    Row,
    Table,
    Tile,
    make_data_uri,
    make_number,
    make_text,
    render_page,
)
from hiera_video.report.run_files import RunFiles
from hiera_video.report.run_plots import make_confusion_plot, make_curves, make_reliability_plot
from hiera_video.report.scored_clips import (
    Calibration,
    ScoredClips,
    compute_calibration,
    compute_class_scores,
    order_classes,
)

PAGE = "report.html"  # in OUTPUT_DIR
_NUM_SHOWN = 12  # clips in each gallery
_NUM_CONFUSIONS = 100
RESULTS = {
    "top1": "Top-1",
    "top5": "Top-5",
    "mean_class_accuracy": "Mean over classes",
    "knn_top1": "Top-1 of nearest neighbors",
    "map": "mAP",
    "f1_micro": "F1 over all answers",
    "f1_macro": "F1, mean over classes",
    "box_ap": "Box AP",
    "box_ap50": "Box AP50",
    "mask_ap": "Mask AP",
    "mask_ap50": "Mask AP50",
}
# What a reader wants to know first of a config.
_CONFIG = (
    *("TASK", "MODEL.MODEL_NAME", "MODEL.NUM_CLASSES", "DATA.FORMAT", "DATA.PATH_TO_DATA_DIR", "DATA.NUM_FRAMES"),
    *("DATA.SAMPLING_RATE", "DATA.TRAIN_CROP_SIZE", "DATA.TEST_CROP_SIZE", "TRAIN.BATCH_SIZE", "TRAIN.PRECISION"),
    *(
        "TRAIN.CHECKPOINT_FILE_PATH",
        "MAE.MASK_RATIO",
        "AUG.NUM_SAMPLE",
        "MIXUP.ENABLE",
        "SOLVER.MAX_EPOCH",
        "SOLVER.BASE_LR",
    ),
    *("SOLVER.LAYER_DECAY", "SOLVER.WEIGHT_DECAY", "RNG_SEED", "TEST.NUM_ENSEMBLE_VIEWS", "TEST.NUM_SPATIAL_CROPS"),
)
# Of a test: key -> what a reader calls it.
_COUNTS = {
    "split": "split",
    "num_videos": "videos",
    "num_pictures": "pictures",
    "num_key_frames": "key frames",
    "num_boxes": "boxes",
    "num_evaluated": "decoded",
    "num_failed": "failed, counted as wrong",
    "num_empty_classes": "classes without videos",
    "num_repeated_paths": "paths listed again",
    "num_views": "views of each",
    "num_instances": "things in the truth",
    "num_detections": "things found",
    "protocol": "protocol",
    "checkpoint": "weights",
    "test_seconds": "seconds",
}


def render_run_page(
    run: RunFiles,
    *,
    page_dir: str | os.PathLike[str],
    num_shown: int = _NUM_SHOWN,
) -> str:
    """The page of a run as HTML; it decodes a picture of each clip that it shows.

    Args:
        run: what the job has left.
        page_dir: folder that the page will lie in; videos are linked relative to it.
        num_shown: clips among the worst mistakes, and among the least certain.
    """
    curves = make_curves([run])
    values: dict[str, Any] = {
        "tiles": make_tiles(run),
        "config": _make_pairs(
            "config-short",
            "The most important keys of the config",
            _pick(run.config, _name_keys(run)),
        ),
        "counts": _make_pairs("counts", "What was tested", _pick(run.results, _COUNTS)),
        "all_config": _make_pairs("config-all", "All keys of the config", run.config, "pairs"),
        "curves": curves,
        "reconstructions": [
            (name, [(text, make_data_uri(jpeg)) for text, jpeg in pictures]) for name, pictures in run.reconstructions
        ],
        "failures": make_failure_table([run]) if run.failures else None,
        "tables": _make_result_tables(run.results),
        "clips": None,
        "label_sets": None,
    }
    if run.label_sets is not None:
        values["tables"].append(_make_label_set_table(run.label_sets))
        values["label_sets"] = _describe_label_sets(run.label_sets, get_center_sec(run.config), page_dir, num_shown)
    plots, data = list(curves), {}
    if run.clips is not None and len(run.clips):
        values["clips"] = _describe_clips(run.clips, get_center_sec(run.config), page_dir, num_shown)
        plots += [values["clips"]["confusion"], values["clips"]["reliability"]]
        data["clips-data"] = make_clip_data(run.clips, page_dir)
        data["order-data"] = values["clips"]["order"].tolist()
    versions = run.results.get("versions", {})
    return render_page(
        "report.html",
        title=f"Report of {run.name}",
        facts=[describe_run(run), ", ".join(f"{name} {version}" for name, version in versions.items())],
        sections=_list_sections(values),
        plots=plots,
        scripts=["report.js"] if values["clips"] else [],
        data=data,
        **values,
    )


def _name_keys(run: RunFiles) -> dict[str, str]:
    """Which keys the summary shows; those of jobs that did not run are left out."""
    left_out = [] if run.results else ["TEST."]
    left_out += [] if run.config.get("TASK") == "pretrain" else ["MAE."]
    return {key: key for key in _CONFIG if not key.startswith(tuple(left_out))}


def describe_run(run: RunFiles) -> str:
    """One line: the folder, the task, the model, the epochs."""
    parts = [run.folder, run.config.get("TASK", ""), run.config.get("MODEL.MODEL_NAME", "")]
    if not run.train.empty:
        parts.append(f"{run.train['epoch'].iloc[-1]:.4g} of {run.config.get('SOLVER.MAX_EPOCH', '?')} epochs")
    return " · ".join(part for part in parts if part)


def make_tiles(run: RunFiles) -> list[Tile]:
    """The numbers that a reader looks for first."""
    tiles = []
    for key, title in RESULTS.items():
        if isinstance(run.results.get(key), int | float):
            tiles.append(Tile(title, f"{run.results[key]:.2f} %", describe_interval(run.results, key)))
    if not tiles and not run.validation.empty:
        for key, title in RESULTS.items():
            if key in run.validation:
                best = run.validation[key].astype(float).max()
                tiles.append(Tile(f"{title}, validation", f"{best:.2f} %", "the best epoch"))
    if run.clips is not None and not run.clips.is_failed.all():
        calibration = compute_calibration(run.clips)
        mean = float(np.nanmean(run.clips.confidences))
        note = f"mean confidence {100 * mean:.1f} %"
        tiles.append(Tile("Calibration error", f"{100 * calibration.error:.2f} %", note))
    counted = next((key for key in ("num_videos", "num_pictures") if key in run.results), "")
    if counted:
        failed = int(run.results.get("num_failed", 0))
        note = f"{failed:,} undecodable, counted as wrong" if failed else "all decoded"
        tiles.append(Tile(f"{counted.removeprefix('num_').capitalize()} tested", f"{run.results[counted]:,}", note))
    if "loss" in run.train:
        losses = run.train["loss"].astype(float)
        tiles.append(Tile("Loss of training", f"{losses.iloc[-1]:.4g}", f"at first {losses.iloc[0]:.4g}"))
    if "clips_per_sec" in run.train:
        tiles.append(
            Tile("Speed", f"{run.train['clips_per_sec'].astype(float).median():,.4g}", "clips a second, median")
        )
    return tiles


def describe_interval(results: Mapping[str, Any], key: str) -> str:
    """``95 %: 80.1 to 84.9``; "" where there is no interval."""
    ends = results.get(f"{key}_interval")
    return f"95 %: {ends[0]:.2f} to {ends[1]:.2f}" if ends and None not in ends else ""


def get_center_sec(config: Mapping[str, str]) -> float:
    """Length of the clip that a test of one view took from the middle of each video; NaN where it saw more."""
    if config.get("TEST.NUM_ENSEMBLE_VIEWS") != "1" or config.get("DATA.SAMPLING") != "clip":
        return math.nan
    frames, rate, fps = (float(config[f"DATA.{key}"]) for key in ("NUM_FRAMES", "SAMPLING_RATE", "TARGET_FPS"))
    return frames * rate / fps


def make_cards(
    clips: ScoredClips, chosen: Sequence[int], center_sec: float, page_dir: str | os.PathLike[str]
) -> list[tuple[ClipCard, list[Bar]]]:
    """Players of some clips, each with the bars of its five likeliest classes."""
    shown = [ShownClip(clips.paths[i], label=clips.class_names[clips.labels[i]], center_sec=center_sec) for i in chosen]
    return list(zip(load_cards(shown, page_dir, with_copies=True), [make_bars(clips, i) for i in chosen], strict=True))


def make_bars(clips: ScoredClips, clip: int) -> list[Bar]:
    """The five likeliest classes of a clip, and its own where it is not among them."""
    top, label = clips.find_top(clip), int(clips.labels[clip])
    bars = []
    for rank, number in enumerate(top if label in top or not top else [*top, label]):
        kind = "right" if number == label else "wrong" if rank == 0 else ""
        share = float(clips.probs[clip, number])
        bars.append(Bar(clips.class_names[number], share, f"{100 * share:.1f} %", kind))
    return bars


def make_failure_table(runs: Sequence[RunFiles]) -> Table:
    """Videos that could not be used, with reasons."""
    rows = []
    for run in runs:
        for path, reason, where in run.failures:
            cells = [make_text(path or "see the reason"), make_text(reason), make_text(where)]
            rows.append(Row([*cells, make_text(run.name)] if len(runs) > 1 else cells))
    columns = [Column("Video"), Column("Reason"), Column("In"), *([Column("Run")] if len(runs) > 1 else [])]
    return Table("failures-table", "Videos that failed, with reasons", columns, rows)


def _describe_clips(
    clips: ScoredClips, center_sec: float, page_dir: str | os.PathLike[str], num_shown: int
) -> dict[str, Any]:
    calibration = compute_calibration(clips)
    order = order_classes(clips.confusion)
    return {
        "classes": _make_class_table(clips),
        "confusion": make_confusion_plot(clips, order),
        "confusions": _make_confusion_table(clips),
        "reliability": make_reliability_plot([("this run", calibration)]),
        "calibration": calibration,
        "bins": _make_bin_table(calibration),
        "worst": make_cards(clips, clips.find_worst(num_shown), center_sec, page_dir),
        "uncertain": make_cards(clips, clips.find_least_certain(num_shown), center_sec, page_dir),
        "num_wrong": int((~clips.is_right).sum()),
        "order": order,
    }


def _describe_label_sets(
    videos: ScoredLabelSets, center_sec: float, page_dir: str | os.PathLike[str], num_shown: int
) -> dict[str, Any]:
    galleries = {}
    for name, chosen in (("wrong", videos.find_wrong(num_shown)), ("missed", videos.find_missed(num_shown))):
        shown = [ShownClip(videos.paths[i], label=videos.name_labels(i), center_sec=center_sec) for i in chosen]
        bars = [videos.make_bars(i) for i in chosen]
        galleries[name] = list(zip(load_cards(shown, page_dir, with_copies=True), bars, strict=True))
    return galleries


def _make_label_set_table(videos: ScoredLabelSets) -> Table:
    """Each class of videos that may have several, the worst first."""
    rows = []
    numbers = ("ap", "precision", "recall", "f1")
    for _, scores in videos.classes.sort_values("ap", na_position="last", kind="stable").iterrows():
        count, interval = int(scores["num_videos"]), ""
        if not math.isnan(scores["ap_low"]):
            interval = f"{scores['ap_low']:.0f} to {scores['ap_high']:.0f}"
        cells = [make_text(str(scores["class"])), make_number(count, "{:,}"), make_number(scores["ap"])]
        cells += [Cell(interval, scores["ap_low"] if interval else ""), make_number(scores["threshold"], "{:.3f}")]
        rows.append(Row([*cells, *(make_number(scores[name]) for name in numbers[1:])]))
    columns = [Column("Class"), Column("Videos", True), Column("AP, %", True, "ascending"), Column("95 %", True)]
    columns += [Column(title, True) for title in ("Threshold", "Precision, %", "Recall, %", "F1, %")]
    return Table("class-table", "Numbers of each class", columns, rows)


def _make_class_table(clips: ScoredClips) -> Table:
    rows = []
    numbered = enumerate(compute_class_scores(clips))
    for label, scores in sorted(numbered, key=lambda each: (not each[1].num_videos, each[1].recall)):
        other = scores.confused_with
        name = clips.class_names[label]
        low, high = math.nan, math.nan
        if scores.num_videos:
            found = binomtest(round(scores.recall * scores.num_videos), scores.num_videos)
            ends = found.proportion_ci(0.95, method="wilson")
            low, high = 100 * ends.low, 100 * ends.high
        confused = f"{clips.class_names[other]} ({scores.num_confused:,})" if other is not None else ""
        cells = [
            make_text(name, shows=f"{label}-wrong" if scores.num_videos and scores.recall < 1 else ""),
            make_number(scores.num_videos, "{:,}"),
            make_number(100 * scores.recall),
            Cell(f"{low:.0f} to {high:.0f}" if scores.num_videos else "", low if scores.num_videos else ""),
            make_number(100 * scores.precision),
            make_number(100 * scores.in_top5),
            Cell(confused, scores.num_confused or "", shows=f"{label}-{other}" if other is not None else ""),
        ]
        rows.append(Row(cells))
    columns = [
        Column("Class"),
        Column("Videos", True),
        Column("Accuracy = recall, %", True, "ascending"),
        Column("95 %", True),
    ]
    columns += [Column("Precision, %", True), Column("In top-5, %", True), Column("Most confused with", True)]
    return Table("class-table", "Numbers of each class", columns, rows)


def _make_confusion_table(clips: ScoredClips) -> Table:
    """The largest cells beside the diagonal; it also tells what the matrix shows to those who do not see it."""
    wrong = clips.confusion.copy()
    np.fill_diagonal(wrong, 0)
    sizes = np.bincount(clips.labels, minlength=clips.num_classes)
    rows = []
    for cell in np.argsort(-wrong, axis=None, kind="stable")[:_NUM_CONFUSIONS].tolist():
        label, other = divmod(cell, clips.num_classes)
        count = int(wrong[label, other])
        if not count:
            break
        cells = [make_text(clips.class_names[label]), make_text(clips.class_names[other])]
        cells += [Cell(f"{count:,}", count, shows=f"{label}-{other}"), make_number(100 * count / sizes[label])]
        rows.append(Row(cells))
    columns = [
        Column("True class"),
        Column("Taken for"),
        Column("Videos", True, "descending"),
        Column("Of the class, %", True),
    ]
    return Table("confusion-table", "The classes that are confused most often", columns, rows)


def _make_bin_table(found: Calibration) -> Table:
    rows = []
    for number, count in enumerate(found.counts.tolist()):
        if not count:
            continue
        ends = (100 * number / len(found.counts), 100 * (number + 1) / len(found.counts))
        cells = [Cell(f"{ends[0]:.0f} to {ends[1]:.0f}", ends[0]), make_number(count, "{:,}")]
        cells += [make_number(100 * found.confidence[number]), make_number(100 * found.accuracy[number])]
        rows.append(Row(cells))
    columns = [Column("Confidence, %", True), Column("Videos", True), Column("Mean confidence, %", True)]
    return Table(
        "bin-table", "Bins of the reliability diagram", [*columns, Column("Accuracy, %", True)], rows, kind="whole"
    )


def _make_result_tables(results: Mapping[str, Any]) -> list[Table]:
    """Results that have no page of their own: the numbers of a test of boxes, in all and by class."""
    if not results or "top1" in results:
        return []
    numbers = {key: value for key, value in results.items() if isinstance(value, int | float) and key not in _COUNTS}
    tables = [_make_pairs("numbers", "All numbers", {key: f"{value:.4g}" for key, value in numbers.items()})]
    by_class = results.get("per_class") or {}
    entries = [{"class": name, **own} for name, own in by_class.items()] or results.get("classes") or []
    if entries:
        names = list(entries[0])
        columns = [Column(name, not isinstance(entries[0][name], str)) for name in names]
        rows = [Row([_make_cell(entry.get(name)) for name in names]) for entry in entries]
        tables.append(Table("class-table", "Numbers of each class", columns, rows))
    return tables


def _make_cell(value: Any) -> Cell:
    if isinstance(value, str):
        return make_text(value)
    return make_number(value, "{:,}" if isinstance(value, int) else "{:.2f}")


def _pick(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, str]:
    return {name: str(values[key]) for key, name in names.items() if values.get(key, "") != ""}


def _make_pairs(name: str, caption: str, values: Mapping[str, str], kind: str = "pairs whole") -> Table:
    rows = [Row([make_text(key), make_text(value)]) for key, value in values.items()]
    return Table(name, caption, [Column("Key"), Column("Value")], rows, sortable=False, kind=kind)


def _list_sections(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    present = [
        ("summary", "Summary", True),
        ("training", "Training", values["curves"]),
        ("reconstructions", "Reconstructions", values["reconstructions"]),
        ("results", "Results", values["tables"]),
        ("classes", "Classes", values["clips"]),
        ("confusion", "Confusion", values["clips"]),
        ("calibration", "Calibration", values["clips"]),
        ("mistakes", "Worst mistakes", values["clips"]),
        ("uncertain", "Least certain", values["clips"]),
        ("wrong", "Wrongly found", values["label_sets"]),
        ("missed", "Missed", values["label_sets"]),
        ("failures", "Failures", values["failures"]),
        ("config", "Config", values["all_config"].rows),
    ]
    return [(name, heading) for name, heading, is_there in present if is_there]

"""Formats the report of `hiera-video check` as a page of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hiera_video.utils.tables import format_table

_NUM_NAMED = 3  # findings of each kind to show; the JSON report has all
_MAX_COMMON = 4  # codecs and sizes to show
_PROPERTIES = {
    "duration_sec": "length, s",
    "frames": "frames",
    "fps": "frames a second",
    "short_side_px": "short side, px",
    "long_side_px": "long side, px",
    "key_frame_distance_frames": "frames from key to key",
}


def format_summary(report: Mapping[str, Any]) -> str:
    """The page that the terminal shows.

    Args:
        report: the object that `hiera-video check` writes as JSON.
    """
    sections = [
        ("Lists", _format_lists(report["splits"])),
        ("Boxes", _format_boxes(report.get("boxes", {}))),
        ("Errors", _format_findings(report, "error")),
        ("Warnings", _format_findings(report, "warning")),
        ("Videos", _format_videos(report)),
        ("Compared with the usual size", [_format_known(row) for row in report["known_data_sets"]]),
        ("Forecast for training", _format_forecast(report["forecast"])),
        (
            "Written",
            [f"{report['written']['manifest']} (give it to jobs as DATA.MANIFEST)", report["written"]["report"]],
        ),
    ]
    lines = [f"{report['path_prefix']}: {report['num_videos']:,} videos checked in {report['seconds']:.1f} s"]
    for title, body in sections:
        if body:
            lines += ["", title, *(f"  {line}".rstrip() for line in body)]
    return "\n".join([*lines, "", _format_verdict(report)])


def _format_lists(splits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [("", "listed", "usable", "with labels of", "list")]
    for name, split in splits.items():
        classes = f"{split['classes']:,} classes" if split["classes"] else "-"
        rows.append((name, f"{split['listed']:,}", f"{split['usable']:,}", classes, split["source"]))
    return format_table(rows, "<>>><").split("\n")


def _format_boxes(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    if not counts:
        return []
    names = ("key_frames", "boxes", "labels", "persons")
    rows: list[Sequence[str]] = [("", "moments of the truth", "boxes", "labels", "predicted persons")]
    rows += [(split, *(f"{row[name]:,}" for name in names)) for split, row in counts.items()]
    return format_table(rows, "<>>>>").split("\n")


def _format_findings(report: Mapping[str, Any], severity: str) -> list[str]:
    lines: list[str] = []
    prefix = report["path_prefix"].rstrip("/") + "/"  # the same in all paths; the heading shows it once
    for kind, group in report["findings"].items():
        if group["severity"] != severity:
            continue
        findings = group["found"]
        lines.append(f"{len(findings):>7,}  {kind}: {group['meaning']}")
        for finding in findings[:_NUM_NAMED]:
            is_video = finding["subject"] not in report["splits"]
            where = f" [{', '.join(finding['splits'])}]" if is_video and finding["splits"] else ""
            reason = f": {finding['reason']}" if finding["reason"] else ""
            lines.append(f"{'':9}- {finding['subject']}{where}{reason}".replace(prefix, ""))
        if len(findings) > _NUM_NAMED:
            lines.append(f"{'':9}... and {len(findings) - _NUM_NAMED:,} more: see {report['written']['report']}")
    return lines


def _format_videos(report: Mapping[str, Any]) -> list[str]:
    table = report["distributions"]
    if not table:
        return []
    rows: list[Sequence[str]] = [("", "min", "5 %", "median", "95 %", "max")]
    for name, title in _PROPERTIES.items():
        if name in table:
            rows.append(
                (title, *(_format_number(table[name][point]) for point in ("min", "p5", "median", "p95", "max")))
            )
    lines = format_table(rows, "<>>>>>").split("\n")
    lines.append(f"codecs: {_format_common(report['codecs'])}")
    lines.append(f"sizes:  {_format_common(report['sizes'])}")
    if report["num_counted"]:
        lines.append(
            f"decoded from the start each time, as no key frame can be relied on: {report['num_counted']:,} videos"
        )
    return lines


def _format_common(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    shares = [f"{name} {count / total:.1%}" for name, count in list(counts.items())[:_MAX_COMMON]]
    return ", ".join(shares) + (f", {len(counts) - _MAX_COMMON} others" if len(counts) > _MAX_COMMON else "")


def _format_known(row: Mapping[str, Any]) -> str:
    gap = f"{row['missing']:,} missing ({row['missing'] / row['official']:.1%})" if row["missing"] else "none missing"
    return (
        f"{row['split']}: {row['usable']:,} usable of {row['official']:,} of {row['data_set']}, {gap} ({row['source']})"
    )


def _format_forecast(forecast: Mapping[str, Any] | None) -> list[str]:
    if forecast is None:
        return []
    waiting = 1 - forecast["cpu_share"]
    cores = forecast["cores_per_gpu"]
    note = f"; {waiting:.0%} of the time went into waiting for the disk or for others" if waiting > 0.1 else ""
    return [
        f"{forecast['clips_per_sec']:.1f} clips/s on one core of this machine ({forecast['clips']} clips in "
        f"{forecast['seconds']:.1f} s{note})",
        f"a GPU that takes {forecast['gpu_clips_per_sec']:g} clips/s needs {cores} core{'s' * (cores != 1)}; "
        f"this machine has {forecast['cores_here']}",
    ]


def _format_verdict(report: Mapping[str, Any]) -> str:
    counts = {severity: 0 for severity in ("error", "warning")}
    for group in report["findings"].values():
        counts[group["severity"]] += len(group["found"])
    counted = [f"{count:,} {name}{'s' * (count != 1)}" for name, count in counts.items() if count]
    return f"Result: {' and '.join(counted) or 'nothing is wrong'}"


def _format_number(value: float) -> str:
    if math.isclose(value, round(value), abs_tol=5e-3):
        return f"{round(value):,}"
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"

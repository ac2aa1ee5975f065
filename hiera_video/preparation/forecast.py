"""What preparing a data set will cost and bring, from a sample; and afterwards, what it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hiera_video.preparation.prepare_video import Outcome
from hiera_video.utils.tables import format_bytes, format_table
from hiera_video.video.manifest import OK

_MIN_SAMPLE = 8
_NAMED = 5  # failures and damaged sources that the report shows; the files name all


def choose_sample(count: int, *, num_workers: int) -> list[int]:
    """Which of ``count`` videos to begin with, drawn at random: a quarter at most, and about one for each process."""
    size = min(max(_MIN_SAMPLE, num_workers), max(count // 4, min(count, 1)))
    return sorted(np.random.default_rng(0).choice(count, size, replace=False).tolist()) if count else []


def compute_forecast(sample: Sequence[Outcome], todo_bytes: Sequence[int], *, num_cores: int) -> dict[str, Any]:
    """What all videos will take, if they are like those of the sample.

    Args:
        sample: what became of some of them.
        todo_bytes: sizes of all that are to do, 0 where unknown; these count as much as the mean of the others.
        num_cores: that work at the same time.

    Returns:
        ``num_videos``, ``num_sampled``, ``core_hours``, ``hours``, ``bytes`` then and ``bytes_now``; the last four are
        None where no video of the sample could be prepared.
    """
    good = [outcome for outcome in sample if outcome.record.status == OK]
    counts: dict[str, Any] = {"num_videos": len(todo_bytes), "num_sampled": len(sample), "num_failed": 0}
    counts["num_failed"] = len(sample) - len(good)
    if not good:
        return counts | dict.fromkeys(("core_hours", "hours", "bytes", "bytes_now"))
    scale = len(todo_bytes) / len(sample)
    known, sampled = sum(todo_bytes), sum(outcome.source_bytes for outcome in sample)
    if sampled and known and all(todo_bytes):
        scale = known / sampled  # by bytes: videos differ in length
    core_hours = sum(outcome.cpu_sec for outcome in good) * scale / 3600
    return counts | {
        "core_hours": core_hours,
        "hours": core_hours / num_cores,
        "bytes": round(sampled * scale),
        "bytes_now": round(sum(outcome.record.size_bytes or 0 for outcome in good) * scale),
    }


def compute_result(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What the files that are there took and are: counts, bytes, and how near their pictures are to the sources'."""
    good = [outcome for outcome in outcomes if outcome.record.status == OK]
    failed = [outcome for outcome in outcomes if outcome.record.status != OK]
    damaged = [outcome for outcome in good if outcome.note]
    result: dict[str, Any] = {
        "num_videos": len(outcomes),
        "num_prepared": len(good),
        "num_failed": len(failed),
        "num_damaged": len(damaged),
        "failed": [
            f"{outcome.source}: {outcome.record.status}: {outcome.record.reason}" for outcome in failed[:_NAMED]
        ],
        "damaged": [f"{outcome.source}: {outcome.note}" for outcome in damaged[:_NAMED]],
        "core_hours": sum(outcome.cpu_sec for outcome in good) / 3600,
        "bytes": sum(outcome.source_bytes for outcome in good),
        "bytes_now": sum(outcome.record.size_bytes or 0 for outcome in good),
        "frames": sum(outcome.record.index.num_frames for outcome in good if outcome.record.index is not None),
    }
    if good:
        worst = min(good, key=lambda outcome: outcome.ssim)
        result |= {
            "psnr_db": float(np.mean([outcome.psnr_db for outcome in good])),
            "ssim": float(np.mean([outcome.ssim for outcome in good])),
            "worst": {"source": worst.source, "psnr_db": worst.psnr_db, "ssim": worst.ssim},
        }
    return result


def format_forecast(forecast: Mapping[str, Any], rates: Mapping[str, float]) -> str:
    """The lines that are shown before the work."""
    head = f"forecast from {forecast['num_sampled']} of {forecast['num_videos']:,} videos to prepare"
    if forecast["hours"] is None:
        return f"{head}: none of them could be prepared"
    failed = f"; {forecast['num_failed']} of the sample could not be prepared" if forecast["num_failed"] else ""
    lines = [f"{head}{failed}"]
    lines += [f"  time       {_format_hours(forecast['hours'])} ({_format_hours(forecast['core_hours'])} of one core)"]
    return "\n".join([*lines, *_format_sizes(forecast), *_format_rates(rates)])


def format_result(report: Mapping[str, Any]) -> str:
    """The page that is shown at the end."""
    result, rates = report["result"], report["rates"]
    lines = [
        f"{report['output_dir']}: {result['num_prepared']:,} of {result['num_videos']:,} videos are prepared, "
        f"{report['num_new']:,} of them by this start in {report['seconds']:.1f} s; {result['num_failed']} could not be"
    ]
    lines += [f"  - {text}" for text in result["failed"]]
    if result["num_damaged"]:
        lines.append(f"{result['num_damaged']} sources are damaged; what decodes of them is prepared")
        lines += [f"  - {text}" for text in result["damaged"]]
    if result["num_prepared"]:
        lines.append(f"  time       {_format_hours(result['core_hours'])} of one core, by all starts together")
        lines += [*_format_sizes(result), *_format_rates(rates)]
        worst = result["worst"]
        lines += [
            f"  frames     {result['frames']:,}, each where it was; counted by decoding every new file",
            f"  pictures   PSNR {result['psnr_db']:.1f} dB, SSIM {result['ssim']:.4f} (means of two frames a video); "
            f"least like its source: {worst['source']} ({worst['psnr_db']:.1f} dB, {worst['ssim']:.4f})",
        ]
    rows = [(f"  {name}", value if value.strip() else repr(value)) for name, value in report["keys"].items()]
    lines += [f"Written: lists, manifest, and a config with these keys, {report['config']}:", format_table(rows, "<<")]
    return "\n".join(lines)


def _format_sizes(sizes: Mapping[str, Any]) -> list[str]:
    if not sizes["bytes"]:
        return [f"  bytes      {format_bytes(sizes['bytes_now'])} now"]
    share = sizes["bytes_now"] / sizes["bytes"]
    return [f"  bytes      {format_bytes(sizes['bytes'])} then, {format_bytes(sizes['bytes_now'])} now ({share:.2f}x)"]


def _format_rates(rates: Mapping[str, float]) -> list[str]:
    if not rates:
        return []
    then, now = rates["then"], rates["now"]
    return [f"  training   {then:.1f} clips/s per core then, {now:.1f} now ({now / then:.1f}x)"]


def _format_hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.1f} min" if hours * 60 >= 1 else f"{hours * 3600:.1f} s"

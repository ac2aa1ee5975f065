"""Formats the plan of a run as a page of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hiera_video.utils.tables import format_bytes, format_table

_PARTS = {
    "weights": "weights, fp32",
    "parameters": "weights, fp32 (this GPU's share)",
    "gradients": "gradients, fp32",
    "optimizer": "optimizer",
    "moments": "optimizer (this GPU's share)",
    "average": "moving average of the weights",
    "gathered": "whole weights to compute with",
    "in_flight": "gradients on their way to other GPUs",
    "input": "clips",
    "activations": "activations",
    "activations_and_input": "activations and clips",
    "temporary": "more at the peak: results in between",
}


def format_plan(plan: Mapping[str, Any]) -> str:
    """The page that the terminal shows.

    Args:
        plan: the object that `hiera-video plan` writes as JSON.
    """
    model, memory = plan["model"], plan["memory"]
    title = f"{plan['task']} {model['name']} on {plan['gpus']} GPU{'s' * (plan['gpus'] != 1)} of "
    sections = [
        ("Run", _format_run(plan)),
        ("Memory of a GPU", _format_memory(plan)),
        ("What has to change" if not memory["fits"] else "", _format_changes(plan)),
        ("Time and data", _format_time(plan)),
        ("Checkpoints", _format_checkpoints(plan["checkpoints"])),
        ("Other numbers of GPUs", _format_sweep(plan.get("sweep"))),
        ("Assumed", [f"- {line}" for line in _list_assumptions(plan)]),
    ]
    lines = [title + f"{memory['gpu_bytes'] / 1e9:g} GB"]
    for heading, body in sections:
        if heading and body:
            lines += ["", heading, *(f"  {line}".rstrip() for line in body)]
    return "\n".join(lines)


def format_count(number: float) -> str:
    """A large count with a unit: 710.9 M, 184.2 G."""
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:,.0f}"


def _align(rows: Sequence[tuple[str, str]]) -> list[str]:
    return format_table(rows, "<<").split("\n")


def _format_run(plan: Mapping[str, Any]) -> list[str]:
    model, run, flops = plan["model"], plan["run"], plan["flops"]
    hidden = f", {model['mask_ratio']:.0%} hidden" if model["mask_ratio"] is not None else ""
    frames = f"{model['num_frames']} frames of " if model["num_frames"] > 1 else ""
    rows = [
        ("parameters", format_count(model["parameters"])),
        ("a clip", f"{frames}{model['crop_size_px']} px{hidden}"),
        ("videos", f"{run['num_videos']:,}, {run['videos_source']}"),
        ("steps", f"{run['steps']:,} ({run['steps_per_epoch']:,} an epoch) of {plan['batch_clips']:,} clips"),
        ("clips", f"{run['clips']:,} of {run['decoded_videos']:,} decoded videos"),
        ("", f"each video is decoded {run['passes_over_videos']:.1f} times"),
        (
            "operations",
            f"{format_count(flops['forward_per_clip'] / 2)} multiply-adds forward a clip (papers' FLOPs)",
        ),
        ("", f"{format_count(flops['per_step'])}FLOP a step, forward and backward (2 a multiply-add)"),
        ("", f"{format_count(flops['of_run'])}FLOP the run"),
    ]
    if "recomputed_per_clip" in flops:
        more = flops["recomputed_per_clip"] / (flops["forward_per_clip"] + flops["backward_per_clip"])
        rows.append(("", f"{more:.0%} more for what MODEL.ACT_CHECKPOINT computes again"))
    if "mfu" in flops:
        rows.append(("share of the GPU's best", f"{flops['mfu']:.1%} (MFU)"))
    return _align(rows)


def _format_memory(plan: Mapping[str, Any]) -> list[str]:
    memory, setting = plan["memory"], plan["memory"]["setting"]
    budget = f"{format_bytes(memory['budget_bytes'])} may be used"
    lines = []
    if setting is None:
        lines.append(f"{plan['batch_clips']:,} clips cannot be divided over {plan['gpus']} GPUs as the config says")
    else:
        accumulated = f"{setting['passes']} pass{'es' * (setting['passes'] != 1)} of {setting['clips']} clips a step"
        lines.append(
            f"{accumulated}, {plan['model']['precision']}, sharding {setting['sharding']}"
            + (", blocks computed again" if setting["checkpointing"] else "")
        )
        rows = [(_PARTS[name], format_bytes(value)) for name, value in memory["parts"].items()]
        rows.append(("together, at most", format_bytes(setting["peak_bytes"])))
        lines += format_table(rows, "<>").split("\n")
        lines.append(f"{'fits' if memory['fits'] else 'DOES NOT FIT'}: {budget}")
    largest = memory["largest_pass_clips"]
    lines.append(f"largest pass that fits: {largest} clips" if largest else "not even the smallest pass fits")
    return lines


def _format_changes(plan: Mapping[str, Any]) -> list[str]:
    if not plan["changes"]:
        return ["no setting of passes, recomputation and sharding fits: more GPUs, larger ones, or a smaller model"]
    rows = [("settings", "clips a pass", "memory")]
    for change in plan["changes"]:
        keys = " ".join(f"{key} {value}" for key, value in change["keys"].items())
        rows.append((keys or "as it is", str(change["clips_per_pass"]), format_bytes(change["peak_bytes"])))
    return format_table(rows, "<>>").split("\n")


def _format_time(plan: Mapping[str, Any]) -> list[str]:
    time = plan["time"]
    rows = []
    if time["hours"] is None:
        hours = time["gpu_hours_at_100_clips_per_sec"]
        rows += [
            ("hours", "not known: no clips/s of a GPU is given; `hiera-video bench` on one GPU measures it"),
            ("", f"{hours:,.0f} GPU-hours if a GPU took 100 clips/s, {hours / plan['gpus']:,.1f} h on all"),
        ]
    else:
        rows.append(("hours", f"{time['hours']:,.1f} ({time['gpu_hours']:,.0f} GPU-hours)"))
        rows.append(("clips/s", f"{time['clips_per_sec']:,.0f} on all GPUs"))
    if time["cores"] is not None:
        rows.append(("cores to make the clips", f"{time['cores']:,} ({time['cores_per_gpu']} for a GPU)"))
    elif "cores_per_100_clips_per_sec" in time:
        rows.append(("cores to make the clips", f"{time['cores_per_100_clips_per_sec']} for each 100 clips/s"))
    else:
        rows.append(("cores to make the clips", "not known: `hiera-video bench` or `check` measures what a core makes"))
    if time["videos_bytes"] is not None:
        rows.append(("videos on the disk", format_bytes(time["videos_bytes"])))
    if time["read_bytes_per_sec"] is not None:
        rows.append(("read from it", f"{format_bytes(time['read_bytes_per_sec'])}/s"))
    return _align(rows)


def _format_checkpoints(checkpoints: Mapping[str, int]) -> list[str]:
    number, total = checkpoints["most_files"], format_bytes(checkpoints["most_bytes"])
    return [f"{format_bytes(checkpoints['bytes_each'])} each; at most {number} on the disk at once: {total}"]


def _format_sweep(rows: Sequence[Mapping[str, Any]] | None) -> list[str]:
    if not rows:
        return []
    has_hours = rows[0]["hours"] is not None
    table: list[Sequence[str]] = [("GPUs", "sharding", "passes x clips", "again", "memory", "hours" * has_hours)]
    for row in rows:
        setting, hours = row["setting"], f"{row['hours']:,.1f}" if has_hours else ""
        if setting is None:
            reason = "nothing fits" if row["divides"] else "batch not divisible"
            table.append((f"{row['gpus']}", row["sharding"], reason, "", "", ""))
            continue
        cut = f"{setting['passes']} x {setting['clips']}"
        again = "yes" if setting["checkpointing"] else "no"
        table.append((f"{row['gpus']}", row["sharding"], cut, again, format_bytes(setting["peak_bytes"]), hours))
    return [*format_table(table, "><>>>>").split("\n"), "again: blocks computed again, MODEL.ACT_CHECKPOINT True"]


def _list_assumptions(plan: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{plan['memory']['margin']:.0%} of the memory is left to CUDA, NCCL and fragments (--margin)",
        "attention by fused kernels; a step as the job takes it, on tensors without content; no GPU was asked",
    ]
    if plan["model"]["is_compiled"]:
        lines.append("MODEL.COMPILE: the memory of the plain model, of which a compiled one mostly takes less")
    if plan["time"]["hours"] is not None:
        lines.append("every GPU keeps its pace on all of them; validation, probes and tests are not in the hours")
    return [*lines, *plan["measured"]["notes"]]

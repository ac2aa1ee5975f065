"""What limits a training job, from what was measured, and what would help."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_WIDE_SPREAD = 1.25  # 90th over 10th percentile; more than this, and a number says little
_LOST_TOGETHER = 0.8  # of what the slower one reaches alone; less is worth a word
_FEW_STEPS = 10
_BUSY = 0.5  # processes that were at work before, per core


def find_limit(result: Mapping[str, Any]) -> dict[str, Any]:
    """``limit``: "data", "model", or None where only the model was measured; ``advice``; ``notes``, sentences.

    Args:
        result: ``machine``, ``model``, ``data`` and ``both`` as `run_bench` has them.
    """
    model, data, both = result["model"], result["data"], result["both"]
    if data is None:
        found = {"limit": None, "advice": "only the model was measured, on made clips; of the data nothing is known"}
    elif model["device"] == "cpu":
        found = _compare_on_cpu(model, data, both)
    else:
        found = _compare_beside_gpu(model, data)
    return {**found, "notes": [*_find_general_notes(result), *(_find_notes(model, data, both) if data else [])]}


def _compare_beside_gpu(model: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    wanted, brought, per_core = model["clips_per_sec_train"], data["clips_per_sec"], data["clips_per_sec_per_core"]
    needed = math.ceil(wanted / per_core)
    if brought >= wanted:
        faster = [] if model["precision"] != "fp32" else ["TRAIN.PRECISION bf16"]
        faster += [] if model["is_compiled"] else ["MODEL.COMPILE True"]
        hint = f"; to try: {', '.join(faster)}" if faster else ""
        advice = f"the model sets the pace: {wanted:.1f} clips/s, where the data come at up to {brought:.1f}{hint}"
        return {"limit": "model", "advice": advice}
    advice = f"the data set the pace: they come at {brought:.1f} of the {wanted:.1f} clips/s that the model takes; "
    if needed > data["cores"]:
        count = needed - data["cores"]
        advice += f"{count} more core{'s' * (count != 1)}, or videos that are cheaper to decode (`hiera-video prepare`)"
    elif needed > data["num_workers"]:
        advice += f"DATA_LOADER.NUM_WORKERS {needed} (now {data['num_workers']}; there are {data['cores']} cores)"
    else:
        advice += (
            f"{needed} cores at {per_core:.1f} clips/s would do, and {data['num_workers']} processes do not: they "
            "wait for the disk or for each other; smaller files help (`hiera-video prepare`)"
        )
    return {"limit": "data", "advice": advice}


def _compare_on_cpu(model: Mapping[str, Any], data: Mapping[str, Any], both: Mapping[str, Any]) -> dict[str, Any]:
    """Without a GPU the model and the decoding processes share the cores: what costs more of them is the limit."""
    of_model = model["num_threads"] / model["clips_per_sec_train"]
    of_data = 1 / data["clips_per_sec_per_core"]
    limit = "model" if of_model >= of_data else "data"
    helps = "a GPU" if limit == "model" else "videos that are cheaper to decode (`hiera-video prepare`)"
    advice = (
        f"the {limit} set{'s' * (limit == 'model')} the pace: without a GPU both share {data['cores']} cores; a clip "
        f"takes {1e3 * of_model:.1f} ms of a core to train on and {1e3 * of_data:.1f} ms to decode, and together they "
        f"reach {both['clips_per_sec']:.1f} clips/s. {helps[0].upper()}{helps[1:]} would help"
    )
    return {"limit": limit, "advice": advice}


def _find_general_notes(result: Mapping[str, Any]) -> list[str]:
    machine, notes = result["machine"], []
    if machine["load_before"] > _BUSY * machine["cores"]:
        notes.append(
            f"before the start {machine['load_before']:.1f} processes were at work on {machine['cores']} cores: "
            "measure again when nobody else is"
        )
    for part, name in (
        ("model", "clips_per_sec_train"),
        ("data", "clips_per_sec_per_core"),
        ("data", "clips_per_sec"),
        ("both", "clips_per_sec"),
    ):
        if result[part] is None:
            continue
        low, high = result[part][f"spread_{name}"]
        if high > _WIDE_SPREAD * low:
            notes.append(f"{part}.{name} varied from {low:.1f} to {high:.1f}: measure longer, by --seconds")
    return notes


def _find_notes(model: Mapping[str, Any], data: Mapping[str, Any], both: Mapping[str, Any]) -> list[str]:
    """What makes the numbers say less than they seem to."""
    notes = []
    if data["num_bad"]:
        notes.append(f"{data['num_bad']} videos could not be decoded, and others took their place: `hiera-video check`")
    if data["num_videos_sampled"] == data["num_videos"]:
        notes.append(
            f"all {data['num_videos']} videos were read, some of them more than once: later reads came from memory and "
            "not from the disk"
        )
    if data["steps_per_epoch"] < _FEW_STEPS:
        notes.append(
            f"an epoch has {data['steps_per_epoch']} steps, and at the end of each the decoding processes have nothing "
            "left to do ahead, so that data are waited for when the next one begins"
        )
    slower = min(model["clips_per_sec_train"], data["clips_per_sec"])
    if model["device"] != "cpu" and both["clips_per_sec"] < _LOST_TOGETHER * slower:
        notes.append(
            f"together they reach {both['clips_per_sec']:.1f} clips/s, less than the slower one alone ({slower:.1f}): "
            "the decoding processes and the one that feeds the GPU want the same cores"
        )
    return notes

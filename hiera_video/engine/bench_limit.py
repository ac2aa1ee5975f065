"""What limits a training job, from what was measured, and what would help."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_WIDE_SPREAD = 1.25  # 90th over 10th percentile; more than this, and a number says little
_LOST_TOGETHER = 0.8


def find_limit(result: Mapping[str, Any]) -> dict[str, Any]:
    """``limit``: "data", "model", or None where only the model was measured; ``advice`` and ``notes``, sentences.

    Args:
        result: ``model``, ``data`` and ``both`` as `run_bench` measures them.
    """
    model, data, both = result["model"], result["data"], result["both"]
    if data is None:
        return {"limit": None, "advice": "only the model was measured, on made clips: what the data reach is not known"}
    if model["device"] == "cpu":
        return {**_compare_on_cpu(model, data, both), "notes": _find_notes(model, data, both)}
    return {**_compare_beside_gpu(model, data), "notes": _find_notes(model, data, both)}


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
            f"{needed} cores at {per_core:.1f} clips/s would do, and {data['num_workers']} processes did not: they wait "
            "for the disk or for each other; videos that are cheaper to read help (`hiera-video prepare`)"
        )
    return {"limit": "data", "advice": advice}


def _compare_on_cpu(model: Mapping[str, Any], data: Mapping[str, Any], both: Mapping[str, Any]) -> dict[str, Any]:
    """Without a GPU the model and the decoding processes share the cores: what costs more of them is the limit."""
    of_model = model["num_threads"] / model["clips_per_sec_train"]
    of_data = 1 / data["clips_per_sec_per_core"]
    limit = "model" if of_model >= of_data else "data"
    helps = "a GPU" if limit == "model" else "videos that are cheaper to decode (`hiera-video prepare`)"
    advice = (
        f"the {limit} set{'s' * (limit == 'model')} the pace: without a GPU both share {data['cores']} cores, of which a "
        f"clip takes {of_model:.3f} s to train on and {of_data:.3f} s to decode; together "
        f"{both['clips_per_sec']:.1f} clips/s. {helps[0].upper()}{helps[1:]} would help"
    )
    return {"limit": limit, "advice": advice}


def _find_notes(model: Mapping[str, Any], data: Mapping[str, Any], both: Mapping[str, Any]) -> list[str]:
    """What makes the numbers say less than they seem to."""
    notes = []
    if data["num_videos_sampled"] == data["num_videos"]:
        notes.append(
            f"all {data['num_videos']} videos were read, some of them more than once: later reads came from memory and "
            "not from the disk"
        )
    for part, name in ((model, "clips_per_sec_train"), (data, "clips_per_sec"), (both, "clips_per_sec")):
        low, high = part[f"spread_{name}"]
        if high > _WIDE_SPREAD * low:
            which = "model" if part is model else "data" if part is data else "both"
            notes.append(f"{which}.{name} varied from {low:.1f} to {high:.1f}: were others at work? measure longer")
    slower = min(model["clips_per_sec_train"], data["clips_per_sec"])
    if model["device"] != "cpu" and both["clips_per_sec"] < _LOST_TOGETHER * slower:
        notes.append(
            f"together they reach {both['clips_per_sec']:.1f} clips/s, less than the slower one alone ({slower:.1f}): "
            "the decoding processes and the one that feeds the GPU want the same cores"
        )
    return notes

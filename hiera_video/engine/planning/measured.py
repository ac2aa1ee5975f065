"""What was measured of models and data, and what is known of data sets: numbers that no plan can make up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import simplejson
from fvcore.common.config import CfgNode

from hiera_video.data.build_lists import build_unchecked_video_list
from hiera_video.inspection.survey import KNOWN_DATA_SETS, KnownDataSet

_IMAGENET = KnownDataSet("ImageNet-1K", 1000, {"train": 1_281_167, "val": 50_000}, "ILSVRC 2012's lists")
# Folder of recipes -> the data set that they are for.
_OF_RECIPES = {
    "Kinetics": "Kinetics-400",
    "Kinetics600": "Kinetics-600",
    "Kinetics700": "Kinetics-700",
    "SSv2": "Something-Something V2",
    "ImageNet": "ImageNet-1K",
}


@dataclass(frozen=True)
class Measured:
    """What is known from measurements; None where nothing is.

    Attributes:
        gpu_clips_per_sec: clips that one GPU trains on.
        clips_per_sec_per_core: training clips that one CPU core makes.
        bytes_per_video: mean size of a file.
        notes: where they come from.
    """

    gpu_clips_per_sec: float | None = None
    clips_per_sec_per_core: float | None = None
    bytes_per_video: float | None = None
    notes: tuple[str, ...] = ()


def read_measured(path: str, *, model_name: str, num_frames: int, crop_size_px: int, precision: str) -> Measured:
    """Reads what `hiera-video bench` wrote, or the report of `hiera-video check`.

    The rate of a model counts where it was measured on a GPU, and for the plan's own model and clips alone.

    Args:
        path: of the JSON file.
        model_name: of the plan.
        num_frames: of its clips.
        crop_size_px: of its clips.
        precision: its arithmetic.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is neither of them, a rate is not positive, or it is of another model.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"--bench {path}: there is no such file")
    try:
        content = simplejson.loads(Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"--bench {path} is not JSON: {error}") from None
    if isinstance(content, dict) and "forecast" in content:
        rate = _take_rate(path, content["forecast"] or {}, "clips_per_sec")
        if rate is None:
            raise ValueError(f"--bench {path}: that check made no forecast; run it with --forecast-sec 5")
        return Measured(clips_per_sec_per_core=rate, notes=(f"clips/s of a core: the forecast in {path}",))
    if not isinstance(content, dict) or "model" not in content:
        raise ValueError(
            f"--bench {path} has neither `model` nor `forecast`: give what `hiera-video bench` writes, or the report "
            "of `hiera-video check`"
        )
    model, data = content["model"] or {}, content.get("data") or {}
    own = {"name": model_name, "num_frames": num_frames, "crop_size": crop_size_px, "precision": precision}
    for key, value in own.items():
        if key in model and model[key] != value:
            raise ValueError(f"--bench {path} is of another model: {key} is {model[key]}, and {value} in the plan")
    notes, gpu_rate = [], None
    if model.get("device") == "cuda":
        gpu_rate = _take_rate(path, model, "clips_per_sec_train")
        gpu = content.get("machine", {}).get("gpu", "a GPU")
        notes.append(f"clips/s of a GPU: {path}, on {gpu}, {model.get('batch_size')} clips a pass")
    else:
        notes.append(f"{path} was measured on {model.get('device', 'no known device')}: no clips/s of a GPU from it")
    per_core = _take_rate(path, data, "clips_per_sec_per_core")
    if per_core is not None:
        notes.append(f"clips/s of a core: {path}, {data.get('num_videos_sampled')} videos sampled")
    return Measured(gpu_rate, per_core, _take_rate(path, data, "bytes_per_video"), tuple(notes))


def _take_rate(path: str, section: dict[str, Any], name: str) -> float | None:
    value = section.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"--bench {path}: {name} is {value!r}; a number above 0 is legal")
    return float(value)


def count_videos(cfg: CfgNode, *, cfg_files: Sequence[str], num_videos: int | None) -> tuple[int, str]:
    """How many videos the training list has, and where that number comes from.

    Args:
        cfg: with DATA.PATH_TO_DATA_DIR the list itself is read.
        cfg_files: of the command line; the folder of a recipe names its data set.
        num_videos: what the user says; it counts before all else.

    Raises:
        ValueError: nothing tells it.
        FileNotFoundError: DATA.PATH_TO_DATA_DIR has no training list.
    """
    if num_videos is not None:
        return num_videos, "--num-videos"
    if cfg.DATA.PATH_TO_DATA_DIR:
        videos, source = build_unchecked_video_list(cfg, "train", require_labels=False)
        return len(videos), source
    for name in cfg_files:
        known_as = _OF_RECIPES.get(PurePosixPath(name).parent.name)
        for data_set in (*KNOWN_DATA_SETS, _IMAGENET):
            if data_set.name == known_as:
                return data_set.sizes["train"], f"assumed to be {data_set.name}: {data_set.source}"
    raise ValueError(
        "how many videos are trained on is not known: give --num-videos N, or DATA.PATH_TO_DATA_DIR with the lists"
    )

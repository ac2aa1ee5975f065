"""The plan of a training run: how much it does, what it needs, how long it takes, and what has to change to fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fvcore.common.config import CfgNode

from hiera_video.config.check import check_config
from hiera_video.engine.planning.counts import (
    RunCounts,
    compute_counts,
    compute_hours,
    count_checkpoints,
    count_cores_needed,
)
from hiera_video.engine.planning.fit import MemoryModel, Setting, list_passes, list_settings
from hiera_video.engine.planning.measured import Measured
from hiera_video.engine.planning.step import StepMemory, check_task, count_step_flops
from hiera_video.models.sharding import SHARDINGS
from hiera_video.utils.versions import get_versions

GB = 1e9
SWEPT_GPUS = (1, 8, 16, 32, 64)


def complete_config(cfg: CfgNode) -> CfgNode:
    """The config with training enabled and testing off, checked as a run's would be; a data folder may be missing.

    Raises:
        ValueError: keys that do not go together, or a TASK that no plan can be made for.
    """
    check_task(cfg)
    cfg = cfg.clone()
    cfg.defrost()
    folder, cfg.DATA.PATH_TO_DATA_DIR = cfg.DATA.PATH_TO_DATA_DIR, cfg.DATA.PATH_TO_DATA_DIR or "."
    cfg.TRAIN.ENABLE, cfg.TEST.ENABLE, cfg.EXTRACT.ENABLE = True, False, False
    check_config(cfg)
    cfg.DATA.PATH_TO_DATA_DIR = folder
    cfg.freeze()
    return cfg


def make_plan(
    cfg: CfgNode,
    *,
    num_gpus: int,
    gpu_memory_bytes: float,
    margin: float,
    num_videos: int,
    videos_source: str,
    measured: Measured,
    gpu_tflops: float | None = None,
    sweep: bool = False,
) -> dict[str, Any]:
    """The plan as JSON takes it.

    Args:
        cfg: from `complete_config`.
        num_gpus: over all machines.
        gpu_memory_bytes: of one GPU.
        margin: share of it that is left for what a plan cannot see, in [0, 1).
        num_videos: of the training list.
        videos_source: where that number comes from.
        measured: rates, as far as they are known.
        gpu_tflops: what a GPU reaches at best, for the share that training uses.
        sweep: also look at other numbers of GPUs and at each sharding.

    Raises:
        ValueError: an epoch holds no batch.
    """
    batch, clips_per_video = cfg.TRAIN.BATCH_SIZE, cfg.AUG.NUM_SAMPLE
    counts = compute_counts(
        num_videos=num_videos,
        num_epochs=cfg.SOLVER.MAX_EPOCH,
        batch_clips=batch,
        clips_per_video=clips_per_video,
    )
    memory = MemoryModel(cfg, count_unit_clips(cfg))
    budget = gpu_memory_bytes * (1 - margin)
    now = build_setting(cfg, memory, num_gpus=num_gpus)
    step = memory.measure(now.clips if now else memory.unit_clips, checkpointing=cfg.MODEL.ACT_CHECKPOINT)
    largest = memory.find_largest_pass(
        budget, sharding=cfg.TRAIN.SHARDING, num_gpus=num_gpus, checkpointing=cfg.MODEL.ACT_CHECKPOINT
    )
    plan = {
        "format": 1,
        "task": cfg.TASK,
        "model": describe_model(cfg, step),
        "gpus": num_gpus,
        "batch_clips": batch,
        "run": {**asdict(counts), "num_videos": num_videos, "videos_source": videos_source},
        "flops": compute_flops(cfg, counts, measured, gpu_tflops),
        "memory": {
            "gpu_bytes": gpu_memory_bytes,
            "margin": margin,
            "budget_bytes": budget,
            "setting": asdict(now) if now else None,
            "parts": describe_parts(memory, step, now, num_gpus=num_gpus),
            "fits": now is not None and now.peak_bytes <= budget,
            "largest_pass_clips": largest,
        },
        "changes": list_changes(cfg, memory, now, num_gpus=num_gpus, budget_bytes=budget),
        "time": compute_time(
            counts, measured, num_gpus=num_gpus, num_videos=num_videos, clips_per_video=clips_per_video
        ),
        "checkpoints": describe_checkpoints(cfg, step),
        "measured": asdict(measured),
        "versions": get_versions(),
    }
    if sweep:
        plan["sweep"] = make_sweep(cfg, memory, counts, measured, num_gpus=num_gpus, budget_bytes=budget)
    return plan


def count_unit_clips(cfg: CfgNode) -> int:
    """A pass has a multiple of so many clips: those of a video, or of two where pairs of videos are mixed."""
    return cfg.AUG.NUM_SAMPLE * (2 if cfg.MIXUP.ENABLE and cfg.MIXUP.PROB > 0 else 1)


def build_setting(cfg: CfgNode, memory: MemoryModel, *, num_gpus: int) -> Setting | None:
    """What the config says; None where its batch cannot be divided so."""
    passes, sharding, checkpointing = cfg.TRAIN.GRAD_ACCUM_STEPS, cfg.TRAIN.SHARDING, cfg.MODEL.ACT_CHECKPOINT
    if cfg.TRAIN.BATCH_SIZE % (num_gpus * passes * memory.unit_clips):
        return None
    clips = cfg.TRAIN.BATCH_SIZE // num_gpus // passes
    memory.measure(clips, checkpointing=checkpointing)  # so that it counts as it is
    peak = memory.compute_peak(clips, sharding=sharding, num_gpus=num_gpus, checkpointing=checkpointing)
    return Setting(sharding, checkpointing, passes, clips, peak)


def describe_model(cfg: CfgNode, step: StepMemory) -> dict[str, Any]:
    """What is trained, on which clips."""
    return {
        "name": cfg.MODEL.MODEL_NAME,
        "parameters": step.weights // 4,
        "num_frames": cfg.DATA.NUM_FRAMES,
        "crop_size_px": cfg.DATA.TRAIN_CROP_SIZE,
        "precision": cfg.TRAIN.PRECISION,
        "mask_ratio": cfg.MAE.MASK_RATIO if cfg.TASK == "pretrain" else None,
        "is_compiled": cfg.MODEL.COMPILE,
    }


def describe_parts(memory: MemoryModel, step: StepMemory, now: Setting | None, *, num_gpus: int) -> dict[str, int]:
    """What the memory of a GPU consists of, in bytes; with sharding the parts are those of one GPU."""
    if now is None or now.sharding == "none" or num_gpus == 1:
        return {name: value for name, value in asdict(step).items() if value}
    held = asdict(memory.compute_held(now.sharding, num_gpus))
    parts = {name: value for name, value in held.items() if value}
    return {**parts, "activations_and_input": now.peak_bytes - sum(parts.values())}


def compute_flops(cfg: CfgNode, counts: RunCounts, measured: Measured, gpu_tflops: float | None) -> dict[str, Any]:
    """Operations of a clip, a step and the run; and the share of a GPU's best that they make, where it is known."""
    forward, backward = count_step_flops(cfg)
    total = forward + backward
    result: dict[str, Any] = {
        "forward_per_clip": forward,
        "backward_per_clip": backward,
        "per_step": total * cfg.TRAIN.BATCH_SIZE,
        "of_run": total * counts.clips,
    }
    if cfg.MODEL.ACT_CHECKPOINT:
        result["recomputed_per_clip"] = sum(count_step_flops(cfg, recompute=True)) - total
    if gpu_tflops and measured.gpu_clips_per_sec:
        result["mfu"] = measured.gpu_clips_per_sec * total / (gpu_tflops * 1e12)
    return result


def compute_time(
    counts: RunCounts, measured: Measured, *, num_gpus: int, num_videos: int, clips_per_video: int
) -> dict[str, float | int | None]:
    """Hours and cores, as far as measurements tell them; the others are None."""
    rate, per_core, size = measured.gpu_clips_per_sec, measured.clips_per_sec_per_core, measured.bytes_per_video
    time: dict[str, float | int | None] = dict.fromkeys(
        ("hours", "gpu_hours", "clips_per_sec", "cores_per_gpu", "cores", "read_bytes_per_sec", "videos_bytes")
    )
    time["gpu_hours_at_100_clips_per_sec"] = compute_hours(counts.clips, num_gpus=1, gpu_clips_per_sec=100.0)
    if rate:
        hours = compute_hours(counts.clips, num_gpus=num_gpus, gpu_clips_per_sec=rate)
        time |= {"hours": hours, "gpu_hours": hours * num_gpus, "clips_per_sec": num_gpus * rate}
        if per_core:
            time["cores_per_gpu"] = count_cores_needed(rate, clips_per_sec_per_core=per_core)
            time["cores"] = count_cores_needed(num_gpus * rate, clips_per_sec_per_core=per_core)
        if size:
            time["read_bytes_per_sec"] = num_gpus * rate / clips_per_video * size
    if per_core:
        time["cores_per_100_clips_per_sec"] = count_cores_needed(100.0, clips_per_sec_per_core=per_core)
    if size:
        time["videos_bytes"] = size * num_videos
    return time


def describe_checkpoints(cfg: CfgNode, step: StepMemory) -> dict[str, int]:
    """Bytes of a checkpoint, and of all that lie on the disk at most."""
    each = step.weights + step.optimizer + step.average
    number = count_checkpoints(
        num_epochs=cfg.SOLVER.MAX_EPOCH,
        period_epochs=cfg.TRAIN.CHECKPOINT_PERIOD,
        keep_last=cfg.TRAIN.CHECKPOINT_KEEP_LAST,
        has_best=cfg.TASK == "classify" and cfg.TRAIN.EVAL_PERIOD > 0,
        saves_within_epoch=cfg.TRAIN.CHECKPOINT_PERIOD_MINUTES > 0,
    )
    return {"bytes_each": each, "most_files": number, "most_bytes": each * number}


def list_changes(
    cfg: CfgNode, memory: MemoryModel, now: Setting | None, *, num_gpus: int, budget_bytes: float
) -> list[dict[str, Any]]:
    """Settings that work where the config's does not: keys with their values, clips of a pass, peak in bytes."""
    if now is not None and now.peak_bytes <= budget_bytes:
        return []
    batch = cfg.TRAIN.BATCH_SIZE
    if not list_passes(batch, num_gpus=num_gpus, unit_clips=memory.unit_clips):
        part = num_gpus * memory.unit_clips
        batches = sorted({max(batch // part, 1) * part, math.ceil(batch / part) * part})
    else:
        batches = [batch]
    changes = []
    for clips in batches:
        for setting in list_settings(memory, batch_clips=clips, num_gpus=num_gpus, budget_bytes=budget_bytes):
            keys = {
                "TRAIN.BATCH_SIZE": (batch, clips),
                "TRAIN.GRAD_ACCUM_STEPS": (cfg.TRAIN.GRAD_ACCUM_STEPS, setting.passes),
                "MODEL.ACT_CHECKPOINT": (cfg.MODEL.ACT_CHECKPOINT, setting.checkpointing),
                "TRAIN.SHARDING": (cfg.TRAIN.SHARDING, setting.sharding),
            }
            wanted = {key: new for key, (old, new) in keys.items() if old != new}
            changes.append({"keys": wanted, "clips_per_pass": setting.clips, "peak_bytes": setting.peak_bytes})
    return changes


def make_sweep(
    cfg: CfgNode, memory: MemoryModel, counts: RunCounts, measured: Measured, *, num_gpus: int, budget_bytes: float
) -> list[dict[str, Any]]:
    """For numbers of GPUs and each sharding, the fewest passes that fit: without checkpointing, or else with it."""
    rows: list[dict[str, Any]] = []
    batch = cfg.TRAIN.BATCH_SIZE
    for gpus in sorted({*SWEPT_GPUS, num_gpus}):
        settings: Sequence[Setting] = [
            *list_settings(memory, batch_clips=batch, num_gpus=gpus, budget_bytes=budget_bytes)
        ]
        rate = measured.gpu_clips_per_sec
        hours = compute_hours(counts.clips, num_gpus=gpus, gpu_clips_per_sec=rate) if rate else None
        divides = bool(list_passes(batch, num_gpus=gpus, unit_clips=memory.unit_clips))
        for sharding in SHARDINGS if gpus > 1 else SHARDINGS[:1]:
            best = next((setting for setting in settings if setting.sharding == sharding), None)
            row = {"gpus": gpus, "sharding": sharding, "divides": divides, "hours": hours}
            rows.append({**row, "setting": asdict(best) if best else None})
    return rows

"""What a config reaches on this machine: clips a second of the model, of the data, and of both."""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from fvcore.common.config import CfgNode

from hiera_video.data.batch_loader import BatchLoader
from hiera_video.data.loader import build_epoch_loader, build_train_loader, get_epoch_sampler
from hiera_video.data.made_clips import build_made_clips
from hiera_video.engine.batch import autocast
from hiera_video.engine.bench_limit import find_limit
from hiera_video.engine.checkpoint import CheckpointWriter
from hiera_video.engine.meters import Goodput, TrainMeters, compute_peak_memory_gb
from hiera_video.engine.training.bad_step import ComputeLoss
from hiera_video.engine.training.classify import build_classification, check_pairs
from hiera_video.engine.training.health import Heartbeat, explain_out_of_memory
from hiera_video.engine.training.loop import Run, take_step
from hiera_video.engine.training.pretrain import build_make_mask, build_pretraining
from hiera_video.engine.training.state import build_state
from hiera_video.inspection.survey import measure_clip_rate
from hiera_video.models.build import build_compiled
from hiera_video.models.encoder import HieraEncoder
from hiera_video.solver.lr_policy import build_lr_policy
from hiera_video.utils.distributed import get_device, get_world_size
from hiera_video.utils.interrupt import raise_if_stopped
from hiera_video.utils.logging import get_logger
from hiera_video.utils.machine import count_cores, describe_machine
from hiera_video.utils.pathmgr import get_path_here
from hiera_video.utils.versions import get_versions

logger = get_logger(__name__)

FORMAT = 1
_MIN_ROUNDS = 3  # also where one takes longer than the whole time that was asked for
_WARM_UP_STEPS = 2
_PARTS = 5  # of a measurement whose single steps say nothing: decoding processes give batches in bursts
_LR = 0.0  # an update costs the same, and weights that stay as they are stay finite


class Rates(NamedTuple):
    """Clips a second: the median of a measurement's parts, and their 10th and 90th percentile."""

    median: float
    spread: tuple[float, float]


def run_bench(cfg: CfgNode, *, seconds: float, is_synthetic: bool) -> dict[str, Any]:
    """Measures one process of a training job on its GPU, or on the CPU.

    Args:
        seconds: of each measurement, after its warm-up.
        is_synthetic: made clips for the model, and no data.

    Returns:
        What docs/commands.md says of bench.json, without the command line.

    Raises:
        ValueError: it runs in a group of processes, or the config or its data are wrong.
        OutOfGpuMemory: a step does not fit.
        Interrupted: the process was asked to stop.
    """
    if get_world_size() > 1:
        raise ValueError(f"bench measures one process, and this is a group of {get_world_size()}: start it without one")
    model, loader, compute_loss = _build_job(cfg, is_synthetic=is_synthetic)
    run = _build_run(cfg, model, loader, compute_loss)
    batches = _repeat_epochs(loader)
    result: dict[str, Any] = {
        "format": FORMAT,
        "machine": {
            **describe_machine(),
            "cores": count_cores(),
            "num_gpus": torch.cuda.device_count(),
            "load_before": round(os.getloadavg()[0], 2),
        },
        "versions": get_versions(),
        "task": cfg.TASK,
        "seconds": seconds,
    }
    with explain_out_of_memory(cfg):
        result["model"] = _measure_model(run, batches, seconds) | {"is_synthetic": is_synthetic}
        result["data"] = None if is_synthetic else _measure_data(run, batches, seconds)
        result["both"] = None if is_synthetic else _measure_both(run, batches, seconds)
    return result | find_limit(result)


def _build_job(cfg: CfgNode, *, is_synthetic: bool) -> tuple[HieraEncoder, BatchLoader, ComputeLoss]:
    """The model, the loader and the loss of the training job of TASK."""
    if cfg.TASK == "pretrain":
        mae, compute_loss = build_pretraining(cfg)
        make_mask = build_make_mask(cfg, mae)
        if is_synthetic:
            return mae, build_epoch_loader(cfg, build_made_clips(cfg, make_mask=make_mask)), compute_loss
        return mae, build_train_loader(cfg, make_mask=make_mask), compute_loss
    if is_synthetic:
        loader = build_epoch_loader(cfg, build_made_clips(cfg))
    elif cfg.TASK == "classify":
        loader = build_train_loader(cfg)
    else:
        return _build_box_job(cfg)
    check_pairs(cfg)
    model, compute_loss = build_classification(cfg)
    return model, loader, compute_loss


def _build_box_job(cfg: CfgNode) -> tuple[HieraEncoder, BatchLoader, ComputeLoss]:
    if cfg.TASK == "detect":
        from hiera_video.data.detection_dataset import build_detection_train_loader
        from hiera_video.engine.training.detect import build_detection

        loader = build_detection_train_loader(cfg)
        detector, compute_loss = build_detection(cfg)
        return cast(HieraEncoder, detector), loader, compute_loss
    from hiera_video.data.box_loaders import build_box_train_loader
    from hiera_video.engine.training.detect_actions import build_action_detection

    loader = build_box_train_loader(cfg)
    model, compute_loss = build_action_detection(cfg)
    return model, loader, compute_loss


def _build_run(cfg: CfgNode, model: HieraEncoder, loader: BatchLoader, compute_loss: ComputeLoss) -> Run:
    """A run that begins and never ends: nothing of it is written."""
    run = Run(
        cfg=cfg,
        state=build_state(cfg, model),
        forward=build_compiled(cfg, model),
        loader=loader,
        compute_loss=compute_loss,
        compute_lr=build_lr_policy(cfg),
        writer=CheckpointWriter(cfg.OUTPUT_DIR, keep_last=0, stop_on_failure=True),
        heartbeat=Heartbeat(cfg.OUTPUT_DIR),
    )
    run.forward.train()
    return run


def _repeat_epochs(loader: BatchLoader) -> Iterator[dict[str, Any]]:
    """The batches of one epoch after the other, without an end."""
    for epoch in itertools.count():
        get_epoch_sampler(loader).set_epoch(epoch)
        yield from loader


def _measure_model(run: Run, batches: Iterator[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Optimizer steps and forward passes on batches that lie in memory."""
    cfg, device = run.cfg, get_device()
    kept = [next(batches) for _ in range(cfg.TRAIN.GRAD_ACCUM_STEPS)]
    repeated, meters = itertools.cycle(kept), _build_meters(run)

    def pass_forward() -> None:
        with torch.no_grad(), autocast(device, cfg.TRAIN.PRECISION):
            loss, _ = run.compute_loss(run.forward, kept[0])
        loss.item()  # waits for the device

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    logger.info("the model: training steps of %d clips, on batches in memory", cfg.TRAIN.BATCH_SIZE)
    step_sec = time_rounds(lambda: take_step(run, repeated, meters, _LR), seconds=seconds, num_warm_up=_WARM_UP_STEPS)
    peak_memory_bytes = int(compute_peak_memory_gb(device) * 2**30)
    logger.info("the model: forward passes")
    forward_sec = time_rounds(pass_forward, seconds=seconds, num_warm_up=_WARM_UP_STEPS)
    batch_size = cfg.TRAIN.BATCH_SIZE // cfg.TRAIN.GRAD_ACCUM_STEPS
    return {
        "name": cfg.MODEL.MODEL_NAME,
        "num_frames": cfg.DATA.NUM_FRAMES,
        "crop_size": cfg.DATA.TRAIN_CROP_SIZE,
        **_name_rates("clips_per_sec_train", compute_rates(step_sec, cfg.TRAIN.BATCH_SIZE)),
        **_name_rates("clips_per_sec_forward", compute_rates(forward_sec, batch_size)),
        "batch_size": batch_size,
        "grad_accum_steps": cfg.TRAIN.GRAD_ACCUM_STEPS,
        "precision": cfg.TRAIN.PRECISION,
        "device": device.type,
        "num_threads": torch.get_num_threads(),
        "is_compiled": cfg.MODEL.COMPILE,
        "peak_memory_bytes": peak_memory_bytes,
    }


def _measure_data(run: Run, batches: Iterator[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Samples of one core, then batches of all decoding processes, without a model beside them."""
    cfg, loader = run.cfg, run.loader
    dataset, num_workers = loader.dataset, loader.num_workers
    logger.info("the data: one process on one core")
    rates, num_made = [], 0
    for _ in range(_PARTS):
        part = measure_clip_rate(dataset, seconds=seconds / _PARTS, seed=cfg.RNG_SEED, start=num_made)
        num_made += int(part["clips"]) // dataset.num_samples
        rates.append(part["clips_per_sec"])
        raise_if_stopped("nothing is kept of a measurement")
    order = np.random.default_rng(cfg.RNG_SEED).permutation(len(dataset))  # as `measure_clip_rate` has it
    seen: set[int] = set(order[:num_made].tolist())
    bad: set[int] = set()

    def take() -> None:
        batch = next(batches)
        seen.update(batch["index"].tolist())
        bad.update(entry.position for entry in batch["bad"])

    logger.info("the data: %s", f"{num_workers} decoding processes" if num_workers else "this process")
    batch_clips = cfg.TRAIN.BATCH_SIZE // cfg.TRAIN.GRAD_ACCUM_STEPS
    # What was prepared ahead while others were measured comes at once.
    num_prepared = num_workers * cfg.DATA_LOADER.PREFETCH_FACTOR + 1
    batch_sec = time_rounds(
        take, seconds=seconds, num_warm_up=num_prepared, num_at_least=_MIN_ROUNDS * max(num_workers, 1)
    )
    paths = [str(dataset.videos.paths[index]) for index in sorted(seen)]
    return {
        **_name_rates("clips_per_sec_per_core", _summarize(rates)),
        **_name_rates("clips_per_sec", compute_rates(batch_sec, batch_clips, num_together=max(num_workers, 1))),
        "num_workers": num_workers,
        "cores": count_cores(),
        "num_videos": len(dataset),
        "num_videos_sampled": len(seen),
        "num_bad": len(bad),
        "bytes_per_video": compute_mean_bytes(paths),
        "clips_per_video": dataset.num_samples,
        "steps_per_epoch": get_epoch_sampler(loader).steps_per_epoch,
    }


def _measure_both(run: Run, batches: Iterator[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Training steps on what the loader brings, as a job takes them."""
    cfg, num_workers, num_accum = run.cfg, run.loader.num_workers, run.cfg.TRAIN.GRAD_ACCUM_STEPS
    meters, together = _build_meters(run), max(math.ceil(num_workers / num_accum), 1)
    logger.info("both: training steps on what the loader brings")
    num_prepared = math.ceil(num_workers * cfg.DATA_LOADER.PREFETCH_FACTOR / num_accum) + _WARM_UP_STEPS
    step = lambda: take_step(run, batches, meters, _LR)  # noqa: E731
    for _ in range(num_prepared):
        step()
        raise_if_stopped("nothing is kept of a measurement")
    run.goodput = Goodput()
    step_sec = time_rounds(step, seconds=seconds, num_warm_up=0, num_at_least=max(2 * together, _MIN_ROUNDS))
    rates = compute_rates(step_sec, cfg.TRAIN.BATCH_SIZE, num_together=together)
    return {**_name_rates("clips_per_sec", rates), "goodput": run.goodput.lap()}


def _build_meters(run: Run) -> TrainMeters:
    return TrainMeters(run.cfg.TRAIN.BATCH_SIZE, device=get_device(), rows=run.state.log_rows)


def time_rounds(
    do: Callable[[], object],
    *,
    seconds: float,
    num_warm_up: int,
    num_at_least: int = _MIN_ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Seconds of each call, for ``seconds`` and at least so many calls, after some that are not counted.

    Raises:
        Interrupted: the process was asked to stop.
    """
    for _ in range(num_warm_up):
        do()
        raise_if_stopped("nothing is kept of a measurement")
    times = [clock()]
    while len(times) <= num_at_least or times[-1] - times[0] < seconds:
        do()
        times.append(clock())
        raise_if_stopped("nothing is kept of a measurement")
    return np.diff(times).tolist()


def compute_rates(seconds: Sequence[float], clips: int, *, num_together: int = 1) -> Rates:
    """Clips a second of rounds of ``clips`` clips each.

    Args:
        seconds: of each round.
        num_together: 1: each round counts. More: the rounds are cut into up to 5 parts of at least so many, each of
            which counts, as where several processes bring batches in bursts.
    """
    if num_together == 1:
        return _summarize([clips / sec for sec in seconds])
    num_parts = min(max(len(seconds) // num_together, 1), _PARTS)
    return _summarize([clips * len(part) / part.sum() for part in np.array_split(np.array(seconds), num_parts)])


def compute_mean_bytes(paths: Sequence[str]) -> int | None:
    """Mean size of those that are files on this machine; None where none is."""
    here = [path for path in map(get_path_here, paths) if path is not None and Path(path).is_file()]
    return round(sum(map(os.path.getsize, here)) / len(here)) if here else None


def _summarize(rates: Sequence[float]) -> Rates:
    low, median, high = np.percentile(rates, (10, 50, 90)).tolist()
    return Rates(median, (low, high))


def _name_rates(name: str, rates: Rates) -> dict[str, Any]:
    return {name: round(rates.median, 3), f"spread_{name}": [round(rate, 3) for rate in rates.spread]}

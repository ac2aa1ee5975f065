"""What every test and validation shares: each sample of a list scored exactly once, over all processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn
from tqdm import tqdm

from hiera_video.data.batch_loader import BatchLoader
from hiera_video.engine.batch import BadVideos, autocast, check_bad_limit, to_model_input
from hiera_video.engine.scored_parts import ScoredParts
from hiera_video.utils.distributed import all_gather_objects, get_device, get_world_size, is_main_process
from hiera_video.utils.interrupt import Interrupted, get_stop_reason


@torch.inference_mode()
def score_samples(
    cfg: CfgNode,
    model: nn.Module,
    loader: BatchLoader,
    *,
    compute: Callable[[dict[str, Any]], list[Any]],
    title: str,
    parts: ScoredParts | None = None,
) -> tuple[list[Any], dict[int, str]]:
    """Computes something of each sample of the loader's list, over all ranks.

    Args:
        cfg: DATA.MAX_BAD_VIDEOS and TRAIN.PRECISION are read.
        model: put into eval mode meanwhile.
        loader: of this rank's share of the list.
        compute: batch -> for each of its samples a tree of CPU tensors, numbers and texts; runs under autocast.
        title: name of the progress bar.
        parts: what was scored before, and where to keep what is scored now.

    Returns:
        The values in the order of the list, None where a sample could not be decoded; and the reasons of those by
        position. Every rank gets the whole.

    Raises:
        RuntimeError: more bad videos than DATA.MAX_BAD_VIDEOS, or a sample that was not counted exactly once.
        Interrupted: a process was asked to stop.
    """
    bad = BadVideos(cfg.DATA.MAX_BAD_VIDEOS)
    scored: list[tuple[int, Any]] = []
    is_stopped = False
    was_training = model.training
    model.eval()
    for batch in tqdm(loader, desc=title, leave=False, disable=None if is_main_process() else True):
        bad.update(batch)
        with autocast(get_device(), cfg.TRAIN.PRECISION):
            values = compute(batch)
        rows = list(zip(batch["index"].tolist(), values, strict=True))
        scored += rows
        if parts:
            parts.add(rows, {entry.position: entry.reason for entry in batch["bad"]})
        if get_stop_reason():
            is_stopped = True
            break
    model.train(was_training)
    _stop_together(parts, len(loader.dataset), is_stopped)
    values, failed = _gather(len(loader.dataset), scored, bad.reasons, parts.before if parts else ([], {}))
    check_bad_limit(len(failed), cfg.DATA.MAX_BAD_VIDEOS)
    return values, failed


def compute_per_video(
    cfg: CfgNode,
    model: nn.Module,
    loader: BatchLoader,
    *,
    compute: Callable[[torch.Tensor], torch.Tensor],
    title: str,
    parts: ScoredParts | None = None,
    ensemble: str = "mean",
) -> tuple[torch.Tensor, dict[int, str]]:
    """Computes a vector of every view, and its mean over the views of each video of the list; see `score_samples`.

    Args:
        cfg: DATA.MEAN, DATA.STD and TEST.BATCH_SIZE are read too.
        loader: from `build_val_loader` or `build_test_loader`.
        compute: clips (n, C, T, H, W) -> float32 (n, D).
        ensemble: "mean", or "max": the largest value over the views.

    Returns:
        float32 (N, D) in the order of the list, NaN where a video could not be decoded; and the reasons of those by
        position.
    """
    device = get_device()
    clips_per_forward = max(cfg.TEST.BATCH_SIZE // get_world_size(), 1)

    def compute_means(batch: dict[str, Any]) -> list[torch.Tensor]:
        clips = to_model_input(batch["video"], device=device, mean=cfg.DATA.MEAN, std=cfg.DATA.STD)  # (B*V, C, T, H, W)
        views = torch.cat([compute(part) for part in clips.split(clips_per_forward)])  # (B*V, D)
        of_videos = views.unflatten(0, (len(batch["index"]), -1))  # (B, V, D)
        return list((of_videos.amax(dim=1) if ensemble == "max" else of_videos.mean(dim=1)).cpu())  # B times (D,)

    values, failed = score_samples(cfg, model, loader, compute=compute_means, title=title, parts=parts)
    whole = next((value for value in values if value is not None), torch.empty(0))
    missing = torch.full_like(whole, float("nan"))
    return torch.stack([missing if value is None else value for value in values]), failed


def _stop_together(parts: ScoredParts | None, num_samples: int, is_stopped: bool) -> None:
    """Raises Interrupted in all processes when one has stopped early; a request reaches the others within a second."""
    if parts:
        parts.write()
    if any(all_gather_objects(is_stopped)):
        reason = next(filter(None, all_gather_objects(get_stop_reason())))
        kept = f"{len(parts.read()[0])} of {num_samples} videos are scored" if parts else "it begins anew"
        raise Interrupted(f"stopped by {reason}; {kept}. Start the same command again to go on")


def _gather(
    num_samples: int, scored: list[tuple[int, Any]], failed: dict[int, str], before: tuple[list, dict[int, str]]
) -> tuple[list[Any], dict[int, str]]:
    """Everybody's values in the order of the list.

    Args:
        scored: positions and values of this process.
        failed: position -> reason, of this process.
        before: what was scored before this job, and what failed.
    """
    parts = [*all_gather_objects((scored, failed)), before]
    rows = [row for part, _ in parts for row in part]
    values = dict(rows)
    if len(rows) != num_samples or values.keys() != set(range(num_samples)):
        raise RuntimeError(f"{num_samples} videos, but {len(rows)} predictions of {len(values)} of them")
    all_failed = dict(sorted((position, reason) for _, part in parts for position, reason in part.items()))
    return [None if position in all_failed else values[position] for position in range(num_samples)], all_failed

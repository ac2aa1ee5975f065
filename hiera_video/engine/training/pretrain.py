"""The pre-training job: a masked autoencoder, and a probe that shows whether its features get better."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import nn

from hiera_video.data.batch_loader import BatchLoader
from hiera_video.data.loader import build_train_loader, build_val_loader
from hiera_video.embeddings.probes.neighbors import classify_knn
from hiera_video.engine.batch import to_model_input
from hiera_video.engine.meters import Stopwatch
from hiera_video.engine.scoring import compute_per_video
from hiera_video.engine.training.bad_step import ComputeLoss
from hiera_video.engine.training.loop import Validate, is_due, run_training
from hiera_video.engine.training.reconstructions import FixedClips
from hiera_video.engine.training.state import TrainState
from hiera_video.models.build import build_mae_from_cfg
from hiera_video.models.hiera_mae import HieraMAE
from hiera_video.models.mask_units import compute_visible_units, draw_mask
from hiera_video.utils.distributed import get_device, is_main_process


def pretrain(cfg: CfgNode) -> None:
    """Pre-trains as TRAIN, SOLVER and MAE say; see `run_training` for what it writes and raises."""
    model, compute_loss = build_pretraining(cfg)
    loader = build_train_loader(cfg, make_mask=build_make_mask(cfg, model))
    run_training(
        cfg,
        model,
        loader,
        compute_loss=compute_loss,
        validate=build_validation(cfg, loader.dataset.videos.paths),
        validation_period_epochs=1,
    )


def build_make_mask(cfg: CfgNode, model: HieraMAE) -> Callable[[], torch.Tensor]:
    """What draws the mask of one view, bool (U,). Raises ValueError for a ratio that leaves no unit."""
    make_mask = partial(draw_mask, model.mask_units_grid, cfg.MAE.MASK_RATIO, kind=cfg.MAE.MASK_TYPE)
    make_mask()  # what is wrong shows here and not in a worker
    return make_mask


def build_pretraining(cfg: CfgNode) -> tuple[HieraMAE, ComputeLoss]:
    """An autoencoder with random weights, on its device, and what computes its loss on a batch."""
    device = get_device()
    torch.manual_seed(cfg.RNG_SEED)
    model = build_mae_from_cfg(cfg).to(device)

    def compute_loss(forward: nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        clips = to_model_input(batch["video"], device=device, mean=cfg.DATA.MEAN, std=cfg.DATA.STD)  # (B*V, C, T, H, W)
        mask = batch["mask"].flatten(0, 1)  # (B*V, U)
        # What is visible is found on the CPU, where the masks were drawn: nobody waits for the device.
        visible = compute_visible_units(mask, *mask.shape).to(device, non_blocking=True)  # (B*V, kept)
        loss, _, _, _ = forward(clips, visible=visible)
        return loss, {}

    return model, compute_loss


def build_validation(cfg: CfgNode, paths: np.ndarray) -> Validate | None:
    """What is done after each epoch: reconstructions of some clips, if the config asks for them and the model can, and
    the probe where it is due; None if neither is.

    Args:
        paths: of the training list, whose clips are drawn where there is no probe with a list of its own.
    """
    loader = build_val_loader(cfg) if cfg.MAE.PROBE_PERIOD else None
    can_draw = cfg.MAE.TARGET == "pixel" and cfg.DATA.NUM_FRAMES > 1
    is_drawn = cfg.REPORT.ENABLE and cfg.REPORT.NUM_RECONSTRUCTIONS > 0 and can_draw
    clips = FixedClips(cfg, loader.dataset.videos.paths if loader else paths) if is_drawn else None
    if not (loader or clips):
        return None

    def validate(state: TrainState) -> dict[str, Any]:
        is_probed = loader and is_due(cfg, cfg.MAE.PROBE_PERIOD, state.epoch)
        results = probe_features(cfg, loader, state) if loader and is_probed else {}
        if clips:
            clips.draw(cast(HieraMAE, state.get_model_to_use()), state.epoch)
        return results

    return validate


def probe_features(cfg: CfgNode, loader: BatchLoader, state: TrainState) -> dict[str, Any]:
    """Top-1 of nearest neighbors among the features of the validation list; only the main process computes it."""
    watch = Stopwatch()
    mae = state.get_model_to_use()
    features, failed = compute_per_video(
        cfg, mae, loader, compute=lambda clips: mae.forward_features(clips).float(), title="probe"
    )
    if not is_main_process():
        return {}
    labels = torch.from_numpy(loader.dataset.videos.labels)
    predicted = classify_knn(features, labels, num_neighbors=cfg.MAE.PROBE_NEIGHBORS)  # each video by the others
    accuracy = 100.0 * (predicted == labels).double().mean().item()
    counts = {"num_videos": len(labels), "num_failed": len(failed)}
    return {"knn_top1": accuracy, **counts, "seconds": round(watch.lap(), 2)}

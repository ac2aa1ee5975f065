"""How many heads the decoder of a masked autoencoder was trained with, which its weights do not tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from fvcore.common.config import CfgNode

from hiera_video.engine.batch import to_model_input
from hiera_video.engine.reconstruct import load_center_clip
from hiera_video.models.build import build_mae_from_cfg
from hiera_video.models.checkpoint_file import CheckpointFile
from hiera_video.models.mask_units import draw_mask
from hiera_video.models.weights import load_weights
from hiera_video.utils.rng import seeded


@torch.inference_mode()
def compute_losses_by_heads(
    cfg: CfgNode, file: CheckpointFile, paths: Sequence[str], *, heads: Sequence[int], num_masks: int, seed: int
) -> dict[int, list[float]]:
    """The masked loss of each video's center clip, with decoders of each number of heads on the same masks.

    Args:
        cfg: of the pre-training; MAE.DECODER_NUM_HEADS is not read.
        file: its weights.
        paths: of the videos.
        heads: numbers to try, divisors of MAE.DECODER_EMBED_DIM.
        num_masks: masks of each video.
        seed: of the masks.

    Returns:
        Heads -> the mean loss over the masks, for each video.

    Raises:
        FileNotFoundError: no such video.
        ValueError: the file does not fill the model, or a number of heads does not divide the decoder's width.
    """
    clips = [
        to_model_input(
            load_center_clip(cfg, path)[0][None], device=torch.device("cpu"), mean=cfg.DATA.MEAN, std=cfg.DATA.STD
        )
        for path in paths
    ]  # (1, C, T, H, W) each
    losses: dict[int, list[float]] = {}
    for number in heads:
        changed = cfg.clone()
        changed.defrost()
        changed.MAE.DECODER_NUM_HEADS = number
        model = build_mae_from_cfg(changed).eval()
        report = load_weights(model, replace(file, decoder_num_heads=number))
        if report.missing:
            raise ValueError(f"{file.source} does not fill {cfg.MODEL.MODEL_NAME}: missing {', '.join(report.missing)}")
        losses[number] = []
        for video in clips:
            with seeded(seed):  # the same masks for each number of heads
                masks = [draw_mask(model.mask_units_grid, cfg.MAE.MASK_RATIO) for _ in range(num_masks)]
            losses[number].append(sum(model(video, mask=mask[None])[0].item() for mask in masks) / num_masks)
    return losses

"""What a pre-trained masked autoencoder makes of a clip whose parts are hidden."""

from __future__ import annotations

import numpy as np
import torch
from fvcore.common.config import CfgNode

from hiera_video.data.clip_sampling import build_clip_sampler
from hiera_video.data.transforms import build_eval_transform
from hiera_video.engine.batch import to_model_input
from hiera_video.models.build import build_mae_from_cfg
from hiera_video.models.checkpoint_file import CheckpointFile
from hiera_video.models.hiera_mae import HieraMAE
from hiera_video.models.mask_units import draw_mask
from hiera_video.models.targets import paint_patches, patchify, unpatchify
from hiera_video.models.weights import load_weights
from hiera_video.utils.rng import seeded
from hiera_video.video import VideoReader
from hiera_video.video.file_cache import build_file_cache

_GRAY = 0.5


def reconstruct(cfg: CfgNode, file: CheckpointFile, path: str, *, seed: int) -> tuple[dict[str, np.ndarray], list[int]]:
    """Hides mask units of a video's center clip and has the model paint them.

    Args:
        cfg: of the pre-training.
        file: its weights.
        path: of the video.
        seed: of the mask.

    Returns:
        Title ("original", "masked", "reconstructed") -> uint8 frames (T', H, W, 3), one for each token in time; and the
        positions of these frames in the video.

    Raises:
        FileNotFoundError: no such video.
        ValueError: the model does not predict pixels, or the file does not fill it.
    """
    if cfg.MAE.TARGET != "pixel":
        raise ValueError(f"MAE.TARGET = {cfg.MAE.TARGET}: only a model that predicts pixels can be shown")
    model = build_mae_from_cfg(cfg).eval()
    report = load_weights(model, file, pos_embed_resize=cfg.MODEL.POS_EMBED_RESIZE)
    if report.missing:
        raise ValueError(f"{file.source} does not fill {cfg.MODEL.MODEL_NAME}: missing {', '.join(report.missing)}")
    clip, positions = load_center_clip(cfg, path)  # uint8 (1, C, T, H, W)
    return paint_clip(cfg, model, clip, seed=seed), positions[:: model.pred_stride[0]]


def paint_clip(cfg: CfgNode, model: HieraMAE, clip: torch.Tensor, *, seed: int) -> dict[str, np.ndarray]:
    """As `reconstruct`, of a clip that is loaded and a model in eval mode that predicts pixels.

    Args:
        cfg: of the pre-training.
        model: on any device.
        clip: uint8 (1, C, T, H, W).
        seed: of the mask.
    """
    device = next(model.parameters()).device
    video = to_model_input(clip[None], device=device, mean=cfg.DATA.MEAN, std=cfg.DATA.STD)  # (1, C, T, H, W)
    with seeded(seed):
        mask = draw_mask(model.mask_units_grid, cfg.MAE.MASK_RATIO, kind=cfg.MAE.MASK_TYPE)[None]  # (1, U)
    with torch.inference_mode():
        pred, hidden = (x.float().cpu() if x.is_floating_point() else x.cpu() for x in model.reconstruct(video, mask))
    video, pixels = video.cpu(), clip.float() / 255
    patches = patchify(pixels, model.pred_stride)  # (1, T', H', W', P)
    masked = unpatchify(torch.where(hidden[..., None], torch.full_like(patches, _GRAY), patches), model.pred_stride)
    if cfg.MAE.NORM_TARGET:
        # The prediction is of a patch's pixels without their mean and contrast, whatever these are measured in.
        painted = paint_patches(pixels, pred, hidden, model.pred_stride, normalized=True)
    else:
        mean, std = (torch.tensor(x)[:, None, None, None] for x in (cfg.DATA.MEAN, cfg.DATA.STD))  # (C, 1, 1, 1)
        painted = paint_patches(video, pred, hidden, model.pred_stride, normalized=False) * std + mean
    rows = {"original": unpatchify(patches, model.pred_stride), "masked": masked, "reconstructed": painted}
    return {title: _to_uint8(x) for title, x in rows.items()}


def load_center_clip(cfg: CfgNode, path: str) -> tuple[torch.Tensor, list[int]]:
    """The center clip of a video, uint8 (1, C, T, H, W), and the positions of its frames."""
    with VideoReader(path, backend=cfg.DATA.DECODING_BACKEND, cache=build_file_cache(cfg)) as reader:
        sampler = build_clip_sampler(cfg, num_clips=1, is_training=False)
        positions = sampler.get_frame_indices(len(reader), reader.fps)[0].tolist()
        frames = reader.get_frames(positions)  # (T, H, W, C)
    return build_eval_transform(cfg, num_crops=1, crop_size_px=cfg.DATA.TRAIN_CROP_SIZE)(frames), positions


def _to_uint8(video: torch.Tensor) -> np.ndarray:
    frames = video[0].permute(1, 2, 3, 0)  # (1, C, T, H, W) -> (T, H, W, C)
    return (frames * 255).round().clamp(0, 255).to(torch.uint8).numpy()

"""Shows what a pre-trained masked autoencoder makes of a video: original, masked, and reconstructed frames.

    python tools/visualize_mae.py --cfg configs/Kinetics/HIERA_B_16x4_MAE_800.yaml \\
        --checkpoint mae_hiera_base_16x224.pth --video clip.mp4 --output-dir output/mae

Writes <video>_mae.png, time along the page, and <video>_mae.mp4.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import av
import numpy as np
import torch
from fvcore.common.config import CfgNode

from hiera_video.config import load_config
from hiera_video.data.clip_sampling import build_clip_sampler
from hiera_video.data.transforms import build_test_transform, normalize_video
from hiera_video.models.build import build_mae_from_cfg
from hiera_video.models.mask_units import draw_mask
from hiera_video.models.targets import paint_patches, patchify, unpatchify
from hiera_video.models.weights import load_weights
from hiera_video.report.pictures import compose_moments, compose_strip
from hiera_video.utils.rng import seeded
from hiera_video.video import VideoDecodeError, VideoReader

GREY = 0.5
FRAMES_PER_SEC = 4  # of the written video: slow enough to compare


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", required=True, nargs="+", help="config of the pre-training")
    parser.add_argument("--checkpoint", required=True, help="its weights: ours, or a released mae_*.pth")
    parser.add_argument("--video", required=True, help="the video; its centre clip is shown")
    parser.add_argument("--output-dir", default="output/mae")
    parser.add_argument("--seed", type=int, default=0, help="of the mask")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs, last")
    return parser.parse_args()


def reconstruct(cfg: CfgNode, checkpoint: str, path: str, *, seed: int) -> tuple[dict[str, np.ndarray], list[int]]:
    """Title -> uint8 frames (T', H, W, 3), one of each token in time; and their positions in the video."""
    model = build_mae_from_cfg(cfg).eval()
    report = load_weights(model, checkpoint)
    if report.missing:
        raise ValueError(f"{checkpoint} does not fill {cfg.MODEL.MODEL_NAME}: missing {', '.join(report.missing)}")
    with VideoReader(path, backend=cfg.DATA.DECODING_BACKEND) as reader:
        positions = build_clip_sampler(cfg, num_clips=1, is_training=False).get_frame_indices(len(reader), reader.fps)[
            0
        ]
        frames = reader.get_frames(positions.tolist())  # (T, H, W, C)
    clip = build_test_transform(cfg, num_crops=1, crop_size_px=cfg.DATA.TRAIN_CROP_SIZE)(frames)  # (1, C, T, H, W)
    video = normalize_video(clip, mean=cfg.DATA.MEAN, std=cfg.DATA.STD)
    with seeded(seed):
        mask = draw_mask(model.mask_units_grid, cfg.MAE.MASK_RATIO, kind=cfg.MAE.MASK_TYPE)[None]  # (1, U)
    pred, hidden = model.reconstruct(video, mask)
    pixels = clip.float() / 255
    patches = patchify(pixels, model.pred_stride)  # (1, T', H', W', P)
    masked = unpatchify(torch.where(hidden[..., None], torch.full_like(patches, GREY), patches), model.pred_stride)
    if cfg.MAE.NORM_TARGET:
        # The prediction is of a patch's pixels without their mean and contrast, whatever these are measured in.
        painted = paint_patches(pixels, pred, hidden, model.pred_stride, normalized=True)
    else:
        mean, std = (torch.tensor(x)[:, None, None, None] for x in (cfg.DATA.MEAN, cfg.DATA.STD))  # (C, 1, 1, 1)
        painted = paint_patches(video, pred, hidden, model.pred_stride, normalized=False) * std + mean
    rows = {"original": unpatchify(patches, model.pred_stride), "masked": masked, "reconstructed": painted}
    return {title: _to_uint8(x) for title, x in rows.items()}, positions[:: model.pred_stride[0]].tolist()


def _to_uint8(video: torch.Tensor) -> np.ndarray:
    frames = video[0].permute(1, 2, 3, 0)  # (1, C, T, H, W) -> (T, H, W, C)
    return (frames * 255).round().clamp(0, 255).to(torch.uint8).numpy()


def write_mp4(path: Path, frames: np.ndarray) -> None:
    """Writes uint8 (T, H, W, 3), H and W even, as H.264."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SEC)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def main() -> None:
    """Reconstructs and writes."""
    args = parse_args()
    try:
        cfg = load_config(args.cfg, [*args.opts, "TASK", "pretrain", "TRAIN.ENABLE", "False", "TEST.ENABLE", "False"])
        if cfg.MAE.TARGET != "pixel":
            raise ValueError(f"MAE.TARGET = {cfg.MAE.TARGET}: only a model that predicts pixels can be shown")
        rows, positions = reconstruct(cfg, args.checkpoint, args.video, seed=args.seed)
    except (ValueError, FileNotFoundError, VideoDecodeError) as error:
        sys.exit(f"error: {error}")
    caption = (
        f"{Path(args.video).name}: {cfg.MAE.MASK_RATIO:.0%} of the mask units hidden ({cfg.MAE.MASK_TYPE}). "
        f"Visible patches are the original's. "
        + (
            "Hidden patches are predictions, un-normalised with the true mean and contrast of each patch, which the "
            "model does not predict."
            if cfg.MAE.NORM_TARGET
            else "Hidden patches are predictions."
        )
        + f" Weights: {args.checkpoint}"
    )
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    picture, film = (folder / f"{Path(args.video).stem}_mae{suffix}" for suffix in (".png", ".mp4"))
    compose_strip(rows, caption=caption, column_titles=[f"frame {position}" for position in positions]).save(picture)
    write_mp4(film, compose_moments(rows))
    print(f"{caption}\nwritten: {picture}, {film}")

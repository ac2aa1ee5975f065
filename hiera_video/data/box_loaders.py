"""Batches of key frames with boxes for one process."""

from __future__ import annotations

from collections.abc import Collection

from fvcore.common.config import CfgNode

from hiera_video.data.batch_loader import BatchLoader
from hiera_video.data.box_dataset import BoxDataset
from hiera_video.data.box_lists import Truth, build_key_frames, build_listed_key_frames, build_truth
from hiera_video.data.box_transforms import build_box_eval_transform, build_box_train_transform
from hiera_video.data.key_frame_clips import KeyFrameSampler
from hiera_video.data.loader import build_epoch_loader, build_eval_loader
from hiera_video.video.file_cache import build_file_cache

__all__ = ["Truth", "build_box_eval_loader", "build_box_train_loader", "build_key_frames", "build_truth"]


def build_box_train_loader(cfg: CfgNode) -> BatchLoader:
    """Loader of the training key frames; its ``sampler`` is an `EpochSampler`. A batch, see `BoxDataset.collate`, is
    one accumulation step of one rank.

    Raises:
        ValueError: TRAIN.BATCH_SIZE cannot be divided among the processes, AUG.NUM_SAMPLE is not 1, or see
            `build_key_frames`.
    """
    if cfg.AUG.NUM_SAMPLE != 1:
        raise ValueError(f"AUG.NUM_SAMPLE is {cfg.AUG.NUM_SAMPLE}: a key frame gives one clip; set 1")
    return build_epoch_loader(cfg, build_box_dataset(cfg, "train", is_training=True))


def build_box_eval_loader(cfg: CfgNode, split: str, *, leave_out: Collection[int] = ()) -> BatchLoader:
    """Loader of a split's key frames with the boxes to predict for, the center view of each.

    Args:
        split: "train", "val" or "test".
        leave_out: positions in the list that are not loaded.
    """
    return build_eval_loader(cfg, build_box_dataset(cfg, split, is_training=False), leave_out=leave_out)


def build_box_dataset(cfg: CfgNode, split: str, *, is_training: bool) -> BoxDataset:
    """The samples of a split's key frames, augmented or as in testing."""
    key_frames, manifest = build_listed_key_frames(cfg, split)
    data = cfg.DATA
    return BoxDataset(
        key_frames,
        sampler=KeyFrameSampler(
            num_frames=data.NUM_FRAMES, sampling_rate=data.SAMPLING_RATE, target_fps=data.TARGET_FPS
        ),
        transform=build_box_train_transform(cfg) if is_training else build_box_eval_transform(cfg),
        is_training=is_training,
        seed=cfg.RNG_SEED,
        decoding_backend=data.DECODING_BACKEND,
        max_short_side_px=data.MAX_SHORT_SIDE,
        manifest=manifest,
        cache=build_file_cache(cfg),
    )

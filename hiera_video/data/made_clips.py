"""Clips of noise in the form of a training set, to measure a model without data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode

from hiera_video.data.dataset import VideoDataset
from hiera_video.data.label_sets import LabelSets
from hiera_video.data.lists import VideoList
from hiera_video.data.samples import SampleDataset
from hiera_video.utils.rng import seed_cpu


class MadeClips(SampleDataset):
    """Samples as a `VideoDataset` has them for training, whose pixels are noise and whose labels are random.

    Args:
        num_videos: how many.
        view_shape: of one view, (C, T, H, W).
        num_classes: labels are below it.
        make_mask: for pre-training, see `VideoDataset`.
        num_samples: views of a sample.
        has_label_sets: whether a label is a set of classes, float32 (K,), which here holds one.
        seed: first part of each sample's random key.
    """

    collate = staticmethod(VideoDataset.collate)

    def __init__(
        self,
        num_videos: int,
        *,
        view_shape: tuple[int, ...],
        num_classes: int,
        make_mask: Callable[[], torch.Tensor] | None = None,
        num_samples: int = 1,
        has_label_sets: bool = False,
        seed: int = 0,
    ) -> None:
        labels = np.random.default_rng(seed).integers(num_classes, size=num_videos)
        videos = VideoList(np.array([f"made clip {i}" for i in range(num_videos)]), labels)
        super().__init__(videos, num_samples=num_samples, replaces_bad=True, seed=seed)
        self.view_shape, self.make_mask = view_shape, make_mask
        sets = [[int(label)] for label in labels] if has_label_sets else None
        self._label_sets = LabelSets.from_lists(sets, num_classes=num_classes) if sets else None

    def load(self, epoch: int, index: int) -> dict[str, Any]:
        """Noise, uint8 (V, C, T, H, W), a label, and with ``make_mask`` masks, bool (V, U)."""
        seed_cpu(self.seed, epoch, index)
        video = torch.randint(256, (self.num_samples, *self.view_shape), dtype=torch.uint8)
        label = self._label_sets.make_target(index) if self._label_sets else int(self.videos.labels[index])
        sample = {"video": video, "label": label}
        if self.make_mask is not None:
            sample["mask"] = torch.stack([self.make_mask() for _ in range(self.num_samples)])
        return sample

    def make_bad(self, index: int) -> dict[str, Any]:
        """Never needed: every sample can be made."""
        return self.load(0, index)


def build_made_clips(cfg: CfgNode, *, make_mask: Callable[[], torch.Tensor] | None = None) -> MadeClips:
    """Two steps' worth of clips of the config's size.

    Raises:
        ValueError: TASK learns from boxes, which are not made.
    """
    if cfg.TASK not in ("classify", "pretrain"):
        raise ValueError(f"TASK = {cfg.TASK} learns from boxes: clips are made only for classify and pretrain")
    side = cfg.DATA.TRAIN_CROP_SIZE
    return MadeClips(
        2 * cfg.TRAIN.BATCH_SIZE,
        view_shape=(3, cfg.DATA.NUM_FRAMES, side, side),
        num_classes=cfg.MODEL.NUM_CLASSES,
        make_mask=make_mask,
        num_samples=cfg.AUG.NUM_SAMPLE,
        has_label_sets=cfg.MODEL.LOSS_FUNC == "bce_logit",
        seed=cfg.RNG_SEED,
    )

"""Mixup and CutMix on a batch, with soft labels and label smoothing."""

from __future__ import annotations

import random

import torch
from fvcore.common.config import CfgNode

from hiera_video.utils.ptv_compat import CutMix, MixUp, convert_to_one_hot


class Mix:
    """Mixes each clip of a batch with the one at the mirrored place, by mixup or by CutMix.

    One mixing factor for the batch, from Beta(alpha, alpha); in CutMix it is the share of the picture that stays. Draws
    come from the global generators of ``random`` and torch (CPU).

    Args:
        num_classes: K.
        mixup_alpha: 0 turns mixup off.
        cutmix_alpha: 0 turns CutMix off.
        prob: chance that a batch is mixed at all.
        switch_prob: chance of CutMix when both are on.
        label_smoothing: the share of the target that is spread evenly over all classes.

    Raises:
        ValueError: an argument is out of range.

    Follows: SlowFast's MixUp (batch mode), built on PyTorchVideo's MixUp and CutMix.
    Differs: a single clip is left as it is, where PyTorchVideo stops.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        prob: float = 1.0,
        switch_prob: float = 0.5,
        label_smoothing: float = 0.0,
    ) -> None:
        for name, value in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
            if value < 0:
                raise ValueError(f"{name} is {value}; it must be 0 (off) or greater")
        for name, value in (("prob", prob), ("switch_prob", switch_prob)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it must be in [0, 1]")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; it must be in [0, 1)")
        shared = {"label_smoothing": label_smoothing, "num_classes": num_classes}
        self.mixup = MixUp(alpha=mixup_alpha, **shared) if mixup_alpha > 0 else None
        self.cutmix = CutMix(alpha=cutmix_alpha, **shared) if cutmix_alpha > 0 else None
        self.num_classes = num_classes
        self.prob = prob
        self.switch_prob = switch_prob
        self.label_smoothing = label_smoothing

    def __call__(self, video: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mixes a batch; `video` is overwritten, to spare the memory of a second batch.

        Args:
            video: float (N, C, T, H, W).
            labels: int64 (N,), in [0, K).

        Returns:
            The video, and soft labels, fp32 (N, K), each row of sum 1.
        """
        mix = self._choose() if len(video) > 1 else None
        if mix is None:
            return video, convert_to_one_hot(labels, self.num_classes, self.label_smoothing).float()
        video, soft_labels = mix(video, labels)
        return video, soft_labels.float()

    def _choose(self) -> torch.nn.Module | None:
        if random.random() >= self.prob:
            return None
        if self.mixup is None or self.cutmix is None:
            return self.mixup or self.cutmix
        return self.cutmix if random.random() < self.switch_prob else self.mixup


def build_mix(cfg: CfgNode) -> Mix | None:
    """The mixing that MIXUP asks for; None where it is off, and labels stay hard."""
    if not cfg.MIXUP.ENABLE:
        return None
    return Mix(
        num_classes=cfg.MODEL.NUM_CLASSES,
        mixup_alpha=cfg.MIXUP.ALPHA,
        cutmix_alpha=cfg.MIXUP.CUTMIX_ALPHA,
        prob=cfg.MIXUP.PROB,
        switch_prob=cfg.MIXUP.SWITCH_PROB,
        label_smoothing=cfg.MIXUP.LABEL_SMOOTH_VALUE,
    )

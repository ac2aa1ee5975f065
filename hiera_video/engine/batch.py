"""From a loader's batch to what the model reads, on the device."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch

from hiera_video.data.transforms import normalize_video
from hiera_video.utils.logging import get_logger
from hiera_video.utils.ranges import named_range

logger = get_logger(__name__)

_AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def to_model_input(
    video: torch.Tensor, *, device: torch.device, mean: Sequence[float], std: Sequence[float]
) -> torch.Tensor:
    """uint8 (B, V, C, T, H, W) on the CPU -> normalized float32 (B*V, C, T, H, W) on the device.

    The copy carries bytes, a quarter of what floats would be; normalization happens on the device.
    """
    with named_range("copy"):
        clips = video.to(device, non_blocking=True).flatten(0, 1)  # (B*V, C, T, H, W)
        return normalize_video(clips, mean=mean, std=std)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Context of the forward pass for a precision of TRAIN.PRECISION."""
    dtype = _AUTOCAST_DTYPES.get(precision)
    return torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext()


class BadVideos:
    """Distinct videos that could not be decoded so far, in this process: logged once each, and limited in number.

    Args:
        limit: more distinct videos than this stop the job.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reasons: dict[int, str] = {}  # position in the list -> reason, which names the path

    def update(self, batch: dict[str, Any]) -> None:
        """Takes the ``bad`` entries of a batch.

        Raises:
            RuntimeError: more than ``limit`` videos are bad.
        """
        for entry in batch["bad"]:
            if entry.position not in self.reasons:
                self.reasons[entry.position] = entry.reason
                logger.warning("bad video %d: %s", len(self.reasons), entry.reason)
        check_bad_limit(len(self.reasons), self.limit)


def check_bad_limit(count: int, limit: int) -> None:
    """Raises RuntimeError when ``count`` bad videos are more than ``limit``."""
    if count > limit:
        raise RuntimeError(
            f"{count} videos could not be decoded, more than DATA.MAX_BAD_VIDEOS = {limit}; they are named in the log "
            "above. Repair or remove them, or raise the limit"
        )

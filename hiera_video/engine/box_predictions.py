"""What a model says of the boxes of key frames, and how right it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from fvcore.common.config import CfgNode
from torch import nn

from hiera_video.data.action_lists import CORNERS, KeyFrames
from hiera_video.data.batch_loader import BatchLoader
from hiera_video.engine.action_ap import PROTOCOLS, ActionAp, compute_action_ap
from hiera_video.engine.batch import to_model_input
from hiera_video.engine.scored_parts import ScoredParts
from hiera_video.engine.scoring import score_samples
from hiera_video.utils.distributed import get_device

DEFAULT_PROTOCOL = "SlowFast"


@dataclass(frozen=True, eq=False)
class BoxPredictions:
    """Probabilities of every box of a list of key frames, in its order.

    Attributes:
        key_frames: the list.
        probs: float32 (R, K), each class by itself; NaN where the key frame could not be decoded.
        is_outside: bool (R,), the box lies outside of the view, so that the model saw nothing of it.
        failed: position of a key frame -> reason.
    """

    key_frames: KeyFrames
    probs: np.ndarray
    is_outside: np.ndarray
    failed: dict[int, str]

    def make_boxes(self) -> pd.DataFrame:
        """Columns video, time_sec, x1, y1, x2, y2: a row for each box, at its place in the whole frame."""
        frames, counts = self.key_frames, np.diff(self.key_frames.box_starts)
        places = {"video": frames.videos.repeat(counts), "time_sec": frames.times_sec.repeat(counts)}
        return pd.DataFrame({**places, **dict(zip(CORNERS, frames.boxes.astype(np.float64).T, strict=True))})

    def compute_ap(
        self,
        truth: pd.DataFrame,
        class_names: Mapping[int, str],
        excluded: Collection[tuple[str, float]],
        *,
        protocol: str = DEFAULT_PROTOCOL,
    ) -> ActionAp:
        """The average precision of the classes that have names; boxes that could not be decoded are no detections.

        Args:
            truth: see `compute_action_ap`.
            class_names: label -> name, of the classes that count.
            excluded: see there.
            protocol: one of `PROTOCOLS`.
        """
        return compute_action_ap(
            truth,
            self.make_boxes(),
            self.probs,
            classes=sorted(class_names),
            excluded=excluded,
            protocol=PROTOCOLS[protocol],
        )


def predict_boxes(
    cfg: CfgNode, model: nn.Module, loader: BatchLoader, *, title: str, parts: ScoredParts | None = None
) -> BoxPredictions:
    """Scores the boxes of every key frame of the loader's list once, over all ranks; see `score_samples`.

    Args:
        cfg: DATA.MEAN and DATA.STD are read too.
        model: clips and boxes -> logits, see `HieraActionDetector`.
        loader: from `build_box_eval_loader`.
        title: name of the progress bar.
        parts: what was scored before, and where to keep what is scored now.
    """
    device = get_device()

    def compute(batch: dict[str, Any]) -> list[Any]:
        clips = to_model_input(batch["video"], device=device, mean=cfg.DATA.MEAN, std=cfg.DATA.STD)  # (B, C, T, H, W)
        boxes = empty_outside(batch["boxes"], batch["is_outside"]).to(device)
        probs = model(clips, boxes).float().sigmoid().cpu()  # (R, K)
        counts = batch["boxes"][:, 0].long().bincount(minlength=len(batch["index"])).tolist()
        columns = (probs.split(counts), batch["rows"].split(counts), batch["is_outside"].split(counts))
        return [
            {"probs": p.clone(), "rows": r.clone(), "is_outside": o.clone()} for p, r, o in zip(*columns, strict=True)
        ]

    key_frames: Any = loader.dataset.videos
    values, failed = score_samples(cfg, model, loader, compute=compute, title=title, parts=parts)
    probs = np.full((len(key_frames.boxes), cfg.MODEL.NUM_CLASSES), np.nan, np.float32)
    is_outside = np.zeros(len(probs), dtype=bool)
    for position, value in enumerate(values):
        rows = np.arange(*key_frames.box_starts[position : position + 2])
        if value is None:
            continue
        if not np.array_equal(value["rows"].numpy(), rows):
            raise RuntimeError(f"key frame {position} has the boxes {rows}, but {value['rows'].numpy()} were scored")
        probs[rows], is_outside[rows] = value["probs"].numpy(), value["is_outside"].numpy()
    return BoxPredictions(key_frames, probs, is_outside, failed)


def empty_outside(boxes: torch.Tensor, is_outside: torch.Tensor) -> torch.Tensor:
    """Boxes (R, 5) with those that lie outside of the view made empty: the model then pools nothing for them.

    At the view's border RoIAlign would still see the last cells.
    """
    corners = boxes[:, 1:].masked_fill(is_outside[:, None], 0.0)
    return torch.cat([boxes[:, :1], corners], dim=1)

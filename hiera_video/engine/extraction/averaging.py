"""From the features of a video's views to its rows."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

Average = Literal["none", "crops", "video"]


class Averager:
    """Makes the rows of one video from its features, which come chunk by chunk.

    Args:
        average: "none": a row for each view; "crops": one for each clip; "video": one for the video.
        num_crops: views of a clip.
        l2_normalize: scales each row to length 1, after averaging.
    """

    def __init__(self, average: Average, *, num_crops: int, l2_normalize: bool = False) -> None:
        self._average, self._num_crops, self._l2_normalize = average, num_crops, l2_normalize
        self._sum: torch.Tensor | None = None  # float64, over all views so far
        self._num_views = 0
        self._start_sec = float("nan")

    def add(self, features: torch.Tensor, spans_sec: np.ndarray, *, is_last: bool) -> tuple[torch.Tensor, np.ndarray]:
        """The rows that a chunk completes.

        Args:
            features: (n * crops, ...), the crops of a clip together.
            spans_sec: (n, 2), of its clips.
            is_last: whether the video ends with this chunk.

        Returns:
            float32 (rows, D), a feature map's values one after the other; and the spans (rows, 2).
        """
        if self._average == "video":
            rows, spans_sec = self._add_to_mean(features, spans_sec, is_last)
        elif self._average == "crops":
            rows = features.unflatten(0, (-1, self._num_crops)).mean(dim=1)
        else:
            rows, spans_sec = features, spans_sec.repeat(self._num_crops, axis=0)
        rows = rows.flatten(1).float()  # (rows, D)
        return torch.nn.functional.normalize(rows) if self._l2_normalize else rows, spans_sec

    def _add_to_mean(
        self, features: torch.Tensor, spans_sec: np.ndarray, is_last: bool
    ) -> tuple[torch.Tensor, np.ndarray]:
        """No row until the last chunk, then one."""
        if self._sum is None:
            self._sum = torch.zeros(features.shape[1:], dtype=torch.float64)
            self._start_sec = float(spans_sec[0, 0])
        self._sum += features.sum(dim=0, dtype=torch.float64)
        self._num_views += len(features)
        if not is_last:
            return features[:0], spans_sec[:0]
        return (self._sum / self._num_views)[None], np.array([[self._start_sec, spans_sec[:, 1].max()]])

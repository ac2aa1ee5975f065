"""Predictions of videos with several classes each: mean average precision, thresholds, tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fvcore.common.config import CfgNode

from hiera_video.data.lists import VideoList
from hiera_video.utils.files import write_whole
from hiera_video.utils.label_metrics import (
    choose_thresholds,
    compute_average_precision,
    compute_decisions,
    compute_intervals,
    compute_mean_average_precision,
    compute_ratios,
)

DEFAULT_THRESHOLD = 0.5


def is_multilabel(cfg: CfgNode) -> bool:
    """Whether a clip may have several classes, or none."""
    return cfg.MODEL.LOSS_FUNC == "bce_logit"


@dataclass(frozen=True, eq=False)
class MultiLabelPredictions:
    """Probabilities of every video of a list, in its order.

    Attributes:
        probs: float32 (N, K), each class by itself; NaN where the video could not be decoded.
        targets: bool (N, K), the classes of each video.
        failed: position in the list -> reason.
        thresholds: float64 (K,), from which probability on a video has a class; chosen on other videos than these.
    """

    probs: torch.Tensor
    targets: torch.Tensor
    failed: dict[int, str]
    thresholds: np.ndarray

    def compute_map(self) -> float:
        """Mean average precision, in percent: the ``map`` of `compute_accuracy`, without the time of an interval."""
        return compute_mean_average_precision(self.probs.double().numpy(), self.targets.numpy())

    def compute_accuracy(self) -> dict[str, Any]:
        """Percentages over all N videos, of which a failed one is found for none of its classes.

        ``map`` (mean average precision over the classes that have videos, also called macro) with ``map_interval``, and
        at the thresholds ``f1_micro`` (over all answers) and ``f1_macro`` (the mean over the classes with videos).
        """
        probs, targets = self.probs.double().numpy(), self.targets.numpy()
        decisions = compute_decisions(probs, targets, self.thresholds)
        counts = {name: np.array(decisions[name].sum()) for name in ("found", "said", "true")}
        of_classes = np.nan_to_num(decisions["f1"][targets.any(axis=0)])
        return {
            "map": self.compute_map(),
            "map_interval": compute_intervals(probs, targets)[0],
            "f1_micro": float(compute_ratios(**counts)["f1"]),
            "f1_macro": float(of_classes.mean()) if len(of_classes) else float("nan"),
        }

    def choose_thresholds(self) -> np.ndarray:
        """Thresholds for other videos: those of the highest F1 of each class here; see `choose_thresholds`."""
        return choose_thresholds(self.probs.double().numpy(), self.targets.numpy(), default=DEFAULT_THRESHOLD)

    def count_empty_classes(self) -> int:
        """How many classes have no video."""
        return int((~self.targets.any(dim=0)).sum())

    def describe(self, results: dict[str, Any]) -> str:
        """The part of a log line that tells of `compute_accuracy`."""
        low, high = results["map_interval"]
        return (
            f"mAP {results['map']:.2f} % (95 % interval {low:.2f} to {high:.2f}), at the thresholds F1 "
            f"{results['f1_micro']:.2f} % (micro), {results['f1_macro']:.2f} % (macro)"
        )

    def write_tables(self, videos: VideoList, output_dir: Path) -> None:
        """``test_predictions.parquet``, a row for each video, and ``test_classes.csv``, a row for each class."""
        self.make_table(videos).to_parquet(output_dir / "test_predictions.parquet")
        text = self.make_class_table(videos).to_csv(index=False)
        write_whole(output_dir / "test_classes.csv", text.encode())

    def make_table(self, videos: VideoList) -> pd.DataFrame:
        """Path, labels, predictions (the classes at or above their thresholds), reason of a failure, ``probs`` (K,)."""
        said = self.probs.nan_to_num(-1.0).numpy() >= self.thresholds
        return pd.DataFrame(
            {
                "path": [str(path) for path in videos.paths],
                "labels": [np.flatnonzero(row) for row in self.targets.numpy()],
                "predictions": [np.flatnonzero(row) for row in said],
                "failure": [self.failed.get(i, "") for i in range(len(videos))],
                "probs": list(self.probs.numpy()),
            }
        )

    def make_class_table(self, videos: VideoList) -> pd.DataFrame:
        """Of each class: its videos, average precision with interval, threshold, and what that gives; in percent."""
        probs, targets = self.probs.double().numpy(), self.targets.numpy()
        decisions, intervals = compute_decisions(probs, targets, self.thresholds), compute_intervals(probs, targets)[1]
        return pd.DataFrame(
            {
                "class": list(videos.class_names or map(str, range(targets.shape[1]))),
                "num_videos": decisions["true"],
                "ap": 100.0 * compute_average_precision(probs, targets),
                "ap_low": intervals[:, 0],
                "ap_high": intervals[:, 1],
                "threshold": self.thresholds,
                **{name: decisions[name] for name in ("precision", "recall", "f1")},
            }
        )

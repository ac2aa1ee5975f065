"""Multi-view testing: every video counts exactly once, the undecodable ones as wrong and by name."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import simplejson
import torch
from fvcore.common.config import CfgNode
from torch import nn

from hiera_video.config import compute_digest, dump_config
from hiera_video.data.batch_loader import BatchLoader
from hiera_video.data.build_lists import build_video_list
from hiera_video.data.lists import VideoList
from hiera_video.data.loader import build_test_loader
from hiera_video.engine.metrics import (
    compute_confusion,
    compute_interval,
    compute_mean_class_accuracy,
    compute_mean_class_interval,
    compute_topk_hits,
)
from hiera_video.engine.multilabel import DEFAULT_THRESHOLD, MultiLabelPredictions, is_multilabel
from hiera_video.engine.scored_parts import ScoredParts, describe_settings
from hiera_video.engine.scoring import compute_per_video
from hiera_video.engine.trained import find_weights, load_model, load_thresholds
from hiera_video.engine.views import compute_probs
from hiera_video.models.build import build_compiled
from hiera_video.models.checkpoint_file import read_checkpoint_file
from hiera_video.utils.distributed import get_device, is_main_process
from hiera_video.utils.files import write_whole
from hiera_video.utils.logging import get_logger, log_json_stats
from hiera_video.utils.versions import get_versions

logger = get_logger(__name__)


@dataclass(frozen=True)
class Predictions:
    """Class probabilities of every video of a list, in its order.

    Attributes:
        probs: float32 (N, K), mean over views of the softmax; NaN where the video could not be decoded.
        labels: int64 (N,).
        failed: position in the list -> reason.
    """

    probs: torch.Tensor
    labels: torch.Tensor
    failed: dict[int, str]

    def compute_accuracy(self) -> dict[str, Any]:
        """Percentages over all N videos, where a failed one is wrong, each with its 95 % interval.

        ``top1``, ``top5``, ``mean_class_accuracy`` (over the classes that have videos), and ``..._interval`` of each.
        """
        hits = compute_topk_hits(self.probs, self.labels)
        confusion = self.compute_confusion()
        return {
            **{name: 100.0 * row.double().mean().item() for name, row in zip(("top1", "top5"), hits, strict=True)},
            "mean_class_accuracy": compute_mean_class_accuracy(confusion),
            "top1_interval": compute_interval(int(hits[0].sum()), len(self.labels)),
            "top5_interval": compute_interval(int(hits[1].sum()), len(self.labels)),
            "mean_class_accuracy_interval": compute_mean_class_interval(confusion),
        }

    def compute_predicted(self) -> torch.Tensor:
        """int64 (N,): the class of the highest probability, the first of equal ones; -1 where a video failed."""
        predicted = torch.from_numpy(self.probs.nan_to_num(-1.0).numpy().argmax(axis=1))  # of equal ones the first
        return torch.where(self.probs.isnan().any(dim=1), -1, predicted)

    def compute_confusion(self) -> torch.Tensor:
        """int64 (K, K + 1), see `hiera_video.engine.metrics.compute_confusion`."""
        return compute_confusion(self.compute_predicted(), self.labels, self.probs.shape[1])

    def count_empty_classes(self) -> int:
        """How many classes have no video."""
        return self.probs.shape[1] - len(self.labels.unique())

    def describe(self, results: dict[str, Any]) -> str:
        """The part of a log line that tells of `compute_accuracy`."""
        low, high = results["top1_interval"]
        return (
            f"top-1 {results['top1']:.2f} % (95 % interval {low:.2f} to {high:.2f}), top-5 {results['top5']:.2f} %, "
            f"mean over classes {results['mean_class_accuracy']:.2f} %"
        )

    def write_tables(self, videos: VideoList, output_dir: Path) -> None:
        """``test_predictions.parquet``, a row for each video, and ``test_confusion.csv``."""
        make_prediction_table(videos, self).to_parquet(output_dir / "test_predictions.parquet")
        make_confusion_table(videos, self).to_csv(output_dir / "test_confusion.csv")


def evaluate(
    cfg: CfgNode,
    model: nn.Module,
    loader: BatchLoader,
    *,
    title: str,
    parts: ScoredParts | None = None,
    thresholds: Sequence[float] = (),
) -> Predictions | MultiLabelPredictions:
    """Class probabilities of every video of the loader's list; see `compute_per_video`.

    Args:
        thresholds: from which probability on a video has a class, where it may have several; empty: 0.5 for all.
    """
    label_sets = cast(VideoList, loader.dataset.videos).label_sets

    def compute(clips: torch.Tensor) -> torch.Tensor:
        return compute_probs(model(clips).float(), is_multilabel=label_sets is not None)

    options = {"title": title, "parts": parts, "ensemble": cfg.TEST.ENSEMBLE_METHOD}
    probs, failed = compute_per_video(cfg, model, loader, compute=compute, **options)
    if label_sets is not None:
        chosen = np.array(thresholds or [DEFAULT_THRESHOLD] * label_sets.num_classes)
        return MultiLabelPredictions(probs, label_sets.make_targets(), failed, chosen)
    labels = torch.from_numpy(np.array(loader.dataset.videos.labels))
    return Predictions(probs=probs, labels=labels, failed=failed)


def test(cfg: CfgNode) -> None:
    """Tests a checkpoint over TEST.NUM_ENSEMBLE_VIEWS x TEST.NUM_SPATIAL_CROPS views of each video.

    Writes ``test_results.json`` and ``test_predictions.parquet`` to OUTPUT_DIR.

    A test that was stopped, and is started again with the same settings, scores only the rest.

    Raises:
        FileNotFoundError: no checkpoint is named and OUTPUT_DIR has none.
        ValueError: the checkpoint does not fill the whole model, or OUTPUT_DIR holds an unfinished test with other
            settings.
        Interrupted: a process was asked to stop; what is scored is kept.
    """
    checkpoint = find_weights(cfg, cfg.TEST.CHECKPOINT_FILE_PATH, key="TEST.CHECKPOINT_FILE_PATH")
    model = load_model(cfg, checkpoint).to(get_device())
    videos = build_video_list(cfg, cfg.TEST.SPLIT)
    parts = ScoredParts(cfg.OUTPUT_DIR, describe_settings(cfg, checkpoint, videos))
    scored = [position for position, _ in parts.before[0]]
    if scored:
        logger.info("the test goes on: %d of %d videos are scored already", len(scored), len(videos))
    start = time.perf_counter()
    loader = build_test_loader(cfg, leave_out=scored)
    thresholds = load_thresholds(read_checkpoint_file(checkpoint)) if is_multilabel(cfg) else ()
    compiled = build_compiled(cfg, model)
    predictions = evaluate(cfg, compiled, loader, title="test", parts=parts, thresholds=thresholds)
    if is_main_process():
        _write_results(cfg, videos, predictions, checkpoint, seconds=time.perf_counter() - start)
    parts.remove()


def _write_results(
    cfg: CfgNode,
    videos: VideoList,
    predictions: Predictions | MultiLabelPredictions,
    checkpoint: str,
    *,
    seconds: float,
) -> None:
    output_dir = Path(cfg.OUTPUT_DIR)
    results: dict[str, Any] = {
        **predictions.compute_accuracy(),
        "num_videos": len(videos),
        "num_evaluated": len(videos) - len(predictions.failed),
        "num_failed": len(predictions.failed),
        "num_empty_classes": predictions.count_empty_classes(),
        "num_repeated_paths": len(videos) - len(set(videos.paths.tolist())),
        "num_views": cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS,
        "num_ensemble_views": cfg.TEST.NUM_ENSEMBLE_VIEWS,
        "num_spatial_crops": cfg.TEST.NUM_SPATIAL_CROPS,
        "split": cfg.TEST.SPLIT,
        "model": cfg.MODEL.MODEL_NAME,
        "checkpoint": checkpoint,
        "config_digest": compute_digest(cfg),
        "test_seconds": round(seconds, 2),
        "versions": get_versions(),
        "failed": [{"path": str(videos.paths[i]), "reason": reason} for i, reason in predictions.failed.items()],
    }
    (output_dir / "test_config.yaml").write_text(dump_config(cfg))
    predictions.write_tables(videos, output_dir)
    write_whole(
        output_dir / "test_results.json", (simplejson.dumps(results, indent=2, ignore_nan=True) + "\n").encode()
    )
    log_json_stats(
        {"_type": "test", **{k: v for k, v in results.items() if k not in ("failed", "versions")}},
        output_dir=output_dir,
    )
    logger.info(
        "tested %d / %d videos x %d views in %.0f s: %s; %d undecodable count as wrong; see %s",
        results["num_evaluated"],
        results["num_videos"],
        results["num_views"],
        seconds,
        predictions.describe(results),
        results["num_failed"],
        output_dir / "test_results.json",
    )


def make_confusion_table(videos: VideoList, predictions: Predictions) -> pd.DataFrame:
    """A row for each class, a column for what its videos were taken for, by name where names are known."""
    num_classes = predictions.probs.shape[1]
    names = list(videos.class_names or map(str, range(num_classes)))
    counts = predictions.compute_confusion().numpy()
    return pd.DataFrame(counts, index=pd.Index(names, name="class"), columns=[*names, "failed"])


def make_prediction_table(videos: VideoList, predictions: Predictions) -> pd.DataFrame:
    """One row a video: path, label, prediction (-1 where it failed), reason of a failure, and ``probs`` (K,)."""
    failed = predictions.failed
    return pd.DataFrame(
        {
            "path": [str(path) for path in videos.paths],
            "label": predictions.labels.numpy(),
            "prediction": predictions.compute_predicted().numpy(),
            "failure": [failed.get(i, "") for i in range(len(videos))],
            "probs": list(predictions.probs.numpy()),
        }
    )

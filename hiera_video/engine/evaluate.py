"""Multi-view testing: every video counts exactly once, the undecodable ones as wrong and by name."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import simplejson
import torch
from fvcore.common.config import CfgNode
from torch import nn
from tqdm import tqdm

from hiera_video.config import compute_digest, dump_config
from hiera_video.data.batch_loader import BatchLoader
from hiera_video.data.lists import VideoList
from hiera_video.data.loader import build_test_loader
from hiera_video.engine.batch import BadVideos, autocast, check_bad_limit, to_model_input
from hiera_video.engine.metrics import compute_topk_hits
from hiera_video.engine.trained import find_weights, load_model
from hiera_video.utils.distributed import all_gather_objects, get_device, get_world_size, is_main_process
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

    def compute_accuracy(self) -> dict[str, float]:
        """``top1`` and ``top5`` in percent over all N videos; a failed video is a wrong one."""
        hits = compute_topk_hits(self.probs, self.labels).double().mean(dim=1) * 100
        return {"top1": hits[0].item(), "top5": hits[1].item()}


def evaluate(cfg: CfgNode, model: nn.Module, loader: BatchLoader, *, title: str) -> Predictions:
    """Class probabilities of every video of the loader's list; see `compute_per_video`."""
    probs, failed = compute_per_video(
        cfg, model, loader, compute=lambda clips: model(clips).float().softmax(dim=1), title=title
    )
    labels = torch.from_numpy(np.array(loader.dataset.videos.labels))
    return Predictions(probs=probs, labels=labels, failed=failed)


@torch.inference_mode()
def compute_per_video(
    cfg: CfgNode,
    model: nn.Module,
    loader: BatchLoader,
    *,
    compute: Callable[[torch.Tensor], torch.Tensor],
    title: str,
) -> tuple[torch.Tensor, dict[int, str]]:
    """Computes a vector of every view, and its mean over the views of each video of the list, over all ranks.

    Args:
        cfg: DATA.MEAN, DATA.STD, DATA.MAX_BAD_VIDEOS, TEST.BATCH_SIZE and TRAIN.PRECISION are read.
        model: put into eval mode meanwhile.
        loader: from `build_val_loader` or `build_test_loader`.
        compute: clips (n, C, T, H, W) -> float32 (n, D).
        title: name of the progress bar.

    Returns:
        float32 (N, D) in the order of the list, NaN where a video could not be decoded; and the reasons of those by
        position. Every rank gets the whole.

    Raises:
        RuntimeError: more bad videos than DATA.MAX_BAD_VIDEOS, or a video that was not counted exactly once.
    """
    device = get_device()
    clips_per_forward = max(cfg.TEST.BATCH_SIZE // get_world_size(), 1)
    bad = BadVideos(cfg.DATA.MAX_BAD_VIDEOS)
    indices, vectors = [], []
    was_training = model.training
    model.eval()
    for batch in tqdm(loader, desc=title, leave=False, disable=None if is_main_process() else True):
        bad.update(batch)
        clips = to_model_input(batch["video"], device=device, mean=cfg.DATA.MEAN, std=cfg.DATA.STD)  # (B*V, C, T, H, W)
        with autocast(device, cfg.TRAIN.PRECISION):
            views = torch.cat([compute(part) for part in clips.split(clips_per_forward)])  # (B*V, D)
        vectors.append(views.unflatten(0, (len(batch["index"]), -1)).mean(dim=1).cpu())  # (B, D)
        indices.append(batch["index"])
    model.train(was_training)
    whole, failed = _gather(len(loader.dataset), indices, vectors, bad.reasons)
    check_bad_limit(len(failed), cfg.DATA.MAX_BAD_VIDEOS)
    return whole, failed


def _gather(
    num_videos: int, indices: list[torch.Tensor], vectors: list[torch.Tensor], failed: dict[int, str]
) -> tuple[torch.Tensor, dict[int, str]]:
    parts = all_gather_objects((torch.cat(indices), torch.cat(vectors), failed) if indices else None)
    parts = [part for part in parts if part is not None]  # a rank beyond the number of videos has none
    index = torch.cat([part[0] for part in parts])
    if not torch.equal(index.sort().values, torch.arange(num_videos)):
        raise RuntimeError(f"{num_videos} videos, but {len(index)} predictions of {len(index.unique())} of them")
    all_vectors = torch.cat([part[1] for part in parts])[index.argsort()]  # (N, D)
    all_failed = dict(sorted((position, reason) for part in parts for position, reason in part[2].items()))
    all_vectors[list(all_failed)] = float("nan")
    return all_vectors, all_failed


def test(cfg: CfgNode) -> None:
    """Tests a checkpoint over TEST.NUM_ENSEMBLE_VIEWS x TEST.NUM_SPATIAL_CROPS views of each video.

    Writes ``test_results.json`` and ``test_predictions.parquet`` to OUTPUT_DIR.

    Raises:
        FileNotFoundError: no checkpoint is named and OUTPUT_DIR has none.
        ValueError: the checkpoint does not fill the whole model.
    """
    checkpoint = find_weights(cfg, cfg.TEST.CHECKPOINT_FILE_PATH, key="TEST.CHECKPOINT_FILE_PATH")
    model = load_model(cfg, checkpoint).to(get_device())
    loader = build_test_loader(cfg)
    start = time.perf_counter()
    compiled = cast(nn.Module, torch.compile(model)) if cfg.MODEL.COMPILE else model
    predictions = evaluate(cfg, compiled, loader, title="test")
    if is_main_process():
        _write_results(cfg, loader.dataset.videos, predictions, checkpoint, seconds=time.perf_counter() - start)


def _write_results(
    cfg: CfgNode, videos: VideoList, predictions: Predictions, checkpoint: str, *, seconds: float
) -> None:
    output_dir = Path(cfg.OUTPUT_DIR)
    results: dict[str, Any] = {
        **predictions.compute_accuracy(),
        "num_videos": len(videos),
        "num_failed": len(predictions.failed),
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
    make_prediction_table(videos, predictions).to_parquet(output_dir / "test_predictions.parquet")
    (output_dir / "test_results.json").write_text(simplejson.dumps(results, indent=2) + "\n")
    log_json_stats(
        {"_type": "test", **{k: v for k, v in results.items() if k not in ("failed", "versions")}},
        output_dir=output_dir,
    )
    logger.info(
        "tested %d videos x %d views in %.0f s: top-1 %.2f %%, top-5 %.2f %%, %d undecodable counted as wrong; see %s",
        results["num_videos"],
        results["num_views"],
        seconds,
        results["top1"],
        results["top5"],
        results["num_failed"],
        output_dir / "test_results.json",
    )


def make_prediction_table(videos: VideoList, predictions: Predictions) -> pd.DataFrame:
    """One row a video: path, label, prediction (-1 where it failed), reason of a failure, and ``probs`` (K,)."""
    failed = predictions.failed
    top = predictions.probs.nan_to_num(-1.0).argmax(dim=1)
    return pd.DataFrame(
        {
            "path": [str(path) for path in videos.paths],
            "label": predictions.labels.numpy(),
            "prediction": [-1 if i in failed else int(k) for i, k in enumerate(top)],
            "failure": [failed.get(i, "") for i in range(len(videos))],
            "probs": list(predictions.probs.numpy()),
        }
    )

"""Testing a detector: every picture counts exactly once, the undecodable ones as nothing found, and by name."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import simplejson
from fvcore.common.config import CfgNode

from hiera_video.config import compute_digest, dump_config
from hiera_video.data.batch_loader import BatchLoader
from hiera_video.data.coco_lists import DetectionList, build_detection_list
from hiera_video.data.detection_dataset import DetectionDataset, build_detection_eval_loader
from hiera_video.engine.coco_metrics import compute_coco_metrics
from hiera_video.engine.detections import compute_detections, list_coco_results
from hiera_video.engine.scored_parts import ScoredParts, describe_settings
from hiera_video.engine.scoring import score_samples
from hiera_video.engine.trained import find_weights, load_model
from hiera_video.models.mask_rcnn import HieraDetector
from hiera_video.utils.distributed import broadcast_tree, get_device, is_main_process
from hiera_video.utils.files import write_whole
from hiera_video.utils.logging import get_logger, log_json_stats
from hiera_video.utils.versions import get_versions

logger = get_logger(__name__)


def evaluate_detections(
    cfg: CfgNode, model: HieraDetector, loader: BatchLoader, *, title: str, parts: ScoredParts | None = None
) -> tuple[list[dict[str, Any] | None], dict[int, str], dict[str, Any]]:
    """Finds the things in every picture of the loader's list, and compares them with its truth.

    Args:
        cfg: as `score_samples`; and DATA.MEAN, DATA.STD.
        model: on this process's device.
        loader: from `build_detection_eval_loader`.
        title: name of the progress bar.
        parts: see `score_samples`.

    Returns:
        Of each picture what `place_detections` gives, None where it did not decode; the reasons of those by position;
        and `compute_coco_metrics`, {} without a truth. Every process gets the whole.
    """
    device = get_device()
    values, failed = score_samples(
        cfg,
        model,
        loader,
        compute=lambda batch: compute_detections(cfg, model, batch, device=device),
        title=title,
        parts=parts,
    )
    videos = cast(DetectionDataset, loader.dataset).videos
    metrics: dict[str, Any] = {}
    if videos.has_truth and is_main_process():
        metrics = compute_coco_metrics(videos.make_truth(), list_coco_results(videos, values))
    return values, failed, broadcast_tree(metrics)


def run_detection_test(cfg: CfgNode) -> None:
    """Tests a checkpoint on TEST.SPLIT, whole pictures, the longer side scaled to DATA.TEST_CROP_SIZE.

    Writes ``test_results.json`` and ``test_detections.json`` (COCO's form of results) to OUTPUT_DIR. A test that was
    stopped, and is started again with the same settings, looks only at the rest.

    Raises:
        FileNotFoundError: no checkpoint is named and OUTPUT_DIR has none.
        ValueError: the checkpoint does not fill the whole model, or OUTPUT_DIR holds an unfinished test with other
            settings.
        Interrupted: a process was asked to stop; what is found is kept.
    """
    checkpoint = find_weights(cfg, cfg.TEST.CHECKPOINT_FILE_PATH, key="TEST.CHECKPOINT_FILE_PATH")
    model = cast(HieraDetector, load_model(cfg, checkpoint).to(get_device()))
    videos = build_detection_list(cfg, cfg.TEST.SPLIT)
    parts = ScoredParts(cfg.OUTPUT_DIR, describe_settings(cfg, checkpoint, videos))
    scored = [position for position, _ in parts.before[0]]
    if scored:
        logger.info("the test goes on: %d of %d pictures are done already", len(scored), len(videos))
    start = time.perf_counter()
    loader = build_detection_eval_loader(cfg, videos, size_px=cfg.DATA.TEST_CROP_SIZE, leave_out=scored)
    values, failed, metrics = evaluate_detections(cfg, model, loader, title="test", parts=parts)
    if is_main_process():
        _write_results(cfg, videos, values, failed, metrics, checkpoint, seconds=time.perf_counter() - start)
    parts.remove()


def _write_results(
    cfg: CfgNode,
    videos: DetectionList,
    values: list[dict[str, Any] | None],
    failed: dict[int, str],
    metrics: dict[str, Any],
    checkpoint: str,
    *,
    seconds: float,
) -> None:
    output_dir = Path(cfg.OUTPUT_DIR)
    detections = list_coco_results(videos, values)
    per_class = metrics.pop("per_class", {})
    results: dict[str, Any] = {
        **metrics,
        "num_pictures": len(videos),
        "num_evaluated": len(videos) - len(failed),
        "num_failed": len(failed),
        "num_instances": sum(row["num_instances"] for row in per_class.values()),
        "num_detections": len(detections),
        "split": cfg.TEST.SPLIT,
        "annotations": videos.source,
        "model": cfg.MODEL.MODEL_NAME,
        "checkpoint": checkpoint,
        "config_digest": compute_digest(cfg),
        "test_seconds": round(seconds, 2),
        "per_class": per_class,
        "versions": get_versions(),
        "failed": [{"path": str(videos.paths[i]), "reason": reason} for i, reason in failed.items()],
    }
    (output_dir / "test_config.yaml").write_text(dump_config(cfg))
    write_whole(output_dir / "test_detections.json", (simplejson.dumps(detections) + "\n").encode())
    text = simplejson.dumps(results, indent=2, ignore_nan=True) + "\n"
    write_whole(output_dir / "test_results.json", text.encode())
    stats = {name: value for name, value in results.items() if name not in ("failed", "versions", "per_class")}
    log_json_stats({"_type": "test", **stats}, output_dir=output_dir)
    found = ", ".join(f"{name} {metrics[name]:.2f} %" for name in ("box_ap", "box_ap50", "mask_ap") if name in metrics)
    logger.info(
        "tested %d / %d pictures in %.0f s: %s; in %d undecodable ones nothing counts as found; see %s",
        results["num_evaluated"],
        results["num_pictures"],
        seconds,
        found or "no truth to compare with",
        results["num_failed"],
        output_dir / "test_results.json",
    )

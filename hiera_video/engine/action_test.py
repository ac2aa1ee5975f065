"""The test of a detector of actions: every box of every key frame scored once, and mean average precision."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import simplejson
import torch
from fvcore.common.config import CfgNode

from hiera_video.config import compute_digest, dump_config
from hiera_video.data.action_lists import CORNERS, KeyFrames
from hiera_video.data.box_lists import Truth, build_key_frames, build_person_tables, build_truth
from hiera_video.data.box_loaders import build_box_eval_loader
from hiera_video.engine.action_ap import PROTOCOLS, ActionAp
from hiera_video.engine.box_predictions import DEFAULT_PROTOCOL, BoxPredictions, predict_boxes
from hiera_video.engine.scored_parts import ScoredParts, describe_settings
from hiera_video.engine.trained import find_weights, load_model
from hiera_video.models.build import build_compiled
from hiera_video.utils.distributed import get_device, is_main_process
from hiera_video.utils.files import write_whole
from hiera_video.utils.logging import get_logger, log_json_stats
from hiera_video.utils.trees import compute_tree_digest
from hiera_video.utils.versions import get_versions

logger = get_logger(__name__)


def run_action_test(cfg: CfgNode) -> None:
    """Tests a checkpoint on the boxes of TEST.SPLIT, in the center view of each key frame.

    Writes ``test_results.json``, ``test_detections.csv`` in the form of AVA's challenge, and
    ``test_detections.parquet`` with a row for each box to OUTPUT_DIR.

    A test that was stopped, and is started again with the same settings, scores only the rest.

    Raises:
        FileNotFoundError: no checkpoint is named and OUTPUT_DIR has none.
        ValueError: the checkpoint does not fill the whole model, or OUTPUT_DIR holds an unfinished test with other
            settings.
        Interrupted: a process was asked to stop; what is scored is kept.
    """
    checkpoint = find_weights(cfg, cfg.TEST.CHECKPOINT_FILE_PATH, key="TEST.CHECKPOINT_FILE_PATH")
    model = load_model(cfg, checkpoint).to(get_device())
    key_frames, truth = build_key_frames(cfg, cfg.TEST.SPLIT), build_truth(cfg, cfg.TEST.SPLIT)
    parts = ScoredParts(cfg.OUTPUT_DIR, _describe_settings(cfg, checkpoint, key_frames))
    scored = [position for position, _ in parts.before[0]]
    if scored:
        logger.info("the test goes on: %d of %d key frames are scored already", len(scored), len(key_frames))
    start = time.perf_counter()
    loader = build_box_eval_loader(cfg, cfg.TEST.SPLIT, leave_out=scored)
    predictions = predict_boxes(cfg, build_compiled(cfg, model), loader, title="test", parts=parts)
    if is_main_process():
        _write_results(cfg, predictions, truth, checkpoint, seconds=time.perf_counter() - start)
    parts.remove()


def _describe_settings(cfg: CfgNode, checkpoint: str, key_frames: KeyFrames) -> dict[str, str]:
    tables = (key_frames.times_sec, key_frames.box_starts, key_frames.boxes)
    boxes = compute_tree_digest([torch.from_numpy(np.ascontiguousarray(table)) for table in tables])
    about = f"{len(key_frames.boxes)} boxes, SHA-256 of times and corners {boxes}"
    return describe_settings(cfg, checkpoint, key_frames) | {"boxes": about}


def _write_results(cfg: CfgNode, predictions: BoxPredictions, truth: Truth, checkpoint: str, *, seconds: float) -> None:
    output_dir = Path(cfg.OUTPUT_DIR)
    by_protocol = {
        name: predictions.compute_ap(truth.boxes, truth.class_names, truth.excluded, protocol=name)
        for name in PROTOCOLS
    }
    results = {
        **describe_ap(by_protocol, truth.class_names),
        **_count(predictions, by_protocol[DEFAULT_PROTOCOL]),
        "boxes": "predicted" if build_person_tables(cfg, cfg.TEST.SPLIT) else "of the truth",
        "split": cfg.TEST.SPLIT,
        "model": cfg.MODEL.MODEL_NAME,
        "checkpoint": checkpoint,
        "config_digest": compute_digest(cfg),
        "test_seconds": round(seconds, 2),
        "versions": get_versions(),
        "failed": _list_failed(predictions),
    }
    (output_dir / "test_config.yaml").write_text(dump_config(cfg))
    make_box_table(predictions).to_parquet(output_dir / "test_detections.parquet")
    write_whole(output_dir / "test_detections.csv", format_detections(predictions, sorted(truth.class_names)).encode())
    text = simplejson.dumps(results, indent=2, ignore_nan=True)
    write_whole(output_dir / "test_results.json", (text + "\n").encode())
    brief = {key: value for key, value in results.items() if key not in ("failed", "versions", "classes")}
    log_json_stats({"_type": "test", **brief}, output_dir=output_dir)
    logger.info(
        "tested %d key frames with %d boxes in %.0f s: mAP %.2f %% (95 %% interval %.2f to %.2f; protocol of %s) over "
        "%d classes with truth; %d boxes outside of the view, %d key frames undecodable; see %s",
        *(results["num_key_frames"], results["num_boxes"], seconds, results["map"], *results["map_interval"]),
        *(DEFAULT_PROTOCOL, results["num_classes_with_truth"], results["num_outside"], results["num_failed"]),
        output_dir / "test_results.json",
    )


def describe_ap(by_protocol: dict[str, ActionAp], class_names: dict[int, str]) -> dict[str, Any]:
    """Mean average precisions with intervals, and each class, in percent; the protocol stands beside its numbers.

    Args:
        by_protocol: name of a protocol -> its result; has the default one.
        class_names: label -> name, of the scored classes.
    """
    result = by_protocol[DEFAULT_PROTOCOL]
    intervals = {name: [100.0 * end for end in each.compute_interval()] for name, each in by_protocol.items()}
    return {
        "map": 100.0 * result.mean,
        "map_interval": intervals[DEFAULT_PROTOCOL],
        "protocol": DEFAULT_PROTOCOL,
        "map_by_protocol": {
            name: {"map": 100.0 * each.mean, "map_interval": intervals[name], "num_detections": each.num_detections}
            for name, each in by_protocol.items()
        },
        "classes": [
            {"label": label, "name": class_names[label], "ap": 100.0 * ap, "num_truths": num_truths}
            for label, ap, num_truths in zip(
                result.classes.tolist(), result.ap.tolist(), result.num_truths.tolist(), strict=True
            )
        ],
        "num_classes_scored": len(result.classes),
        "num_classes_with_truth": int((result.num_truths > 0).sum()),
    }


def _count(predictions: BoxPredictions, result: ActionAp) -> dict[str, int]:
    return {
        "num_key_frames": len(predictions.key_frames),
        "num_evaluated": len(predictions.key_frames) - len(predictions.failed),
        "num_failed": len(predictions.failed),
        "num_videos": len(set(predictions.key_frames.videos.tolist())),
        "num_boxes": len(predictions.probs),
        "num_outside": int(predictions.is_outside.sum()),
        "num_excluded": result.num_excluded,
        "num_invalid": result.num_invalid,
        "num_truths": int(result.num_truths.sum()),
    }


def _list_failed(predictions: BoxPredictions) -> list[dict[str, Any]]:
    frames = predictions.key_frames
    return [
        {"path": str(frames.paths[i]), "time_sec": float(frames.times_sec[i]), "reason": reason}
        for i, reason in predictions.failed.items()
    ]


def make_box_table(predictions: BoxPredictions) -> pd.DataFrame:
    """One row a box: video, time_sec, corners, person, score of its detector, is_outside, failure, ``probs`` (K,)."""
    frames = predictions.key_frames
    reasons = np.array([predictions.failed.get(i, "") for i in range(len(frames))], dtype=object)
    return predictions.make_boxes().assign(
        person=frames.persons,
        box_score=frames.scores,
        is_outside=predictions.is_outside,
        failure=reasons.repeat(np.diff(frames.box_starts)),
        probs=list(predictions.probs),
    )


def format_detections(predictions: BoxPredictions, labels: list[int]) -> str:
    """``video,second,x1,y1,x2,y2,action_id,score`` lines, a line for each box and scored class; ids count from 1.

    Key frames that could not be decoded have none.
    """
    boxes = predictions.make_boxes()
    is_scored = ~np.isnan(predictions.probs).any(axis=1) if predictions.probs.size else np.zeros(len(boxes), bool)
    boxes, probs = boxes[is_scored], predictions.probs[is_scored][:, labels]
    times = [f"{time:04.0f}" if time == round(time) else repr(time) for time in boxes["time_sec"].tolist()]
    starts = pd.DataFrame({"video": boxes["video"].to_numpy(), "time_sec": times})
    starts = pd.concat([starts, boxes[CORNERS].round(6).reset_index(drop=True)], axis=1)
    table = starts.loc[starts.index.repeat(len(labels))]
    table = table.assign(action_id=np.tile(np.array(labels, np.int64) + 1, len(boxes)), score=probs.ravel())
    text = io.StringIO()
    table.to_csv(text, header=False, index=False, float_format="%.6g")
    return text.getvalue()

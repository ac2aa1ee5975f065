"""COCO's average precisions of boxes and masks."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

KINDS = {"box": "bbox", "mask": "segm"}  # ours -> the evaluation's name
_AREAS = {"small": 1, "medium": 2, "large": 3}  # name -> place among the ranges of area; 0 is all of them
_IOU_75 = 5  # place of 0.75 among the thresholds 0.50, 0.55, ..., 0.95


def compute_coco_metrics(truth: dict[str, Any], detections: list[dict[str, Any]]) -> dict[str, Any]:
    """Average precision of boxes and masks, in percent, as COCO's own evaluation computes them.

    Args:
        truth: an object in COCO's form, see `DetectionList.make_truth`. All its pictures count, also those without
            detections.
        detections: in COCO's form of results, with ``bbox`` and ``segmentation``; at most 100 of a picture count.

    Returns:
        For "box" and "mask": ``..._ap`` (mean over IoU 0.50 ... 0.95), ``..._ap50``, ``..._ap75``, ``..._ap_small``
        (below 32 x 32 px), ``..._ap_medium``, ``..._ap_large`` (from 96 x 96 px) and ``..._ar`` (recall), NaN where
        nothing is to be found. ``per_class``: name -> ``box_ap``, ``mask_ap`` and ``num_instances``.

    Raises:
        ImportError: faster-coco-eval is missing; says what to install.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ImportError("detection needs faster-coco-eval: pip install 'hiera_video[detection]'") from error
    ground = COCO(_fill_in(truth))
    categories = sorted(truth["categories"], key=lambda category: category["id"])  # as the evaluation has them
    metrics: dict[str, Any] = {}
    per_class: dict[str, dict[str, Any]] = {category["name"]: {} for category in categories}
    for kind, name in KINDS.items():
        # With a box beside it, a mask would be sorted into a size by the box's area.
        rows = [{key: value for key, value in row.items() if name == "bbox" or key != "bbox"} for row in detections]
        if name == "bbox":
            rows = [{key: value for key, value in row.items() if key != "segmentation"} for row in rows]
        evaluation = COCOeval_faster(ground, ground.loadRes(rows), name)
        evaluation.evaluate()
        evaluation.accumulate()
        precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
        metrics |= {f"{kind}_{key}": value for key, value in _summarize(precision, recall).items()}
        for place, category in enumerate(categories):
            per_class[category["name"]][f"{kind}_ap"] = _mean(precision[:, :, place, 0, -1])
    for category in categories:
        own = [row for row in truth["annotations"] if row["category_id"] == category["id"]]
        per_class[category["name"]]["num_instances"] = sum(not row.get("iscrowd") for row in own)
    return {**metrics, "per_class": per_class}


def _summarize(precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    """precision (10 IoUs, 101 recalls, K, 4 areas, 3 counts of detections), recall (10, K, 4, 3); -1 for none."""
    return {
        "ap": _mean(precision[:, :, :, 0, -1]),
        "ap50": _mean(precision[0, :, :, 0, -1]),
        "ap75": _mean(precision[_IOU_75, :, :, 0, -1]),
        **{f"ap_{name}": _mean(precision[:, :, :, place, -1]) for name, place in _AREAS.items()},
        "ar": _mean(recall[:, :, 0, -1]),
    }


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return 100.0 * float(known.mean()) if known.size else math.nan


def _fill_in(truth: dict[str, Any]) -> dict[str, Any]:
    """A copy of the truth in which every annotation has an area: without one, that of its mask or else its box."""
    from faster_coco_eval.core import mask

    truth = copy.deepcopy(truth)
    size_of = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    for row in truth["annotations"]:
        row.setdefault("iscrowd", 0)
        if "area" not in row:
            codes = row.get("segmentation")
            if isinstance(codes, list) and codes:
                codes = mask.merge(mask.frPyObjects(codes, *size_of[row["image_id"]]))
            elif codes and isinstance(codes["counts"], list):
                codes = mask.frPyObjects(codes, *size_of[row["image_id"]])
            row["area"] = float(mask.area(codes)) if codes else row["bbox"][2] * row["bbox"][3]
    return truth

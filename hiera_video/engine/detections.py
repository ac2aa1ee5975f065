"""What a detector finds in pictures, in px of the pictures themselves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor

from hiera_video.data.coco_lists import DetectionList
from hiera_video.data.detection_dataset import import_mask_api
from hiera_video.data.detection_transforms import Placement, map_boxes_back
from hiera_video.data.transforms import normalize_video
from hiera_video.models.mask_rcnn import HieraDetector
from hiera_video.utils.ranges import named_range

_MASK_THRESHOLD = 0.5


def to_detector_input(cfg: CfgNode, pictures: Tensor, *, device: torch.device) -> Tensor:
    """uint8 (B, 3, S, S) on the CPU -> normalized float32 (B, 3, S, S) on the device."""
    with named_range("copy"):
        clips = pictures.to(device, non_blocking=True)[:, :, None]  # (B, 3, 1, S, S)
        return normalize_video(clips, mean=cfg.DATA.MEAN, std=cfg.DATA.STD)[:, :, 0]


def compute_detections(
    cfg: CfgNode, model: HieraDetector, batch: dict[str, Any], *, device: torch.device
) -> list[dict[str, Any]]:
    """What the model finds in each picture of a batch from a `DetectionDataset`, see `place_detections`."""
    _, found = model(to_detector_input(cfg, batch["picture"], device=device), batch["size"])
    return [place_detections(one, placement) for one, placement in zip(found, batch["placement"], strict=True)]


def place_detections(found: dict[str, Tensor], placement: Placement) -> dict[str, Any]:
    """The detections in a picture's square -> those in the picture itself.

    Args:
        found: ``boxes``, ``labels``, ``scores``, ``masks`` as `DetectionHeads` gives them.
        placement: of the whole picture in its square.

    Returns:
        ``boxes`` float32 (m, 4) as x1, y1, x2, y2 in px; ``labels`` int64 (m,) that count from 1; ``scores`` float32
        (m,), the best first; ``masks``: m run-length codes as texts, see `decode_code`; ``size``: [height, width].
    """
    mask_api = import_mask_api()
    boxes, probs = map_boxes_back(found["boxes"].cpu().float(), placement), found["masks"].cpu().float()
    codes = []
    for box, prob in zip(boxes, probs, strict=True):  # one by one: all masks of a large picture would fill the memory
        mask = paste_mask(prob[0], box, placement.size)
        codes.append(mask_api.encode(np.asfortranarray(mask.numpy()))["counts"])
    return {
        "boxes": boxes,
        "labels": found["labels"].cpu(),
        "scores": found["scores"].cpu().float(),
        "masks": [code.decode() if isinstance(code, bytes) else code for code in codes],
        "size": list(placement.size),
    }


def paste_mask(probs: Tensor, box: Tensor, size: tuple[int, int]) -> Tensor:
    """The mask of a thing in its picture.

    Args:
        probs: float32 (h, w), on a grid over its box.
        box: x1, y1, x2, y2 in px.
        size: height and width of the picture.

    Returns:
        uint8 (H, W) of zeros and ones.

    Follows: detectron2, which asks for the probability at each pixel, between the four cells around it.
    Differs: from torchvision, whose masks have whole pixels for corners; and, because the masks that it trains with are
        half a pixel off (its RoIAlign is not `aligned`), so are the places here.
    """
    height, width = size
    x1, y1, x2, y2 = box.tolist()
    left, right = max(math.floor(x1), 0), min(math.ceil(x2) + 1, width)
    top, bottom = max(math.floor(y1), 0), min(math.ceil(y2) + 1, height)
    mask = torch.zeros(size, dtype=torch.uint8)
    if right <= left or bottom <= top:
        return mask
    x = (torch.arange(left, right) - x1) / max(x2 - x1, 1e-3) * 2 - 1  # -1 ... 1 over the box
    y = (torch.arange(top, bottom) - y1) / max(y2 - y1, 1e-3) * 2 - 1
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]  # (1, h, w, 2)
    values = F.grid_sample(probs[None, None], places, align_corners=False)[0, 0]
    mask[top:bottom, left:right] = values >= _MASK_THRESHOLD
    return mask


def decode_code(code: str, size: list[int]) -> np.ndarray:
    """The mask of a run-length code of COCO's compressed form: uint8 (H, W) of zeros and ones."""
    return import_mask_api().decode({"size": size, "counts": code.encode()})


def list_coco_results(videos: DetectionList, values: list[dict[str, Any] | None]) -> list[dict[str, Any]]:
    """Detections in COCO's form of results, one object a detection.

    Args:
        videos: the list.
        values: from `place_detections`, of each of its pictures; None where it did not decode.
    """
    results = []
    for image_id, value in zip(videos.image_ids.tolist(), values, strict=True):
        if value is None:
            continue
        rows = zip(value["boxes"].tolist(), value["labels"].tolist(), value["scores"].tolist(), value["masks"],
                   strict=True)  # fmt: skip
        for (x1, y1, x2, y2), label, score, code in rows:
            results.append(
                {
                    "image_id": image_id,
                    "category_id": videos.category_ids[label - 1],
                    "bbox": [round(x1, 3), round(y1, 3), round(x2 - x1, 3), round(y2 - y1, 3)],
                    "score": round(score, 6),
                    "segmentation": {"size": value["size"], "counts": code},
                }
            )
    return results

"""What is where in a picture: boxes, masks and classes of a trained detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from hiera_video.data.detection_dataset import read_picture
from hiera_video.data.detection_transforms import build_detection_transform, kept_size
from hiera_video.engine.batch import autocast
from hiera_video.engine.detections import compute_detections, decode_code
from hiera_video.engine.trained import Trained
from hiera_video.models.mask_rcnn import HieraDetector
from hiera_video.utils.distributed import get_device
from hiera_video.video.file_cache import build_file_cache


@dataclass(frozen=True, eq=False)
class PicturePrediction:
    """The things found in a picture, the likeliest first.

    Attributes:
        path: of the picture.
        pixels: uint8 (H, W, 3).
        boxes: float32 (m, 4) as x1, y1, x2, y2 in px.
        labels: int64 (m,), from 0.
        names: m classes.
        scores: float32 (m,).
        codes: m masks, see `decode_code`.
    """

    path: str
    pixels: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    scores: np.ndarray
    codes: tuple[str, ...]

    def decode_masks(self) -> np.ndarray:
        """uint8 (m, H, W) of zeros and ones."""
        size = list(self.pixels.shape[:2])
        masks = [decode_code(code, size) for code in self.codes]
        return np.stack(masks) if masks else np.zeros((0, *size), dtype=np.uint8)

    def describe(self) -> dict[str, Any]:
        """All of it but the pixels, as JSON takes it; masks in COCO's compressed form."""
        height, width = self.pixels.shape[:2]
        rows = zip(self.names, self.scores.tolist(), self.boxes.tolist(), self.codes, strict=True)
        things = [
            {
                "class": name,
                "score": round(score, 6),
                "box": [round(value, 2) for value in box],
                "mask": {"size": [height, width], "counts": code},
            }
            for name, score, box, code in rows
        ]
        return {"path": self.path, "width": width, "height": height, "things": things}


class PicturePredictor:
    """A trained detector, and what is kept of what it finds.

    Args:
        trained: the model.
        min_score: less certain things are left out.

    Raises:
        ValueError: min_score is not in [0, 1], or the model is no detector.
    """

    def __init__(self, trained: Trained, *, min_score: float = 0.5) -> None:
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score is {min_score}; it must be in [0, 1]")
        if not isinstance(trained.model, HieraDetector):
            raise ValueError(f"{trained.checkpoint} is no detector: it is of {trained.cfg.MODEL.MODEL_NAME}")
        self.trained, self.min_score = trained, min_score
        cfg = trained.cfg
        self._transform = build_detection_transform(cfg, size_px=cfg.DATA.TEST_CROP_SIZE)
        self._cache = build_file_cache(cfg)
        self._names = trained.class_names or tuple(f"class {number}" for number in range(cfg.MODEL.NUM_CLASSES))

    @torch.inference_mode()
    def predict(self, path: str) -> PicturePrediction:
        """Finds the things in a picture (path or URL).

        Raises:
            FileNotFoundError: no such file.
            VideoDecodeError: it does not decode.
        """
        cfg, picture = self.trained.cfg, read_picture(path, self._cache)
        placement = self._transform.choose_placement((picture.shape[0], picture.shape[1]))
        batch = {
            "picture": self._transform.place(picture, placement)[None],
            "size": [kept_size(placement, self._transform.size_px)],
            "placement": [placement],
        }
        with autocast(get_device(), cfg.TRAIN.PRECISION):
            found = compute_detections(cfg, cast(HieraDetector, self.trained.model), batch, device=get_device())[0]
        is_kept: Tensor = found["scores"] >= self.min_score
        labels = (found["labels"][is_kept] - 1).numpy()
        return PicturePrediction(
            path=path,
            pixels=picture.numpy(),
            boxes=found["boxes"][is_kept].numpy(),
            labels=labels,
            names=tuple(self._names[label] for label in labels),
            scores=found["scores"][is_kept].numpy(),
            codes=tuple(code for code, kept in zip(found["masks"], is_kept.tolist(), strict=True) if kept),
        )

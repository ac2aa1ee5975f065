"""Detectors of persons: torchvision's, with weights from a file."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection

from hiera_video.utils.pathmgr import fetch_file

PERSON = 1  # its number among COCO's classes, where 0 is the background
# The name of torchvision's builder -> epsilon of its batch norms, where the released weights need another than usual.
_BUILDERS: dict[str, float | None] = {
    "fasterrcnn_resnet50_fpn_v2": None,
    "fasterrcnn_resnet50_fpn": 0.0,
    "fasterrcnn_mobilenet_v3_large_fpn": None,
    "maskrcnn_resnet50_fpn_v2": None,
    "maskrcnn_resnet50_fpn": 0.0,
    "retinanet_resnet50_fpn_v2": None,
    "retinanet_resnet50_fpn": 0.0,
}
_CLASS_WEIGHTS = ("roi_heads.box_predictor.cls_score.bias", "head.classification_head.cls_logits.bias")


class PersonDetector:
    """Finds persons in pictures.

    Args:
        model: a detection model of torchvision in eval mode, with COCO's classes.
        name: of the function of torchvision that builds it.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        self.model, self.name = model, name

    @torch.inference_mode()
    def find(self, pictures: Tensor, *, min_score: float) -> list[tuple[Tensor, Tensor]]:
        """Persons in each picture, likeliest first.

        Args:
            pictures: uint8 (N, H, W, 3).
            min_score: less certain ones are left out.

        Returns:
            For each picture: corners x1, y1, x2, y2 as shares of the picture, float32 (r, 4), and scores (r,).
        """
        device = next(self.model.parameters()).device
        height, width = pictures.shape[1:3]
        inputs = [picture.to(device).permute(2, 0, 1).float() / 255 for picture in pictures]  # (3, H, W)
        size = torch.tensor([width, height, width, height])
        found = []
        for result in self.model(inputs):
            is_kept = (result["labels"] == PERSON) & (result["scores"] >= min_score)
            found.append((result["boxes"][is_kept].cpu() / size, result["scores"][is_kept].cpu()))
        return found


def load_person_detector(path: str | os.PathLike[str]) -> PersonDetector:
    """Loads weights that torchvision has released for a detector, or any of the same names and shapes.

    Which detector they are of is read off the names and shapes.

    Args:
        path: file or URL, such as https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file holds no weights, or those of none of the known detectors.
    """
    source = os.fspath(path)
    try:
        state = torch.load(fetch_file(source), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged file can make an unpickler raise anything
        raise ValueError(f"{source} holds no weights of a detector: {str(error).splitlines()[0]}") from error
    state = state.get("model", state) if isinstance(state, dict) else {}
    shapes = {name: value.shape for name, value in state.items() if isinstance(value, Tensor)}
    num_classes = _find_num_classes(shapes)
    for name, eps in _BUILDERS.items() if num_classes else ():
        with torch.device("meta"):
            wanted = _get_shapes(_build(name, num_classes))
        if _leave_counters(wanted) == _leave_counters(shapes):
            model = _build(name, num_classes)
            model.load_state_dict(state, strict=False)  # frozen norms have no counters
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d) and eps is not None:
                    module.eps = eps
            return PersonDetector(model.eval(), name)
    raise ValueError(
        f"{source} holds weights of none of the known detectors, which are {', '.join(_BUILDERS)} of torchvision; it "
        f"has {', '.join(list(shapes)[:4]) or 'no tensors'} ..."
    )


def _build(name: str, num_classes: int) -> nn.Module:
    return getattr(detection, name)(weights=None, weights_backbone=None, num_classes=num_classes)


def _get_shapes(model: nn.Module) -> dict[str, Any]:
    return {name: value.shape for name, value in model.state_dict().items()}


def _leave_counters(shapes: dict[str, Any]) -> dict[str, Any]:
    return {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}


def _find_num_classes(shapes: dict[str, Any]) -> int:
    """Classes with the background; 0 where there is no classifier."""
    for name in _CLASS_WEIGHTS:
        if name in shapes:
            anchors = 9 if name.startswith("head.") else 1  # a RetinaNet's has a value for each of 9 anchors
            return shapes[name][0] // anchors
    return 0

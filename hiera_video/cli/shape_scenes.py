"""Pictures of several shapes, each with its box and mask, in COCO's layout: for `make-shape-dataset --task coco`."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

VERSION = 1  # of the pictures: raise it with any change to them
_SCALE = 4  # drawn so many times larger, then averaged, for smooth edges
_MAX_SHAPES = 4
_REACH = (0.09, 0.22)  # from a shape's center to its farthest corner, of the picture's side
_GAP = 0.02  # at least between the circles around two shapes
_NOISE_LEVELS = 6.0
_NUM_TRIES = 30


@dataclass(frozen=True)
class SceneSettings:
    """Everything that the files depend on."""

    train: int = 240
    val: int = 60
    size_px: int = 128
    seed: int = 0
    task: str = "coco"
    version: int = VERSION


def draw_scene(
    rng: np.random.Generator, forms: tuple[str, ...], outline: Any, *, size_px: int
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """A picture, uint8 (H, W, 3), and of each shape on it ``category_id``, ``bbox``, ``segmentation`` and ``area``.

    Args:
        rng: draws everything.
        forms: names of the classes, whose ids count from 1.
        outline: form, center, reach and turn -> corners, float64 (n, 2), as shares of the picture's side.
        size_px: side of the picture.
    """
    places = _draw_places(rng)
    side = size_px * _SCALE
    picture = Image.new("RGB", (side, side), tuple(rng.integers(0, 110, 3).tolist()))
    pen = ImageDraw.Draw(picture)
    annotations = []
    for center, reach in places:
        label = int(rng.integers(len(forms)))
        corners = outline(forms[label], center, reach, rng.uniform(0, math.tau))
        pen.polygon([tuple(corner * side) for corner in corners], tuple(rng.integers(140, 256, 3).tolist()))
        annotations.append({"category_id": label + 1, **_describe(corners * size_px, size_px)})
    levels = np.asarray(picture.reduce(_SCALE), dtype=np.float64)
    pixels = np.clip(levels + rng.normal(0, _NOISE_LEVELS, levels.shape), 0, 255).astype(np.uint8)
    return pixels, annotations


def write_scenes(output_dir: Path, settings: SceneSettings, forms: tuple[str, ...], outline: Any) -> None:
    """Writes <split>2017/<number>.png and annotations/instances_<split>2017.json of train and val."""
    categories = [{"id": number, "name": form} for number, form in enumerate(forms, start=1)]
    for split_number, (split, count) in enumerate((("train", settings.train), ("val", settings.val))):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        (output_dir / f"{split}2017").mkdir(parents=True, exist_ok=True)
        for number in range(count):
            rng = np.random.default_rng([settings.seed, split_number, number])
            pixels, things = draw_scene(rng, forms, outline, size_px=settings.size_px)
            name = f"{number:06d}.png"
            Image.fromarray(pixels).save(output_dir / f"{split}2017" / name)
            side = settings.size_px
            images.append({"id": number + 1, "file_name": name, "height": side, "width": side})
            for thing in things:
                annotations.append({"id": len(annotations) + 1, "image_id": number + 1, "iscrowd": 0, **thing})
        content = {"info": asdict(settings), "images": images, "annotations": annotations, "categories": categories}
        path = output_dir / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))


def _draw_places(rng: np.random.Generator) -> list[tuple[np.ndarray, float]]:
    """Centers and reaches of shapes that do not touch each other, as shares of the picture's side."""
    places: list[tuple[np.ndarray, float]] = []
    wanted = int(rng.integers(1, _MAX_SHAPES + 1))
    for _ in range(_NUM_TRIES):
        if len(places) == wanted:
            break
        reach = rng.uniform(*_REACH)
        center = rng.uniform(reach, 1 - reach, size=2)
        if all(np.linalg.norm(center - other) > reach + far + _GAP for other, far in places):
            places.append((center, reach))
    return places


def _describe(corners: np.ndarray, size_px: int) -> dict[str, Any]:
    """Box, mask as run lengths, and area of a polygon, whose corners are in px, float64 (n, 2): all of the same pixels.

    A pixel belongs to it that is covered by half.
    """
    canvas = Image.new("L", (size_px * _SCALE, size_px * _SCALE))
    ImageDraw.Draw(canvas).polygon([tuple(corner * _SCALE) for corner in corners], 255)
    mask = np.asarray(canvas.reduce(_SCALE)) >= 128
    rows, columns = np.nonzero(mask)
    top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
    pixels = mask.flatten(order="F").astype(np.int8)  # COCO counts down the columns, and begins with zeros
    edges = np.flatnonzero(np.diff(pixels, prepend=0))
    runs = np.diff([0, *edges, pixels.size])
    return {
        "bbox": [float(value) for value in (left, top, right - left, bottom - top)],
        "segmentation": {"size": [size_px, size_px], "counts": runs.tolist()},
        "area": float(mask.sum()),
    }

"""Makes a small data set of pictures whose classes only form and relation tell apart.

    hiera-video make-shape-dataset --output-dir data/shapes

Each picture shows a large shape (circle, square, triangle or cross) and a dot, which lies inside it or outside: eight
classes. Colors, places, sizes and turns are random, so that no color, and no single spot, says anything about the
class. Layout as ImageNet's: <split>/<class>/<number>.png.

    hiera-video make-shape-dataset --task coco --output-dir data/shapes_coco

Each picture then shows one to four shapes, and each shape has a box and a mask: circles, crosses, squares and triangles
are the classes. Layout as COCO's: annotations/instances_<split>2017.json and <split>2017/<number>.png.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from hiera_video.cli.arguments import make_parser, report_errors
from hiera_video.cli.shape_scenes import SceneSettings, write_scenes

FORMS = ("circle", "cross", "square", "triangle")
RELATIONS = ("inside", "outside")
CLASSES = tuple(f"{form}_dot_{relation}" for form in FORMS for relation in RELATIONS)  # sorted, as folders are
VERSION = 1  # of the pictures: raise it with any change to them
_SCALE = 4  # drawn so many times larger, then averaged, for smooth edges
_DOT_REACH = 0.06  # radius, of the picture's side
_INNER_REACH = 0.35  # no form has its edge nearer to its center, of its own reach
_GAP = 0.03  # at least between an outer dot and the circle around the shape
_SHAPE_REACH = (0.2, 0.27)
_NOISE_LEVELS = 6.0


@dataclass(frozen=True)
class Settings:
    """Everything that the files depend on."""

    train: int = 2400
    val: int = 400
    size_px: int = 64
    seed: int = 0
    version: int = VERSION


def draw_picture(rng: np.random.Generator, label: int, *, size_px: int) -> np.ndarray:
    """A picture of a class, uint8 (H, W, 3)."""
    form, relation = CLASSES[label].split("_dot_")
    reach = rng.uniform(*_SHAPE_REACH)
    center = rng.uniform(reach + 0.02, 0.98 - reach, size=2)
    dot = _place_dot(rng, center, reach, is_inside=relation == "inside")
    background, shape = rng.integers(60, 120, 3), rng.integers(150, 256, 3)  # the shape is the brighter, the dot dark
    side = size_px * _SCALE
    picture = Image.new("RGB", (side, side), tuple(background.tolist()))
    pen = ImageDraw.Draw(picture)
    pen.polygon(
        [tuple(p * side) for p in _outline(form, center, reach, rng.uniform(0, math.tau))], tuple(shape.tolist())
    )
    box = [*((dot - _DOT_REACH) * side), *((dot + _DOT_REACH) * side)]
    pen.ellipse(box, tuple(rng.integers(0, 30, 3).tolist()))
    levels = np.asarray(picture.reduce(_SCALE), dtype=np.float64)
    return np.clip(levels + rng.normal(0, _NOISE_LEVELS, levels.shape), 0, 255).astype(np.uint8)


def _place_dot(rng: np.random.Generator, center: np.ndarray, reach: float, *, is_inside: bool) -> np.ndarray:
    if is_inside:
        turn, distance = rng.uniform(0, math.tau), rng.uniform(0, max(_INNER_REACH * reach - _DOT_REACH, 0.0))
        return center + distance * np.array([math.cos(turn), math.sin(turn)])
    while True:  # a shape never fills the picture, so that a corner at least is free
        dot = rng.uniform(_DOT_REACH, 1 - _DOT_REACH, size=2)
        if np.linalg.norm(dot - center) >= reach + _DOT_REACH + _GAP:
            return dot


def _outline(form: str, center: np.ndarray, reach: float, turn: float) -> np.ndarray:
    """Corners of a form, float64 (n, 2), as shares of the picture's side; all lie within ``reach`` of the center."""
    if form == "cross":
        arm = 0.36
        corners = np.array([(arm, 1), (arm, arm), (1, arm)]) / math.hypot(1, arm)
        points = np.concatenate([_rotate(corners, -i * math.pi / 2) for i in range(4)])
    else:
        count = {"circle": 48, "square": 4, "triangle": 3}[form]
        angles = np.arange(count) * math.tau / count
        points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return center + reach * _rotate(points, turn)


def _rotate(points: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def make_dataset(output_dir: Path, settings: Settings | SceneSettings) -> bool:
    """Makes the data set; returns False if it was there, complete and with the same settings.

    Raises:
        ValueError: the folder holds something else, or a data set with other settings.
    """
    state_path, wanted = output_dir / "dataset.json", asdict(settings)
    if state_path.exists():
        state = json.loads(state_path.read_text())
        if state == {"settings": wanted, "complete": True}:
            return False
        if state.get("settings") != wanted:
            raise ValueError(
                f"{output_dir} holds pictures made with {state.get('settings')}, asked: {wanted}; remove it"
            )
    elif output_dir.exists() and any(output_dir.iterdir()):
        raise ValueError(f"{output_dir} is not empty and holds no shape data set; take another --output-dir")
    output_dir.mkdir(parents=True, exist_ok=True)
    state_path.write_text(json.dumps({"settings": wanted, "complete": False}))
    if isinstance(settings, SceneSettings):
        write_scenes(output_dir, settings, FORMS, _outline)
    else:
        _write_pictures(output_dir, settings)
    state_path.write_text(json.dumps({"settings": wanted, "complete": True}))
    return True


def _write_pictures(output_dir: Path, settings: Settings) -> None:
    for split_number, (split, count) in enumerate((("train", settings.train), ("val", settings.val))):
        for number in range(count):
            label = number % len(CLASSES)
            rng = np.random.default_rng([settings.seed, split_number, number])
            path = output_dir / split / CLASSES[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw_picture(rng, label, size_px=settings.size_px)).save(path)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command."""
    defaults, scenes = Settings(), SceneSettings()
    parser = make_parser("make-shape-dataset", __doc__)
    parser.add_argument("--output-dir", type=Path, required=True, help="folder to make; a complete one is kept")
    parser.add_argument("--task", choices=("classes", "coco"), default="classes", help="default: %(default)s")
    for name, field, meaning in (("train", "train", "pictures"), ("val", "val", "pictures"), ("size", "size_px", "px")):
        values = getattr(defaults, field), getattr(scenes, field)
        parser.add_argument(f"--{name}", type=int, help=f"{meaning}; default: {values[0]}, for coco {values[1]}")
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of all pictures; default: %(default)s")
    return parser.parse_args(argv)


@report_errors(status=2)
def main(argv: Sequence[str] | None = None) -> int:
    """Makes the data set; the exit status is 2 where the folder holds another one."""
    args = parse_args(argv)
    given = {"train": args.train, "val": args.val, "size_px": args.size, "seed": args.seed}
    kind = SceneSettings if args.task == "coco" else Settings
    settings = kind(**{name: value for name, value in given.items() if value is not None})
    made = make_dataset(args.output_dir, settings)
    print(f"{args.output_dir}: {settings.train + settings.val} pictures, {'made' if made else 'already there'}")
    return 0

"""Makes a small video data set whose classes only motion tells apart.

    hiera-video make-motion-dataset --output-dir data/motion
    hiera-video make-motion-dataset --output-dir data/small --train 80 --val 16 --test 40

Each clip shows one shape before a textured background, as an H.264 file. What the shape looks like at one moment is a
point (x, y, turn, size) on a torus: x and y wrap around the picture, turn around the circle, and size from its largest
to its smallest. A clip starts at a uniformly random point and moves along one axis, forwards or backwards: that makes
eight classes. Whatever the class, a single frame is a uniformly random point, so it says nothing about the class.

The lists come in two forms: train.csv, val.csv and test.csv as for Kinetics (paths relative to the folder), and ssv2/
with the files of Something-Something V2 (videos: <output dir>/videos/<id>.mp4). few_labels/ has lists of Kinetics' form
again, with only the first 3 training videos of each class, to show what pre-training on the others is worth.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from tqdm import tqdm

from hiera_video.cli.arguments import make_parser, report_errors

VERSION = 3  # of the pictures: raise it with any change to them, so that old folders are not taken for new ones
X_AXIS, Y_AXIS, TURN_AXIS, SIZE_AXIS = range(4)

# Label -> name, axis of the torus, direction. Names are Something-Something templates without their brackets.
CLASSES = (
    ("Moving something left", X_AXIS, -1),
    ("Moving something right", X_AXIS, 1),
    ("Moving something up", Y_AXIS, -1),
    ("Moving something down", Y_AXIS, 1),
    ("Growing something", SIZE_AXIS, 1),
    ("Shrinking something", SIZE_AXIS, -1),
    ("Turning something clockwise", TURN_AXIS, 1),
    ("Turning something counter-clockwise", TURN_AXIS, -1),
)
SPLITS = ("train", "val", "test")
SSV2_NAMES = {"train": "train", "val": "validation", "test": "test"}

SPEED_RANGE = (0.015, 0.03)  # of an axis a frame
SIZE_RANGE = (0.16, 0.36)  # reach of the shape from its center, of the picture's side
NOISE_RANGE = (1.0, 8.0)  # standard deviation of the pixels' noise, in levels
# In levels. Shapes are always brighter than their background: were some darker, a model would first have to learn that
# an edge may have either sign, and that takes many times more clips.
BACKGROUND_RANGE = (20, 110)
SHAPE_RANGE = (150, 255)
MASK_PX = 96
FEW_PER_CLASS = 3


@dataclass(frozen=True)
class Settings:
    """Everything that the files depend on."""

    train: int = 1600
    val: int = 160
    test: int = 400
    size_px: int = 80
    frames: int = 24
    fps: int = 30
    seed: int = 0
    version: int = VERSION


@dataclass(frozen=True)
class Clip:
    """One file: its number over all splits, its split, and its class."""

    index: int
    split: str
    label: int


def list_clips(settings: Settings) -> list[Clip]:
    """All clips; labels take turns, so that classes are as equal in number as can be."""
    counts = [(split, getattr(settings, split)) for split in SPLITS]
    places = ((split, position) for split, count in counts for position in range(count))
    return [Clip(index, split, position % len(CLASSES)) for index, (split, position) in enumerate(places)]


def draw_states(rng: np.random.Generator, *, label: int, num_frames: int) -> np.ndarray:
    """Places on the torus, float64 (num_frames, 4) in [0, 1): x, y, turn (clockwise), logarithm of size.

    Each row alone is uniform, whatever the label.
    """
    _, axis, direction = CLASSES[label]
    start = rng.random(4)
    velocity = np.zeros(4)
    velocity[axis] = direction * rng.uniform(*SPEED_RANGE)
    return (start + np.arange(num_frames)[:, None] * velocity) % 1.0


def render_clip(rng: np.random.Generator, states: np.ndarray, *, size_px: int) -> np.ndarray:
    """Pictures of a shape in these states, uint8 (T, H, W, 3)."""
    background = draw_background(rng, size_px)  # (3, H, W)
    color = rng.uniform(*SHAPE_RANGE, size=(3, 1, 1)).astype(np.float32)
    difference = color - background
    mask = draw_shape(rng)
    noise_levels = np.float32(rng.uniform(*NOISE_RANGE))
    pictures = np.empty((len(states), 3, size_px, size_px), np.uint8)
    for picture, state in zip(pictures, states, strict=True):  # one at a time stays in the processor's cache
        noise = rng.standard_normal((size_px, size_px), dtype=np.float32) * noise_levels
        levels = background + noise + difference * sample_mask(mask, state, size_px=size_px)
        picture[:] = np.clip(levels, 0, 255, out=levels)
    return pictures.transpose(0, 2, 3, 1)  # (T, H, W, 3)


def sample_mask(mask: np.ndarray, state: np.ndarray, *, size_px: int) -> np.ndarray:
    """How much each pixel is covered by the shape, float32 (H, W) in [0, 1]; the shape wraps around the borders."""
    x, y, turn, log_size = state.tolist()
    grid = (np.arange(size_px, dtype=np.float32) + 0.5) / size_px
    dx = (grid - x + 0.5) % 1.0 - 0.5  # (W,), to the nearest copy of the center
    dy = (grid - y + 0.5) % 1.0 - 0.5  # (H,)
    smallest, largest = SIZE_RANGE
    scale = MASK_PX / 2 / (smallest * (largest / smallest) ** log_size)
    cos, sin = scale * math.cos(2 * math.pi * turn), scale * math.sin(2 * math.pi * turn)
    # y points down, so this undoes a clockwise turn.
    columns = (MASK_PX / 2 + cos * dx) + (sin * dy)[:, None]  # (H, W)
    rows = (MASK_PX / 2 - sin * dx) + (cos * dy)[:, None]
    # The mask's margin is empty, so places beyond it can be clamped.
    columns, rows = (np.clip(places, 0, MASK_PX - 1).astype(np.intp) for places in (columns, rows))
    return mask.ravel().take(rows * MASK_PX + columns)


def draw_shape(rng: np.random.Generator) -> np.ndarray:
    """A soft-edged pinwheel, float32 (MASK_PX, MASK_PX) in [0, 1]: a regular polygon with one to three blades.

    A blade is brightest at its clockwise edge and fades out behind it. So a small part of two pictures shows which way
    it turns, as it does for a shape that grows; turning shapes without such edges take a model many times more clips.
    """
    grid = (np.arange(MASK_PX, dtype=np.float32) + 0.5) / (MASK_PX / 2) - 1
    x, y = grid[None, :], grid[:, None]
    corners, blades, start = rng.integers(3, 9), rng.integers(1, 4), rng.random()
    angle = np.arctan2(y, x) % (2 * np.pi)  # y points down, so it grows clockwise
    sector = 2 * np.pi / corners
    rim = 0.9 * np.cos(sector / 2) / np.cos(angle % sector - sector / 2)
    inside = np.clip(0.5 + (rim - np.hypot(x, y)) / 0.08, 0.0, 1.0)
    brightness = 0.2 + 0.8 * ((blades * angle / (2 * np.pi) + start) % 1.0)
    return (inside * brightness).astype(np.float32)


def draw_background(rng: np.random.Generator, size_px: int) -> np.ndarray:
    """A still picture of soft color patches, float32 (3, H, W)."""
    cells = int(rng.integers(2, 7))
    base, contrast = rng.uniform(*BACKGROUND_RANGE, size=(3, 1, 1)), rng.uniform(3, 30)
    patches = (base + contrast * rng.standard_normal((3, cells, cells))).astype(np.float32)
    weights = _make_interpolation(cells, size_px)  # (size_px, cells)
    return np.clip(weights @ patches @ weights.T, 0, 255)


def _make_interpolation(cells: int, size_px: int) -> np.ndarray:
    places = np.linspace(0, cells - 1, size_px, dtype=np.float32)
    return np.maximum(0, 1 - abs(places[:, None] - np.arange(cells, dtype=np.float32)))


def write_video(path: Path, pictures: np.ndarray, *, fps: int) -> None:
    """Writes uint8 (T, H, W, 3) as H.264 in MP4; the file appears when it is complete."""
    height, width = pictures.shape[1:3]
    part = path.with_suffix(".part.mp4")
    # x264's mbtree reads memory that it has not set, so the same pictures would give other bytes now and then.
    options = {"preset": "veryfast", "crf": "23", "threads": "1", "x264-params": "mbtree=0"}
    with av.open(str(part), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    os.replace(part, path)


def make_clip(output_dir: Path, settings: Settings, clip: Clip) -> bool:
    """Writes one clip unless it is there; its random numbers depend on the seed and its index alone."""
    path = output_dir / "videos" / f"{clip.index}.mp4"
    if path.exists():
        return False
    rng = np.random.default_rng([settings.seed, clip.index])
    states = draw_states(rng, label=clip.label, num_frames=settings.frames)
    write_video(path, render_clip(rng, states, size_px=settings.size_px), fps=settings.fps)
    return True


def write_lists(output_dir: Path, clips: list[Clip]) -> None:
    """Writes the lists of all splits in Kinetics' and in Something-Something V2's form."""
    labels = {name: str(label) for label, (name, _, _) in enumerate(CLASSES)}
    _write_text(
        output_dir / "classnames.json", json.dumps({name: int(label) for name, label in labels.items()}, indent=1)
    )
    _write_text(output_dir / "ssv2" / "labels.json", json.dumps(labels, indent=1))
    for split in SPLITS:
        chosen = [clip for clip in clips if clip.split == split]
        lines = "".join(f"videos/{clip.index}.mp4 {clip.label}\n" for clip in chosen)
        _write_text(output_dir / f"{split}.csv", lines)
        few = lines.splitlines(keepends=True)[: FEW_PER_CLASS * len(CLASSES)]  # labels take turns
        _write_text(output_dir / "few_labels" / f"{split}.csv", "".join(few) if split == "train" else lines)
        entries = [_make_ssv2_entry(clip) for clip in chosen]
        _write_text(output_dir / "ssv2" / f"{SSV2_NAMES[split]}.json", json.dumps(entries, indent=0))


def _make_ssv2_entry(clip: Clip) -> dict[str, object]:
    if clip.split == "test":  # as in the original, whose test file has no labels
        return {"id": str(clip.index)}
    name = CLASSES[clip.label][0]
    template = name.replace("something", "[something]")
    return {
        "id": str(clip.index),
        "label": name.replace("something", "a shape").lower(),
        "template": template,
        "placeholders": ["a shape"],
    }


def make_dataset(output_dir: Path, settings: Settings, *, workers: int = 1, show_progress: bool = False) -> bool:
    """Makes the data set, or what is still missing of it.

    Returns:
        False if it was there, complete and with the same settings.

    Raises:
        ValueError: the folder holds something else, or a data set with other settings.
    """
    state_path = output_dir / "dataset.json"
    wanted = asdict(settings)
    state = _load_state(output_dir, state_path)
    if state is not None and state["settings"] != wanted:
        differing = {key: (state["settings"].get(key), value) for key, value in wanted.items()}
        changes = ", ".join(f"{key} {old} (asked: {new})" for key, (old, new) in differing.items() if old != new)
        raise ValueError(f"{output_dir} holds a motion data set with {changes}; remove it or take another --output-dir")
    clips = list_clips(settings)
    (output_dir / "videos").mkdir(parents=True, exist_ok=True)
    for folder in ("ssv2", "few_labels"):
        (output_dir / folder).mkdir(exist_ok=True)
    write_lists(output_dir, clips)
    if state is not None and state["complete"] and all(_has_video(output_dir, clip) for clip in clips):
        return False
    _write_text(state_path, json.dumps({"settings": wanted, "complete": False}, indent=1))
    made = _make_clips(output_dir, settings, clips, workers)
    for _ in tqdm(made, total=len(clips), unit="clip", desc="motion data set", disable=None if show_progress else True):
        pass
    _write_text(state_path, json.dumps({"settings": wanted, "complete": True}, indent=1))
    return True


def _make_clips(output_dir: Path, settings: Settings, clips: list[Clip], workers: int) -> Iterator[bool]:
    tasks = [(output_dir, settings, clip) for clip in clips]
    if workers <= 1:
        yield from (make_clip(*task) for task in tasks)
        return
    with multiprocessing.Pool(workers) as pool:
        yield from pool.imap_unordered(_make_clip_task, tasks, chunksize=16)


def _make_clip_task(task: tuple[Path, Settings, Clip]) -> bool:
    return make_clip(*task)


def _load_state(output_dir: Path, state_path: Path) -> dict[str, Any] | None:
    if state_path.exists():
        return json.loads(state_path.read_text())
    if output_dir.exists() and any(output_dir.iterdir()):
        raise ValueError(f"{output_dir} is not empty and holds no motion data set; take another --output-dir")
    return None


def _has_video(output_dir: Path, clip: Clip) -> bool:
    return (output_dir / "videos" / f"{clip.index}.mp4").exists()


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command."""
    defaults = Settings()
    parser = make_parser("make-motion-dataset", __doc__)
    parser.add_argument("--output-dir", type=Path, required=True, help="folder to make; a complete one is kept")
    for split in SPLITS:
        count = getattr(defaults, split)
        parser.add_argument(f"--{split}", type=int, default=count, help=f"clips for {split}; default: %(default)s")
    parser.add_argument(
        "--size", type=int, default=defaults.size_px, help="side of the picture in pixels, even; default: %(default)s"
    )
    parser.add_argument("--frames", type=int, default=defaults.frames, help="frames of a clip; default: %(default)s")
    parser.add_argument("--fps", type=int, default=defaults.fps, help="frames a second; default: %(default)s")
    parser.add_argument(
        "--seed", type=int, default=defaults.seed, help="another seed gives other clips; default: %(default)s"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes; the files do not depend on it"
    )
    return parser.parse_args(argv)


@report_errors(status=2)
def main(argv: Sequence[str] | None = None) -> int:
    """Makes the data set that the command line asks for; the exit status is 2 where the folder holds another one."""
    args = parse_args(argv)
    settings = Settings(
        train=args.train,
        val=args.val,
        test=args.test,
        size_px=args.size,
        frames=args.frames,
        fps=args.fps,
        seed=args.seed,
    )
    made = make_dataset(args.output_dir, settings, workers=args.workers, show_progress=True)
    clips = settings.train + settings.val + settings.test
    print(f"{args.output_dir}: {clips} clips, {'made' if made else 'already there'}")
    return 0

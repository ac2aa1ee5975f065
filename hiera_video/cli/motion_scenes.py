"""The scenes of the motion data set for AVA's task: several things in one picture, each with its own motion and box."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hiera_video.cli.motion_clips import (
    CLASSES,
    NOISE_RANGE,
    SHAPE_RANGE,
    SIZE_AXIS,
    SIZE_RANGE,
    TURN_AXIS,
    draw_background,
    draw_shape,
    sample_mask,
    write_video,
)

VERSION = 1  # of the pictures and boxes: raise it with any change to them
START_SEC = 900  # the videos are as if cut there
THING_RANGE = (0.12, 0.15)  # reach of a thing at the key frame, of the picture's side
_RIM = 0.9  # of the reach: where a shape's corners are
# A frame: share of the picture's side, of a circle, and of the logarithm of the size.
_SPEEDS = {"place": (0.010, 0.015), TURN_AXIS: (0.03, 0.06), SIZE_AXIS: (0.03, 0.05)}
_JITTER = 0.08  # of a box's side: how far a predicted corner may be off
_PHANTOM_SHARE = 0.3  # of key frames: with a predicted person that is not there, and a low score
_EXCLUDED_PERIOD = 20  # every so many key frames of validation one is excluded

FILES = {
    "train": "ava_train_v2.2.csv",
    "val": "ava_val_v2.2.csv",
    "train_persons": "person_box_67091280_iou90/ava_detection_train_boxes_and_labels_include_negative_v2.2.csv",
    "val_persons": "person_box_67091280_iou90/ava_detection_val_boxes_and_labels.csv",
    "excluded": "ava_val_excluded_timestamps_v2.2.csv",
    "classes": "ava_action_list_v2.2_for_activitynet_2019.pbtxt",
}


@dataclass(frozen=True)
class SceneSettings:
    """Everything that the files depend on."""

    train: int = 150
    val: int = 40
    key_frames: int = 8
    things: int = 3
    size_px: int = 96
    fps: int = 10
    seed: int = 0
    version: int = VERSION
    task: str = "ava"


@dataclass(frozen=True)
class SceneVideo:
    """One file: its number over both splits, and its split."""

    index: int
    split: str

    @property
    def name(self) -> str:
        """What the lists call it."""
        return f"scenes{self.index:04d}"


@dataclass(frozen=True)
class Thing:
    """What moves: its class, and its state (x, y, turn, logarithm of size) at the key frame and each frame's change."""

    label: int
    state: np.ndarray
    velocity: np.ndarray

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Its box at the key frame, x1, y1, x2, y2 as shares of the picture."""
        x, y, _, log_size = self.state.tolist()
        half = _RIM * _get_reach(log_size)
        return x - half, y - half, x + half, y + half


def list_videos(settings: SceneSettings) -> list[SceneVideo]:
    """All videos, training first."""
    splits = ["train"] * settings.train + ["val"] * settings.val
    return [SceneVideo(index, split) for index, split in enumerate(splits)]


def make_video(output_dir: Path, settings: SceneSettings, video: SceneVideo) -> bool:
    """Writes one video unless it is there; its random numbers depend on the seed and its index alone.

    Scene k is seen for half a second before and after its key frame, at k seconds; of scene 0, which no list names,
    only the second half. A cut parts two scenes.
    """
    path = output_dir / "videos" / f"{video.name}.mp4"
    if path.exists():
        return False
    half = settings.fps // 2
    scenes = [
        render_scene(settings, video, number, np.arange(-half if number else 0, settings.fps - half))
        for number in range(settings.key_frames + 1)
    ]
    write_video(path, np.concatenate(scenes), fps=settings.fps)
    return True


def draw_things(settings: SceneSettings, video: SceneVideo, number: int) -> list[Thing]:
    """The things of a scene. Where they are, how large and how turned at the key frame does not depend on motions."""
    rng = np.random.default_rng([settings.seed, video.index, number, 0])
    things = []
    for x, y, reach in _draw_places(rng, settings.things, settings.fps).tolist():
        label = int(rng.integers(len(CLASSES)))
        _, axis, direction = CLASSES[label]
        velocity = np.zeros(4)
        velocity[axis] = direction * rng.uniform(*_SPEEDS.get(axis, _SPEEDS["place"]))
        velocity[SIZE_AXIS] /= math.log(SIZE_RANGE[1] / SIZE_RANGE[0])  # from the logarithm itself to its axis
        things.append(Thing(label, np.array([x, y, rng.random(), _get_log_size(reach)]), velocity))
    return things


def render_scene(settings: SceneSettings, video: SceneVideo, number: int, frames: np.ndarray) -> np.ndarray:
    """Pictures of a scene, uint8 (T, H, W, 3), at these frames, counted from the key frame."""
    rng = np.random.default_rng([settings.seed, video.index, number, 1])
    size_px = settings.size_px
    background = draw_background(rng, size_px)  # (3, H, W)
    things = draw_things(settings, video, number)
    shapes = [(draw_shape(rng), rng.uniform(*SHAPE_RANGE, size=(3, 1, 1)).astype(np.float32)) for _ in things]
    noise_levels = np.float32(rng.uniform(*NOISE_RANGE))
    pictures = np.empty((len(frames), 3, size_px, size_px), np.uint8)
    for picture, frame in zip(pictures, frames.tolist(), strict=True):
        levels = background + rng.standard_normal((size_px, size_px), dtype=np.float32) * noise_levels
        for thing, (mask, color) in zip(things, shapes, strict=True):
            covered = sample_mask(mask, thing.state + frame * thing.velocity, size_px=size_px)
            levels = levels + (color - background) * covered
        picture[:] = np.clip(levels, 0, 255)
    return pictures.transpose(0, 2, 3, 1)  # (T, H, W, 3)


def make_lists(settings: SceneSettings, videos: Sequence[SceneVideo]) -> dict[str, str]:
    """The lists in AVA's published forms: name of each file -> its text."""
    lines: dict[str, list[str]] = {key: [] for key in FILES}
    for video in videos:
        for number in range(1, settings.key_frames + 1):
            moment = f"{video.name},{START_SEC + number:04d}"
            things = draw_things(settings, video, number)
            for person, thing in enumerate(things):
                lines[video.split].append(f"{moment},{_join(thing.box)},{thing.label + 1},{person}")
            rng = np.random.default_rng([settings.seed, video.index, number, 2])
            for person_line in _predict_persons(rng, things, video.split):
                lines[f"{video.split}_persons"].append(f"{moment},{person_line}")
            if video.split == "val" and (video.index * settings.key_frames + number) % _EXCLUDED_PERIOD == 0:
                lines["excluded"].append(moment)
    lines["classes"] = [
        f'item {{\n  name: "{name}"\n  id: {label}\n}}' for label, (name, _, _) in enumerate(CLASSES, start=1)
    ]
    return {FILES[key]: "".join(f"{line}\n" for line in rows) for key, rows in lines.items()}


def _predict_persons(rng: np.random.Generator, things: Sequence[Thing], split: str) -> Iterator[str]:
    """What a detector might say: boxes that are a little off, and now and then one of a low score where nothing is.

    Those of training have the action of their thing, as in the published list; what is nothing has none.
    """
    for thing in things:
        box = np.array(thing.box)
        off = rng.uniform(-_JITTER, _JITTER, size=4) * (box[2] - box[0])
        label = thing.label + 1 if split == "train" else ""
        yield f"{_join((box + off).tolist())},{label},{rng.uniform(0.85, 1.0):.6f}"
    if rng.random() < _PHANTOM_SHARE:
        x, y = rng.uniform(0.1, 0.7, size=2)
        yield f"{_join((x, y, x + 0.2, y + 0.2))},,{rng.uniform(0.3, 0.75):.6f}"


def _draw_places(rng: np.random.Generator, count: int, fps: int) -> np.ndarray:
    """Rows x, y, reach such that no thing leaves the picture or meets another during its scene, whatever it does."""
    for _ in range(200):
        reaches = rng.uniform(*THING_RANGE, size=(1000, count, 1))  # of a thousand tries at once
        room = reaches + _SPEEDS["place"][1] * (fps / 2)  # each needs a square of twice this side
        centers = room + rng.random((1000, count, 2)) * (1 - 2 * room)
        distances = abs(centers[:, :, None] - centers[:, None, :]).max(axis=-1)  # (1000, n, n)
        distances[:, range(count), range(count)] = np.inf
        fitting = np.flatnonzero((distances >= room + room.transpose(0, 2, 1)).all(axis=(1, 2)))
        if len(fitting):
            return np.concatenate([centers, reaches], axis=2)[fitting[0]]
    raise ValueError(f"--things {count}: so many things do not fit into a picture; take fewer")


def _get_reach(log_size: float) -> float:
    smallest, largest = SIZE_RANGE
    return smallest * (largest / smallest) ** log_size


def _get_log_size(reach: float) -> float:
    smallest, largest = SIZE_RANGE
    return math.log(reach / smallest) / math.log(largest / smallest)


def _join(box: Sequence[float]) -> str:
    return ",".join(f"{corner:.4f}" for corner in box)

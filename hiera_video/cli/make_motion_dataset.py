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

    hiera-video make-motion-dataset --task ava --output-dir data/motion_ava

With --task ava, several things move in one scene, each in its own way and in its own box, so that only what is inside
of a box tells what its thing does. A video has one scene around each second; --train and --val count videos. The lists
are in AVA's published forms: truth, predicted persons (boxes a little off, with scores), excluded moments, and classes.
The videos are as if cut at 900 s.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from hiera_video.cli import motion_scenes
from hiera_video.cli.arguments import make_parser, report_errors
from hiera_video.cli.motion_clips import CLASSES, draw_states, render_clip, write_video

VERSION = 3  # of the pictures: raise it with any change to them, so that old folders are not taken for new ones
SPLITS = ("train", "val", "test")
SSV2_NAMES = {"train": "train", "val": "validation", "test": "test"}

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

    @property
    def name(self) -> str:
        """Of its file, without the ending."""
        return str(self.index)


class Maker(NamedTuple):
    """How the parts of a data set are made: which files, one of them, and the lists."""

    list_files: Callable[[Any], list[Any]]
    make_file: Callable[[Path, Any, Any], bool]
    write_lists: Callable[[Path, Any, list[Any]], None]


def list_clips(settings: Settings) -> list[Clip]:
    """All clips; labels take turns, so that classes are as equal in number as can be."""
    counts = [(split, getattr(settings, split)) for split in SPLITS]
    places = ((split, position) for split, count in counts for position in range(count))
    return [Clip(index, split, position % len(CLASSES)) for index, (split, position) in enumerate(places)]


def make_clip(output_dir: Path, settings: Settings, clip: Clip) -> bool:
    """Writes one clip unless it is there; its random numbers depend on the seed and its index alone."""
    path = _get_path(output_dir, clip)
    if path.exists():
        return False
    rng = np.random.default_rng([settings.seed, clip.index])
    states = draw_states(rng, label=clip.label, num_frames=settings.frames)
    write_video(path, render_clip(rng, states, size_px=settings.size_px), fps=settings.fps)
    return True


def write_lists(output_dir: Path, settings: Settings, clips: list[Clip]) -> None:
    """Writes the lists of all splits in Kinetics' and in Something-Something V2's form."""
    for folder in ("ssv2", "few_labels"):
        (output_dir / folder).mkdir(exist_ok=True)
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


def write_ava_lists(
    output_dir: Path, settings: motion_scenes.SceneSettings, videos: list[motion_scenes.SceneVideo]
) -> None:
    """Writes the lists of the scenes in AVA's forms."""
    for name, text in motion_scenes.make_lists(settings, videos).items():
        (output_dir / name).parent.mkdir(exist_ok=True)
        _write_text(output_dir / name, text)


MAKERS: dict[type, Maker] = {
    Settings: Maker(list_clips, make_clip, write_lists),
    motion_scenes.SceneSettings: Maker(motion_scenes.list_videos, motion_scenes.make_video, write_ava_lists),
}


def make_dataset(
    output_dir: Path, settings: Settings | motion_scenes.SceneSettings, *, workers: int = 1, show_progress: bool = False
) -> bool:
    """Makes the data set, or what is still missing of it.

    Returns:
        False if it was there, complete and with the same settings.

    Raises:
        ValueError: the folder holds something else, or a data set with other settings.
    """
    state_path, maker = output_dir / "dataset.json", MAKERS[type(settings)]
    wanted = asdict(settings)
    state = _load_state(output_dir, state_path)
    if state is not None and state["settings"] != wanted:
        differing = {key: (state["settings"].get(key), value) for key, value in wanted.items()}
        changes = ", ".join(f"{key} {old} (asked: {new})" for key, (old, new) in differing.items() if old != new)
        raise ValueError(f"{output_dir} holds a motion data set with {changes}; remove it or take another --output-dir")
    files = maker.list_files(settings)
    (output_dir / "videos").mkdir(parents=True, exist_ok=True)
    maker.write_lists(output_dir, settings, files)
    if state is not None and state["complete"] and all(_get_path(output_dir, file).exists() for file in files):
        return False
    _write_text(state_path, json.dumps({"settings": wanted, "complete": False}, indent=1))
    made = _make_files([(maker.make_file, output_dir, settings, file) for file in files], workers)
    for _ in tqdm(made, total=len(files), unit="clip", desc="motion data set", disable=None if show_progress else True):
        pass
    _write_text(state_path, json.dumps({"settings": wanted, "complete": True}, indent=1))
    return True


def _make_files(tasks: list[tuple], workers: int) -> Iterator[bool]:
    if workers <= 1:
        yield from map(_make_file, tasks)
        return
    with multiprocessing.Pool(workers) as pool:
        yield from pool.imap_unordered(_make_file, tasks, chunksize=4)


def _make_file(task: tuple) -> bool:
    make, *arguments = task
    return make(*arguments)


def _load_state(output_dir: Path, state_path: Path) -> dict[str, Any] | None:
    if state_path.exists():
        return json.loads(state_path.read_text())
    if output_dir.exists() and any(output_dir.iterdir()):
        raise ValueError(f"{output_dir} is not empty and holds no motion data set; take another --output-dir")
    return None


def _get_path(output_dir: Path, file: Any) -> Path:
    return output_dir / "videos" / f"{file.name}.mp4"


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of this command. What is None stands for the default of the task."""
    parser = make_parser("make-motion-dataset", __doc__)
    parser.add_argument("--output-dir", type=Path, required=True, help="folder to make; a complete one is kept")
    parser.add_argument("--task", choices=("classify", "ava"), default="classify", help="default: %(default)s")
    helps = {
        "train": "clips for training; with --task ava videos",
        "val": "the same for validation",
        "test": "clips for test; none with --task ava",
        "size": "side of the picture in pixels, even",
        "frames": "frames of a clip; not with --task ava",
        "key_frames": "with --task ava: key frames of a video, one a second",
        "things": "with --task ava: things in a scene",
        "fps": "frames a second",
        "seed": "another seed gives other clips",
    }
    for name, text in helps.items():
        field = {"size": "size_px"}.get(name, name)
        defaults = [str(getattr(kind, field)) for kind in MAKERS if hasattr(kind, field)]  # of either task
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(
            option, dest=field, type=int, help=f"{text}; default: {' and '.join(dict.fromkeys(defaults))}"
        )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes; the files do not depend on it"
    )
    return parser.parse_args(argv)


def make_settings(args: argparse.Namespace) -> Settings | motion_scenes.SceneSettings:
    """What the command line asks for. Raises ValueError for an option that the task does not have."""
    kind: Any = motion_scenes.SceneSettings if args.task == "ava" else Settings
    known = {field.name for field in fields(kind)} - {"task", "version"}
    names = ("train", "val", "test", "size_px", "frames", "key_frames", "things", "fps", "seed")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    unknown = sorted(given.keys() - known)
    if unknown:
        raise ValueError(f"--{unknown[0].replace('_', '-')} does not go with --task {args.task}")
    return kind(**given)


@report_errors(status=2)
def main(argv: Sequence[str] | None = None) -> int:
    """Makes the data set that the command line asks for; the exit status is 2 where the folder holds another one."""
    args = parse_args(argv)
    settings = make_settings(args)
    made = make_dataset(args.output_dir, settings, workers=args.workers, show_progress=True)
    count = len(MAKERS[type(settings)].list_files(settings))
    print(f"{args.output_dir}: {count} clips, {'made' if made else 'already there'}")
    return 0

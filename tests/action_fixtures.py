"""A few small videos with AVA's files, and a config that trains a tiny detector of actions on them in seconds."""

import numpy as np
import pytest

from hiera_video.cli.motion_clips import write_video
from hiera_video.config import load_config

NUM_CLASSES = 4
SCORED = {1: "walk", 2: "sit", 4: "talk to (e.g., self)"}  # id 3 is not scored
VIDEOS = {"train": ("a", "b", "c", "d"), "val": ("e", "f", "g")}
SECONDS = (1, 2, 3)
HALVES = ((0.28, 0.1, 0.48, 0.9), (0.52, 0.1, 0.72, 0.9))  # inside of the center square of a frame of 96 x 48
BESIDE = (0.0, 0.2, 0.2, 0.8)  # outside of it
TRUTH, PERSONS = "ava_val_v2.2.csv", "persons.csv"


def write_actions(folder):
    """Videos of noise that moves, each 5 s of 10 frames; truth, predicted persons, exclusions and classes."""
    rng = np.random.default_rng(0)
    (folder / "videos").mkdir()
    for name in (name for names in VIDEOS.values() for name in names):
        scene = rng.integers(0, 255, (6, 20, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)  # (48, 160, 3)
        pictures = np.stack([scene[:, step : step + 96] for step in range(50)])
        write_video(folder / "videos" / f"{name}.mp4", pictures, fps=10)
    for split, path in (("train", "ava_train_v2.2.csv"), ("val", TRUTH)):
        lines = []
        for video in VIDEOS[split]:
            for sec in SECONDS:
                for person, box in enumerate(HALVES):
                    others = rng.choice([3, 4], rng.integers(0, 2))
                    for action in (person + 1, *others):  # who is on the left walks, who is on the right sits
                        lines.append(f"{video},{sec:04d},{','.join(map(str, box))},{action},{person}\n")
        (folder / path).write_text("".join(lines))
    lines = []
    for video in VIDEOS["val"]:
        for sec in (*SECONDS, 4):  # second 4 has no truth
            for box, score in ((HALVES[0], 0.95), (HALVES[1], 0.85), (BESIDE, 0.9), (HALVES[0], 0.3)):
                corners = np.clip(np.array(box) + rng.uniform(-0.01, 0.01, 4), 0, 1).round(3)
                lines.append(f"{video},{sec:04d},{','.join(map(str, corners))},,{score}\n")
    (folder / PERSONS).write_text("".join(lines))
    (folder / "ava_val_excluded_timestamps_v2.2.csv").write_text("f,0002\n")
    items = "".join(f'item {{\n  name: "{name}"\n  id: {number}\n}}\n' for number, name in SCORED.items())
    (folder / "ava_action_list_v2.2_for_activitynet_2019.pbtxt").write_text(items)


@pytest.fixture(scope="session")
def action_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("actions")
    write_actions(folder)
    return folder


@pytest.fixture
def action_options(action_dir, tmp_path):
    """KEY VALUE pairs of a run of two epochs with three steps each."""
    pairs = {
        "TASK": "detect_actions",
        "OUTPUT_DIR": tmp_path / "out",
        "DATA.FORMAT": "ava",
        "DATA.PATH_TO_DATA_DIR": action_dir,
        "DATA.NUM_FRAMES": 4,
        "DATA.SAMPLING_RATE": 2,
        "DATA.TARGET_FPS": 10,
        "DATA.TRAIN_JITTER_SCALES": [32, 40],
        "DATA.TRAIN_CROP_SIZE": 32,
        "DATA.TEST_CROP_SIZE": 32,
        "DATA.RANDOM_FLIP": False,
        "DATA_LOADER.NUM_WORKERS": 0,
        "AVA.START_SEC": 0.0,
        "AVA.TEST_PREDICT_BOX_LISTS": f'["{PERSONS}"]',
        "HIERA.EMBED_DIM": 8,
        "HIERA.STAGES": [1, 1, 1, 1],
        "MODEL.MODEL_NAME": "hiera_tiny_16x224",
        "MODEL.NUM_CLASSES": NUM_CLASSES,
        "SOLVER.MAX_EPOCH": 2,
        "SOLVER.WARMUP_EPOCHS": 1,
        "TEST.SPLIT": "val",
        "TEST.NUM_ENSEMBLE_VIEWS": 1,
        "TEST.NUM_SPATIAL_CROPS": 1,
        "TEST.BATCH_SIZE": 5,
        "TRAIN.BATCH_SIZE": 4,
        "LOG_PERIOD": 1,
        "REPORT.ENABLE": False,
    }
    return {key: str(value) for key, value in pairs.items()}


@pytest.fixture
def make_action_cfg(action_options):
    """A function that returns the config of `action_options` with changes."""

    def make(changes=None):
        pairs = {**action_options, **{key: str(value) for key, value in (changes or {}).items()}}
        return load_config([], [word for pair in pairs.items() for word in pair])

    return make

"""A small set of made pictures in COCO's layout and a config that trains a tiny detector on them in seconds."""

import pytest

from hiera_video.cli.make_shape_dataset import main as make_shape_dataset
from hiera_video.config import load_config


@pytest.fixture(scope="session")
def scenes_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "coco"
    words = ["--task", "coco", "--output-dir", str(folder), "--train", "8", "--val", "5", "--size", "64"]
    assert make_shape_dataset(words) == 0
    return folder


@pytest.fixture
def detection_options(scenes_dir, tmp_path):
    """KEY VALUE pairs of a run of two epochs with two steps each."""
    pairs = {
        "TASK": "detect",
        "OUTPUT_DIR": tmp_path / "out",
        "DATA.FORMAT": "coco",
        "DATA.PATH_TO_DATA_DIR": scenes_dir,
        "DATA.NUM_FRAMES": 1,
        "DATA.TRAIN_CROP_SIZE": 64,
        "DATA.TEST_CROP_SIZE": 64,
        "DATA_LOADER.NUM_WORKERS": 0,
        "DETECTOR.JITTER_SCALES": [0.5, 1.5],
        "DETECTOR.ANCHOR_SIZES": [8, 16, 32, 48, 64],
        "DETECTOR.CHANNELS": 8,
        "DETECTOR.HIDDEN_DIM": 8,
        "DETECTOR.NUM_PROPOSALS": 20,
        "DETECTOR.NUM_ROIS": 16,
        "HIERA.EMBED_DIM": 8,
        "HIERA.STAGES": [1, 1, 1, 1],
        "MODEL.MODEL_NAME": "hiera_tiny_224",
        "MODEL.NUM_CLASSES": 4,
        "SOLVER.MAX_EPOCH": 2,
        "SOLVER.WARMUP_EPOCHS": 1,
        "TEST.SPLIT": "val",
        "TEST.BATCH_SIZE": 2,
        "TRAIN.BATCH_SIZE": 4,
        "LOG_PERIOD": 1,
        "REPORT.ENABLE": False,
    }
    return {key: str(value) for key, value in pairs.items()}


@pytest.fixture
def make_detection_cfg(detection_options):
    """A function that returns the config of `detection_options` with changes, e.g. ``make({"RNG_SEED": 1})``."""

    def make(changes=None):
        pairs = {**detection_options, **{key: str(value) for key, value in (changes or {}).items()}}
        return load_config([], [word for pair in pairs.items() for word in pair])

    return make

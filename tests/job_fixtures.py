"""A small motion data set and a config that trains a tiny Hiera on it in seconds."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hiera_video.cli.make_motion_dataset import main as make_motion_dataset
from hiera_video.cli.run import main
from hiera_video.config import load_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def motion_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("motion")
    words = ["--output-dir", str(folder), "--train", "24", "--val", "8", "--test", "11", "--workers", "1"]
    assert make_motion_dataset(words) == 0
    return folder


@pytest.fixture
def broken_dir(motion_dir, tmp_path):
    """The data set with one video of each list emptied: position 3 of train, 2 of val, 4 of test."""
    folder = tmp_path / "broken"
    shutil.copytree(motion_dir, folder)
    for split, position in (("train", 3), ("val", 2), ("test", 4)):
        path = (folder / f"{split}.csv").read_text().splitlines()[position].rsplit(" ", 1)[0]
        (folder / path).write_bytes(b"")
    return folder


@pytest.fixture
def options(motion_dir, tmp_path):
    """KEY VALUE pairs of a run of two epochs with three steps each."""
    pairs = {
        "OUTPUT_DIR": tmp_path / "out",
        "DATA.PATH_TO_DATA_DIR": motion_dir,
        "DATA.NUM_FRAMES": 4,
        "DATA.SAMPLING_RATE": 2,
        "DATA.TRAIN_JITTER_SCALES": [32, 40],
        "DATA.TRAIN_CROP_SIZE": 32,
        "DATA.TEST_CROP_SIZE": 32,
        "DATA.RANDOM_FLIP": False,
        "DATA_LOADER.NUM_WORKERS": 0,
        "HIERA.EMBED_DIM": 8,
        "HIERA.STAGES": [1, 1, 1, 1],
        "MODEL.MODEL_NAME": "hiera_tiny_16x224",
        "MODEL.NUM_CLASSES": 8,
        "SOLVER.MAX_EPOCH": 2,
        "SOLVER.WARMUP_EPOCHS": 1,
        "TEST.NUM_ENSEMBLE_VIEWS": 2,
        "TEST.BATCH_SIZE": 12,
        "TRAIN.BATCH_SIZE": 8,
        "LOG_PERIOD": 1,
        "REPORT.ENABLE": False,
    }
    return {key: str(value) for key, value in pairs.items()}


@pytest.fixture
def make_cfg(options):
    """A function that returns the config of `options` with changes, e.g. ``make_cfg({"RNG_SEED": 1})``."""

    def make(changes=None):
        pairs = {**options, **{key: str(value) for key, value in (changes or {}).items()}}
        return load_config([], [word for pair in pairs.items() for word in pair])

    return make


@pytest.fixture
def run_main(options, capfd):
    """Runs `hiera-video run` in this process; returns its last line on stderr if it fails (else None), and stderr."""

    def run(changes):
        pairs = {**options, **{key: str(value) for key, value in changes.items()}}
        status = main([word for pair in pairs.items() for word in pair])
        stderr = capfd.readouterr().err
        return (stderr.splitlines()[-1] if status else None), stderr

    return run


@pytest.fixture
def run_net(options):
    """Runs tools/run_net.py as a user does, in one process or under torchrun; returns the finished process."""

    def run(changes=None, *, processes=1):
        pairs = {**options, **{key: str(value) for key, value in (changes or {}).items()}}
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        return subprocess.run(
            [sys.executable, *(launcher if processes > 1 else []), "tools/run_net.py"]
            + [word for pair in pairs.items() for word in pair],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=800,
        )

    return run

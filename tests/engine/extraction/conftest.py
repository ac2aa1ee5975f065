"""Four small videos, a small checkpoint, and the config of an extraction with them."""

import pytest
import torch
from command_words import to_words
from video_factory import write_video

import hiera_video as hv
from hiera_video.cli.main import main

LENGTHS = {"a": 61, "b": 12, "sub/c": 30, "sub/d": 5}


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, num_frames in LENGTHS.items():
        path = folder / f"{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        write_video(path, num_frames=num_frames)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    model = hv.build_model("hiera_tiny_16x224", embed_dim=8, stages=(1, 1, 1, 1), input_size=(4, 32, 32), num_classes=5)
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save({"model_state": model.state_dict()}, path)
    return str(path)


@pytest.fixture
def options(videos, checkpoint, tmp_path):
    """Key -> value of an extraction: windows of 16 frames, 8 apart, at 25 frames a second."""
    return {
        "OUTPUT_DIR": str(tmp_path / "out"),
        "TRAIN.ENABLE": "False",
        "EXTRACT.ENABLE": "True",
        "EXTRACT.VIDEOS": str(videos),
        "EXTRACT.CHECKPOINT_FILE_PATH": checkpoint,
        "EXTRACT.WINDOW": "0.64",
        "EXTRACT.STRIDE": "0.32",
        "EXTRACT.BATCH_SIZE": "4",
        "MODEL.MODEL_NAME": "hiera_tiny_16x224",
        "MODEL.NUM_CLASSES": "5",
        "HIERA.EMBED_DIM": "8",
        "HIERA.STAGES": "[1, 1, 1, 1]",
        "DATA.NUM_FRAMES": "4",
        "DATA.TRAIN_JITTER_SCALES": "[36, 40]",
        "DATA.TRAIN_CROP_SIZE": "32",
        "DATA.TEST_CROP_SIZE": "32",
        "DATA_LOADER.NUM_WORKERS": "1",
    }


@pytest.fixture
def run_job(capfd):
    """Runs the job in this process; returns the last line on stderr if it fails, else None."""

    def run_here(options):
        status = main(["run", *to_words(options)])
        stderr = capfd.readouterr().err
        return stderr.splitlines()[-1] if status else None

    return run_here

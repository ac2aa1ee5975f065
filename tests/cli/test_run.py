"""`hiera-video run` and tools/run_net.py as a user meets them."""

from pathlib import Path

import pytest
import torch
import yaml

from hiera_video.cli.run import main

ROOT = Path(__file__).resolve().parents[2]


def test_train_then_test_in_one_command(run_net, tmp_path):
    finished = run_net({"TEST.ENABLE": True, "SOLVER.MAX_EPOCH": 1})
    assert finished.returncode == 0, finished.stderr
    assert "tested 11 / 11 videos x 6 views" in finished.stderr
    assert (tmp_path / "out" / "test_results.json").is_file()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"TRAIN.BATCHSIZE": 3}, ["unknown config key TRAIN.BATCHSIZE", "did you mean TRAIN.BATCH_SIZE"]),
        ({"DATA.PATH_TO_DATA_DIR": "/no/such/folder"}, ["DATA.PATH_TO_DATA_DIR = /no/such/folder"]),
        (
            {"TEST.ENABLE": True, "TRAIN.ENABLE": False, "DATA.PATH_TO_DATA_DIR": str(ROOT)},
            ["no weights: TEST.CHECKPOINT_FILE_PATH is empty"],
        ),
        ({"DATA.PATH_TO_DATA_DIR": str(ROOT)}, [f"{ROOT}/train.csv", "json", "class folders"]),
        ({"DATA.PATH_PREFIX": "/elsewhere"}, ["/elsewhere/", "DATA.PATH_PREFIX"]),
        ({"MODEL.NUM_CLASSES": 7}, ["train.csv", "label 7", "[0, 7)"]),
        ({"TRAIN.BATCH_SIZE": 64}, ["24 videos", "TRAIN.BATCH_SIZE = 64"]),
        ({"DATA.TRAIN_CROP_SIZE": 40, "DATA.TRAIN_JITTER_SCALES": [40, 40]}, ["40", "legal"]),
        ({"MODEL.MODEL_NAME": "hiera_tiny_224"}, ["hiera_tiny_224 is an image model", "hiera_tiny_16x224"]),
        ({"MODEL.MODEL_NAME": "hiera_bse_16x224"}, ["hiera_bse_16x224", "hiera_base_16x224"]),
        ({"TRAIN.PRECISION": "fp16", "NUM_GPUS": 0}, ["fp16 needs a GPU"]),
        ({"NUM_GPUS": 99}, ["NUM_GPUS = 99", "visible GPUs"]),
        ({"TRAIN.CHECKPOINT_FILE_PATH": "/no/weights.pth"}, ["/no/weights.pth"]),
        ({"TRAIN.ENABLE": False, "EXTRACT.ENABLE": True, "DATA.PATH_TO_DATA_DIR": ""}, ["EXTRACT.VIDEOS"]),
        (
            {"TRAIN.ENABLE": False, "EXTRACT.ENABLE": True, "DATA.TEST_CROP_SIZE": 64},
            ["DATA.TRAIN_JITTER_SCALES[0] = 32", "EXTRACT.NUM_CROPS = 1", "DATA.TEST_CROP_SIZE = 64"],
        ),
    ],
)
def test_a_mistake_is_one_line_that_helps(run_main, changes, words):
    if "TRAIN.PRECISION" in changes and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    message, stderr = run_main(changes)
    assert message and message.startswith("error: ") and "Traceback" not in stderr
    for word in words:
        assert word in message, message


def test_a_mistake_ends_with_status_1_and_leaves_its_traceback_in_the_log(run_net, tmp_path):
    finished = run_net({"DATA.PATH_TO_DATA_DIR": "/no/such/folder"})
    assert finished.returncode == 1
    assert finished.stderr.strip().splitlines()[-1].startswith("error: ") and "Traceback" not in finished.stderr
    assert "Traceback" in (tmp_path / "out" / "stdout.log").read_text()


@pytest.mark.parametrize("pairs", [["--opts", "DATA.PATH_TO_DATA_DIR", "/d"], []], ids=["complete", "without data"])
def test_the_final_config_is_printed_on_request(pairs, capsys):
    assert main(["--cfg", "configs/SSv2/HIERA_L_16.yaml", "--print-config", *pairs]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["MODEL"]["NUM_CLASSES"] == 174


def test_keys_and_recipes_are_listed(capsys):
    assert main(["--keys"]) == 0
    assert "TRAIN.BATCH_SIZE = " in capsys.readouterr().out
    assert main(["--list"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["recipe", "task", "model", "the", "paper", "reports"]
    (line,) = (line for line in lines if line.startswith("Kinetics/HIERA_B_16x4.yaml "))
    assert line.split(maxsplit=3)[1:] == ["classify", "hiera_base_16x224", "84.0 % top-1 with 3 crops x 5 clips"]


def test_a_test_list_that_is_missing_shows_before_training(run_main, broken_dir, tmp_path):
    (broken_dir / "test.csv").unlink()
    error, _ = run_main({"DATA.PATH_TO_DATA_DIR": broken_dir, "TEST.ENABLE": True, "OUTPUT_DIR": tmp_path / "out"})
    assert "test.csv" in error and not (tmp_path / "out").exists()

"""Checkpoints for use: what is read of them, and how often."""

import hashlib
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tiny_checkpoint import CLASS_NAMES, OPTIONS, write_tiny_checkpoint

from hiera_video.config import load_config
from hiera_video.engine.trained import find_weights, load_trained
from hiera_video.models import Hiera, HieraMAE, checkpoint_file


@pytest.fixture
def opened(monkeypatch):
    """Paths that were opened as checkpoints, in order."""
    paths = []

    def watch(owner, name):
        load = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda path, **options: paths.append(path) or load(path, **options))

    watch(torch, "load")
    watch(safetensors.torch, "load_file")
    return paths


@pytest.mark.parametrize("name", ["hiera_tiny_16x224", "mae_hiera_tiny_16x224"])
def test_a_checkpoint_is_opened_once_for_config_names_and_weights(name, tmp_path, opened):
    decoder = {"MAE__DECODER_EMBED_DIM": 16, "MAE__DECODER_DEPTH": 1, "MAE__DECODER_NUM_HEADS": 2}
    path = write_tiny_checkpoint(tmp_path / "a.pyth", MODEL__MODEL_NAME=name, **decoder)
    trained = load_trained(path)
    assert opened == [path]
    assert trained.class_names == CLASS_NAMES and trained.checkpoint == path and not trained.model.training
    assert name == trained.cfg.MODEL.MODEL_NAME
    assert type(trained.model) is (HieraMAE if name.startswith("mae_") else Hiera)
    assert trained.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    weights = checkpoint_file.read_checkpoint_file(path).weights
    assert all(torch.equal(value, weights[key]) for key, value in trained.model.state_dict().items())


def test_safetensors_are_opened_once_and_need_options(tmp_path, opened):
    weights = checkpoint_file.read_checkpoint_file(write_tiny_checkpoint(tmp_path / "a.pyth")).weights
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(weights, path)
    opened.clear()
    trained = load_trained(str(path), opts=[str(word) for pair in OPTIONS.items() for word in pair])
    assert opened == [str(path)]
    assert trained.class_names == ()
    assert torch.equal(trained.model.norm.weight, weights["norm.weight"])


def test_the_model_lives_on_when_the_file_is_overwritten(tmp_path):
    """The weights in use are copies: whoever writes into the file afterwards does not change the model."""
    path = write_tiny_checkpoint(tmp_path / "a.pyth")
    model = load_trained(path).model
    before = model.norm.weight.clone()
    with open(path, "r+b") as file:
        file.write(bytes(Path(path).stat().st_size))
    assert torch.equal(model.norm.weight, before)
    with pytest.raises(ValueError, match=r"a\.pyth is no checkpoint"):
        load_trained(path)


def test_best_is_the_checkpoint_of_the_best_validation(tmp_path):
    cfg = load_config([], ["OUTPUT_DIR", str(tmp_path), "TRAIN.ENABLE", "False"])
    with pytest.raises(FileNotFoundError, match="TEST.CHECKPOINT_FILE_PATH = best, but there is no .*_best.pyth"):
        find_weights(cfg, "best", key="TEST.CHECKPOINT_FILE_PATH")
    for name in ("checkpoint_epoch_00003.pyth", "checkpoint_best.pyth"):
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        (tmp_path / "checkpoints" / name).touch()
    assert find_weights(cfg, "best", key="") == str(tmp_path / "checkpoints" / "checkpoint_best.pyth")
    assert find_weights(cfg, "", key="") == str(tmp_path / "checkpoints" / "checkpoint_epoch_00003.pyth")

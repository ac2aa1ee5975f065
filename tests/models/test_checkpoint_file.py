"""What the one reader says of each form of checkpoint file. What it refuses is in test_weights.py."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from hiera_video.models import checkpoint_file
from hiera_video.models.checkpoint_file import CheckpointFile, read_checkpoint_file

WEIGHTS = {"norm.weight": torch.arange(6.0).view(2, 3), "norm.bias": torch.ones(3, dtype=torch.float16)}
TRAINING = {
    "model_state": {f"module.{name}": value for name, value in WEIGHTS.items()},
    "optimizer_state": {"state": {0: {"exp_avg": torch.full((4,), 2.0)}}},
    "scaler_state": {},
    "best_score": 12.5,
    "epoch": 7,
    "cfg": "RNG_SEED: 3\n",
    "tokens_grid": [2, 8, 8],
    "class_names": ["run", "jump"],
}
FORMS = {
    "training": TRAINING,
    "released": {"model_state": WEIGHTS},
    "weights": {f"_orig_mod.{name}": value for name, value in WEIGHTS.items()},
}


def is_mapped(path):
    return str(path) in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("kind", FORMS)
def test_each_form_is_read_and_mapped_where_it_can_be(kind, is_zip, tmp_path):
    path = tmp_path / "a.pth"
    torch.save(FORMS[kind], path, _use_new_zipfile_serialization=is_zip)
    file = read_checkpoint_file(path)
    assert (file.kind, file.source, file.local_path) == (kind, str(path), str(path))
    assert file.weights.keys() == WEIGHTS.keys()
    assert all(torch.equal(value, WEIGHTS[name]) for name, value in file.weights.items())
    assert is_mapped(path) == is_zip
    if kind == "training":
        assert (file.epoch, file.config, file.class_names) == (7, "RNG_SEED: 3\n", ("run", "jump"))
        assert file.tokens_grid == (2, 8, 8)
        assert file.training.keys() == {"optimizer_state", "scaler_state", "best_score"}
        assert file.training["optimizer_state"]["state"][0]["exp_avg"].tolist() == [2.0] * 4
    else:
        assert (file.epoch, file.config, file.class_names, file.tokens_grid) == (None, "", (), None)
        assert file.training == {}


def test_safetensors_are_a_state_dict_and_are_mapped(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(WEIGHTS, path)
    file = read_checkpoint_file(path)
    assert (file.kind, file.epoch, file.config) == ("weights", None, "")
    assert all(torch.equal(value, WEIGHTS[name]) for name, value in file.weights.items())
    assert is_mapped(path)


def test_weights_with_a_config_but_without_an_optimizer_are_for_use_and_not_for_resuming(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({key: value for key, value in TRAINING.items() if key != "optimizer_state"}, path)
    file = read_checkpoint_file(path)
    assert (file.kind, file.epoch, file.config, file.training) == ("released", 7, "RNG_SEED: 3\n", {})


def test_a_form_of_another_project_is_one_more_function(tmp_path, monkeypatch):
    def take_other(source, content):
        if "backbone.ln.w" not in content:
            return None
        return CheckpointFile(source=source, kind="other", weights={"norm.weight": content["backbone.ln.w"]})

    monkeypatch.setattr(checkpoint_file, "_FORMS", (take_other, *checkpoint_file._FORMS))
    torch.save({"backbone.ln.w": torch.ones(2)}, tmp_path / "other.pth")
    torch.save(WEIGHTS, tmp_path / "ours.pth")
    other = read_checkpoint_file(tmp_path / "other.pth")
    assert other.kind == "other" and other.weights["norm.weight"].tolist() == [1, 1]
    assert read_checkpoint_file(tmp_path / "ours.pth").kind == "weights"

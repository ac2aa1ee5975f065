"""The pictures of a masked autoencoder: visible patches are the video's, hidden ones are painted by the model."""

import av
import numpy as np
import pytest
from PIL import Image
from tiny_checkpoint import write_tiny_checkpoint

from hiera_video.cli import visualize_mae as tool
from hiera_video.config import load_config
from hiera_video.engine.reconstruct import reconstruct
from hiera_video.models.checkpoint_file import read_checkpoint_file

PAIRS = {
    "TASK": "pretrain",
    "MODEL__MODEL_NAME": "mae_hiera_tiny_16x224",
    "DATA__NUM_FRAMES": 8,
    "MAE__MASK_RATIO": 0.5,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("weights") / "mae.pyth", **PAIRS)


@pytest.fixture(scope="module")
def video(painted_video):
    return str(painted_video("to_hide.mp4", num_frames=40, width=64, height=48))


@pytest.mark.parametrize("norm_target", [True, False])
def test_only_hidden_patches_are_painted(checkpoint, video, norm_target):
    file = read_checkpoint_file(checkpoint)
    cfg = load_config([], ["MAE.NORM_TARGET", str(norm_target)], stored=file.config)
    rows, positions = reconstruct(cfg, file, video, seed=0)
    assert positions == [12, 16, 20, 24], "of 8 frames at every second one, from the middle of 40; a token spans two"
    original, masked, painted = (rows[title].astype(int) for title in ("original", "masked", "reconstructed"))
    assert original.shape == masked.shape == painted.shape == (4, 32, 32, 3)
    hidden = (masked == 128).all(axis=-1)  # (T', H, W)
    assert hidden.mean() == pytest.approx(0.5, abs=0.05)
    assert (masked == original)[~hidden].all()
    assert np.abs(painted - original)[~hidden].max() <= 1, "rounding of pixels that were normalized and back"
    assert np.abs(painted - original)[hidden].mean() > 5
    again, _ = reconstruct(cfg, file, video, seed=0)
    other, _ = reconstruct(cfg, file, video, seed=1)
    assert (again["masked"] == rows["masked"]).all() and (other["masked"] != rows["masked"]).any()


def test_picture_and_film_are_written(checkpoint, video, tmp_path, capsys):
    assert tool.main(["--checkpoint", checkpoint, "--video", video, "--output-dir", str(tmp_path / "new")]) == 0
    printed = capsys.readouterr().out
    assert "to_hide.mp4: 50% of the mask units are hidden" in printed and "true mean and contrast" in printed
    with Image.open(tmp_path / "new" / "to_hide_mae.png") as picture:
        assert picture.width > 4 * 32 and picture.height > 3 * 32
    with av.open(str(tmp_path / "new" / "to_hide_mae.mp4")) as film:
        times = [frame.time for frame in film.decode(video=0)]
    assert times == pytest.approx([0, 0.25, 0.5, 0.75])


def test_mistakes_are_named(checkpoint, video, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    classifier = write_tiny_checkpoint(tmp_path / "classifier.pyth")

    def fail(*words):
        assert tool.main(["--video", video, *words]) == 1
        return capsys.readouterr().err.splitlines()[-1]

    assert "only a model that predicts pixels can be shown" in fail("--checkpoint", checkpoint, "MAE.TARGET", "hog")
    assert "hiera_tiny_16x224" in fail("--checkpoint", classifier)
    assert "nowhere.pth: no such file" in fail("--checkpoint", "nowhere.pth")
    assert "nowhere.mp4" in fail("--video", "nowhere.mp4", "--checkpoint", checkpoint)

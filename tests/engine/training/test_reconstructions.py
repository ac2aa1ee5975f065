"""The same clips with the same parts hidden, drawn at several epochs."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hiera_video.engine.reconstruct import load_center_clip
from hiera_video.engine.training.pretrain import build_pretraining
from hiera_video.engine.training.reconstructions import FixedClips

MAE = {
    "TASK": "pretrain",
    "MODEL.MODEL_NAME": "mae_hiera_tiny_16x224",
    "MAE.MASK_RATIO": 0.5,
    "MAE.DECODER_EMBED_DIM": 32,
    "MAE.DECODER_DEPTH": 1,
    "MAE.DECODER_NUM_HEADS": 2,
    "DATA.NUM_FRAMES": 8,
    "DATA.TRAIN_CROP_SIZE": 64,
    "DATA.TRAIN_JITTER_SCALES": [64, 64],
    "REPORT.NUM_RECONSTRUCTIONS": 2,
}


@pytest.fixture
def cfg(make_cfg):
    return make_cfg(MAE)


@pytest.fixture
def paths(motion_dir):
    names = [line.split(" ")[0] for line in (motion_dir / "val.csv").read_text().splitlines()]
    return [str(motion_dir / name) for name in names]


def read(folder):
    return {path.stem: np.asarray(Image.open(path)).astype(int) for path in folder.iterdir()}


def test_the_first_and_the_last_clip_of_the_list_are_drawn(cfg, paths):
    model, _ = build_pretraining(cfg)
    model.train()
    clips = FixedClips(cfg, paths)
    state = torch.get_rng_state()
    clips.draw(model, 3)
    assert model.training and (torch.get_rng_state() == state).all()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05)
    clips.draw(model, 4)
    folder = Path(cfg.OUTPUT_DIR) / "reconstructions"
    names = [f"00_{Path(paths[0]).stem}", f"01_{Path(paths[-1]).stem}"]
    assert sorted(path.name for path in folder.iterdir()) == names
    pictures = read(folder / names[0])
    assert set(pictures) == {"original", "masked", "epoch_00003", "epoch_00004"}
    assert {picture.shape for picture in pictures.values()} == {(64, 4 * 64 + 3 * 4, 3)}  # four tokens in time
    clip, _ = load_center_clip(cfg, paths[0])  # (1, C, T, H, W)
    first = clip[0, :, 0].permute(1, 2, 0).numpy().astype(int)  # (H, W, C)
    assert np.abs(pictures["original"][:, :64] - first).mean() < 6  # JPEG
    gray = (np.abs(pictures["masked"] - 128).max(axis=-1) < 6)[:, :-4]
    assert 0.3 < gray.mean() < 0.7
    change = np.abs(pictures["epoch_00004"] - pictures["epoch_00003"]).mean(axis=-1)[:, :-4]
    assert change[gray].mean() > 3 * change[~gray].mean()  # only what is hidden is painted


def test_clips_that_do_not_decode_are_left_out(cfg, paths, tmp_path, caplog):
    (tmp_path / "broken.mp4").write_bytes(b"")
    model, _ = build_pretraining(cfg)
    with caplog.at_level(logging.WARNING, "hiera_video"):
        FixedClips(cfg, [str(tmp_path / "broken.mp4"), paths[0]]).draw(model, 1)
    assert "no reconstruction of this clip" in caplog.text and "broken.mp4" in caplog.text
    folder = Path(cfg.OUTPUT_DIR) / "reconstructions"
    assert [path.name for path in folder.iterdir()] == [f"01_{Path(paths[0]).stem}"]


def test_a_short_list_gives_fewer(cfg, paths):
    assert FixedClips(cfg, paths[:1]).paths == paths[:1] and FixedClips(cfg, []).paths == []

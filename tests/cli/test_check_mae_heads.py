"""The loss tells how many heads a decoder was trained with."""

import numpy as np
import pytest
import torch
from tiny_checkpoint import write_tiny_checkpoint

from hiera_video.cli.check_mae_heads import format_losses
from hiera_video.cli.main import main
from hiera_video.embeddings.reading import read_embeddings
from hiera_video.models.checkpoint_file import read_checkpoint_file
from hiera_video.video.writer import VideoWriter

MAE = {"MODEL__MODEL_NAME": "mae_hiera_tiny_16x224", "TASK": "pretrain", "MAE__DECODER_EMBED_DIM": 32}
MAE |= {"MAE__DECODER_DEPTH": 2, "MAE__DECODER_NUM_HEADS": 2, "MAE__MASK_RATIO": 0.5, "DATA__TRAIN_CROP_SIZE": 64}
MAE |= {"DATA__TEST_CROP_SIZE": 64, "DATA__TRAIN_JITTER_SCALES": [64, 72]}


@pytest.fixture
def video(tmp_path):
    generator = torch.Generator().manual_seed(0)
    frame = torch.randint(0, 255, (9, 9, 3), generator=generator, dtype=torch.uint8)
    frame = frame.repeat_interleave(8, 0).repeat_interleave(8, 1).numpy()
    with VideoWriter(tmp_path / "a.mp4", width_px=72, height_px=72, fps=25) as writer:
        for number in range(16):
            writer.write(frame, number / 25)
    return str(tmp_path / "a.mp4")


def train(path, video):
    """Fits a model of 2 heads to the video, and writes it as a released file: without any word of its heads."""
    from hiera_video.config import load_config
    from hiera_video.engine.batch import to_model_input
    from hiera_video.engine.reconstruct import load_center_clip
    from hiera_video.models.build import build_mae_from_cfg

    checkpoint = write_tiny_checkpoint(path, class_names=(), **MAE)
    file = read_checkpoint_file(checkpoint)
    cfg = load_config([], ["TRAIN.ENABLE", "False"], stored=file.config)
    model = build_mae_from_cfg(cfg)
    clip = load_center_clip(cfg, video)[0]
    x = to_model_input(clip[None], device=torch.device("cpu"), mean=cfg.DATA.MEAN, std=cfg.DATA.STD)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    torch.manual_seed(0)
    for _ in range(150):
        loss = model(x, mask_ratio=0.5)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    content = torch.load(checkpoint)
    torch.save({"model_state": model.state_dict(), "cfg": content["cfg"]}, path)


@pytest.mark.slow
def test_the_right_number_has_the_lowest_loss(video, tmp_path, capsys):
    train(tmp_path / "mae.pyth", video)
    words = ["check-mae-heads", "--checkpoint", str(tmp_path / "mae.pyth"), "--video", video, "--heads", "2", "8"]
    assert main(words) == 0
    out = capsys.readouterr().out
    print(out)
    assert "2 heads have the lowest loss, on 1 of 1 videos: MAE.DECODER_NUM_HEADS 2" in out


@pytest.mark.slow
def test_released_weights_are_named_and_need_no_decoder_in_extraction(video, tmp_path, monkeypatch, capsys):
    """A file that lies where the released one would: all commands take its name."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "served").mkdir()
    train(tmp_path / "served" / "mae_hiera_base_16x224.pth", video)
    content = torch.load(tmp_path / "served" / "mae_hiera_base_16x224.pth")
    weights = {name: value for name, value in content["model_state"].items() if "decoder" not in name}
    torch.save({"model_state": weights}, tmp_path / "served" / "mae_hiera_base_16x224.pth")
    monkeypatch.setenv("HIERA_VIDEO_WEIGHTS_URL", f"file://{tmp_path}/served")
    keys = ["MODEL.MODEL_NAME", "mae_hiera_base_16x224", "HIERA.EMBED_DIM", "8", "HIERA.STAGES", "[1, 1, 1, 1]"]
    keys += ["DATA.NUM_FRAMES", "4", "DATA.TRAIN_CROP_SIZE", "64", "DATA.TEST_CROP_SIZE", "64"]
    keys += ["DATA.TRAIN_JITTER_SCALES", "[64, 72]"]
    torch.save({"model_state": content["model_state"]}, tmp_path / "whole.pth")  # with its decoder
    found = {}
    for name in ("mae_k400", str(tmp_path / "whole.pth")):
        folder = tmp_path / f"embeddings_{len(found)}"
        words = ["extract", video, "--checkpoint", name, "--output-dir", str(folder), *keys]
        assert main(words) == 0, capsys.readouterr().err
        found[name] = read_embeddings(folder).vectors
    by_name, by_path = found.values()
    assert len(by_name) > 0 and np.array_equal(by_name, by_path)


def test_another_kind_of_weights_is_refused_by_name(video, tmp_path, capsys):
    checkpoint = write_tiny_checkpoint(tmp_path / "tiny.pyth")
    assert main(["check-mae-heads", "--checkpoint", checkpoint, "--video", video]) == 1
    assert "is no masked autoencoder for videos, but a Hiera for videos" in capsys.readouterr().err


def test_videos_that_do_not_agree_are_said():
    text = format_losses({8: [0.5, 0.7], 16: [0.6, 0.5]}, ["a.mp4", "b.mp4"])
    assert "16 heads have the lowest loss, on 1 of 2 videos" in text and "do not agree" in text
    assert "mean" in text and "0.6000" in text and "0.5500" in text

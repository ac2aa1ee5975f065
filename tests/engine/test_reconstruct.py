"""Which clip of a video an autoencoder's pictures show, and where it is read."""

import pytest
import torch
from video_factory import write_video

from hiera_video.config import load_config
from hiera_video.engine.reconstruct import load_center_clip


def test_a_remote_video_is_kept_on_a_disk(tmp_path, serve):
    pytest.importorskip("aiohttp")
    path = write_video(tmp_path / "a.mp4", num_frames=40)
    words = ["DATA.NUM_FRAMES", "4", "DATA.TRAIN_CROP_SIZE", "32", "DATA.CACHE_DIR", str(tmp_path / "kept")]
    cfg = load_config([], words, is_complete=False)
    clip, positions = load_center_clip(cfg, f"{serve(tmp_path).address}/a.mp4")
    (kept,) = (file for file in (tmp_path / "kept").rglob("*") if file.is_file() and file.name != "lock")
    assert kept.read_bytes() == path.read_bytes()
    expected, same_positions = load_center_clip(cfg, str(path))
    assert torch.equal(clip, expected) and positions == same_positions

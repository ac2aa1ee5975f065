"""`hiera-video extract` embeds what `hv.embed` embeds, and says what to give instead where it is asked wrongly."""

import importlib.util

import numpy as np
import pytest
from tiny_checkpoint import write_tiny_checkpoint

import hiera_video as hv
from hiera_video.cli import extract as tool
from hiera_video.engine.extraction import ray


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pyth")


@pytest.fixture(scope="module")
def videos(tmp_path_factory, painted_video):
    folder = tmp_path_factory.mktemp("videos")
    for frames in (30, 50):
        source = painted_video(f"embed{frames}.mp4", num_frames=frames)
        (folder / f"{frames}.mp4").write_bytes(source.read_bytes())
    return folder


def test_rows_are_those_of_embed(checkpoint, videos, tmp_path):
    words = ["--checkpoint", checkpoint, "--output-dir", str(tmp_path / "a"), "--window-sec", "0.4"]
    assert tool.main([str(videos), *words, "--stride-sec", "0.2", "EXTRACT.NUM_CROPS", "3"]) == 0
    found = hv.read_embeddings(tmp_path / "a")
    expected = hv.embed(videos, checkpoint=checkpoint, window_sec=0.4, stride_sec=0.2, num_crops=3)
    assert found.table.equals(expected.table) and len(found) > 10
    np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-6)


def test_pairs_may_come_first_and_options_win(checkpoint, tmp_path):
    words = ["OUTPUT_DIR=x", "EXTRACT.VIDEOS", "clips", "--checkpoint", checkpoint, "--output-dir", "y"]
    cfg = tool.make_config(tool.parse_args(words))
    assert (cfg.EXTRACT.VIDEOS, cfg.OUTPUT_DIR, cfg.EXTRACT.WINDOW) == ("clips", "y", 0)
    assert cfg.EXTRACT.ENABLE and not cfg.TRAIN.ENABLE and not cfg.TEST.ENABLE
    assert cfg.MODEL.MODEL_NAME == "hiera_tiny_16x224", "the checkpoint's own config"


def test_without_a_checkpoint_the_config_decides():
    cfg = tool.make_config(tool.parse_args(["v", "--cfg", "SSv2/HIERA_L_16.yaml", "OUTPUT_DIR", "x"]))
    assert (cfg.MODEL.MODEL_NAME, cfg.EXTRACT.VIDEOS) == ("hiera_large_16x224", "v")
    assert (cfg.OUTPUT_DIR, cfg.EXTRACT.CHECKPOINT_FILE_PATH) == ("x", "")


def test_ray_gets_the_same_config_and_its_actors(monkeypatch):
    pytest.importorskip("ray")
    calls = []
    monkeypatch.setattr(ray, "extract_on_ray", lambda cfg, **actors: calls.append((cfg.EXTRACT.VIDEOS, actors)))
    assert tool.main(["v", "--ray", "--decoders", "3", "--gpus-per-model", "0.5", "--address", "auto"]) == 0
    assert calls == [("v", {"address": "auto", "num_decoders": 3, "num_models": 1, "gpus_per_model": 0.5})]


def test_without_ray_the_message_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert tool.main(["v", "--ray"]) == 1
    assert capsys.readouterr().err == "error: --ray needs the package ray: pip install 'hiera_video[ray]'\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{videos}/30.mp4", "{videos}/50.mp4"], "VIDEOS is one word, but there are {videos}/30.mp4, {videos}/50.mp4"),
        (["{videos}", "--checkpoint", "/no/such.pth"], "/no/such.pth: no such file"),
        (["{videos}", "EXTRACT.WINDOWS", "2"], "did you mean EXTRACT.WINDOW"),
        (["{videos}", "--checkpoint", "{checkpoint}", "--stride-sec", "-1"], "EXTRACT.STRIDE = -1.0"),
        (["--checkpoint", "{checkpoint}", "DATA.PATH_TO_DATA_DIR", ""], "EXTRACT.VIDEOS"),
    ],
)
def test_a_mistake_is_one_line(checkpoint, videos, tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    names = {"videos": videos, "checkpoint": checkpoint}
    assert tool.main([word.format(**names) for word in words]) == 1
    assert message.format(**names) in capsys.readouterr().err.splitlines()[-1]

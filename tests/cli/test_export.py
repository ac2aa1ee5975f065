"""The command prints the differences; a graph that is off makes it end with status 1 and leaves no file."""

import pytest
import torch
from tiny_checkpoint import write_tiny_checkpoint

from hiera_video.cli import export as tool
from hiera_video.engine.export import FILE_NAMES, OUTPUTS, TOLERANCES


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pyth")


def test_difference_and_speed_are_printed_for_each_format(checkpoint, tmp_path, capsys):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    tool.main(["--checkpoint", checkpoint, "--output-dir", str(tmp_path)])
    printed = capsys.readouterr().out
    assert printed.count("largest difference to eager") == 2 and printed.count("times as fast") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.onnx",
        "model.onnx.json",
        "model.pt2",
        "model.pt2.json",
    ]


def test_above_the_tolerance_nothing_is_kept_and_the_status_is_1(checkpoint, tmp_path, monkeypatch, capsys):
    real = torch.export.load

    class Off:
        def __init__(self, path):
            self.program = real(path)

        def module(self):
            run = self.program.module()
            return lambda video: run(video) + 3e-4

    monkeypatch.setattr(torch.export, "load", Off)
    words = ["--checkpoint", checkpoint, "--output-dir", str(tmp_path), "--formats", "torch"]
    assert tool.main(words) == 1
    assert "error: model.pt2 is off by 0.0003" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert tool.main([*words, "--tolerance", "1e-3"]) == 0
    assert (tmp_path / "model.pt2").exists()


def test_options_and_config_keys_are_parsed():
    args = tool.parse_args(
        ["--checkpoint", "a.pth", "--cfg", "b.yaml", "--formats", "onnx", "MODEL.NUM_CLASSES", "7", "DATA.NUM_FRAMES=8"]
    )
    assert args.formats == ["onnx"] and args.cfg_files == ["b.yaml"]
    assert args.opts == ["MODEL.NUM_CLASSES", "7", "DATA.NUM_FRAMES=8"]


def test_the_choices_are_those_of_the_engine():
    assert (OUTPUTS, tuple(FILE_NAMES), tuple(TOLERANCES)) == (tool.OUTPUTS, tool.FORMATS, tool.PRECISIONS)


def test_features_need_no_head_in_the_file(checkpoint, tmp_path, capsys):
    content = torch.load(checkpoint, weights_only=True)
    content["model_state"] = {k: v for k, v in content["model_state"].items() if not k.startswith("head.")}
    torch.save(content, tmp_path / "headless.pyth")
    words = ["--checkpoint", str(tmp_path / "headless.pyth"), "--formats", "torch", "--output-dir", str(tmp_path)]
    assert tool.main(words) == 1
    assert "head.projection.weight" in capsys.readouterr().err
    assert tool.main([*words, "--output", "features"]) == 0
    assert (tmp_path / "model.pt2").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--checkpoint", "nowhere.pth"], "error: nowhere.pth"),
        (["--checkpoint", "{checkpoint}", "--formats", "tflite"], "formats is 'tflite'"),
        (["--checkpoint", "{checkpoint}", "--num-clips", "1"], "num_clips is 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(checkpoint, tmp_path, capsys, words, message):
    assert tool.main([*(word.format(checkpoint=checkpoint) for word in words), "--output-dir", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]

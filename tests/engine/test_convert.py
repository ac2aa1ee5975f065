"""Weights go to other packages and back, and never to one that computes something else with them."""

import pytest
import torch
from tiny_checkpoint import write_tiny_checkpoint

import hiera_video as hv
from hiera_video.cli.main import main
from hiera_video.engine import convert as convert_module
from hiera_video.engine.convert import ConversionError, convert_weights
from hiera_video.models.checkpoint_file import read_checkpoint_file

for package in ("hiera", "timm", "transformers"):
    pytest.importorskip(package)

TINY = "hiera_tiny_224"


def write_model(path, name=TINY, **changes):
    torch.manual_seed(0)
    model = hv.build_model(name, **({"num_classes": 7} | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    torch.save({"model_state": model.state_dict()}, path)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "targets"),
    [
        (TINY, ("released", "hf", "timm", "safetensors")),
        ("mae_hiera_tiny_224", ("released", "hf", "safetensors")),
        ("hiera_tiny_16x224", ("released", "safetensors")),
        ("mae_hiera_tiny_16x224", ("released", "safetensors")),
    ],
)
def test_weights_go_there_and_back(name, targets, tmp_path):
    source = write_model(tmp_path / "in.pth", name)
    expected = read_checkpoint_file(source).weights
    for target in targets:
        out = tmp_path / (target if target == "hf" else f"{target}.{'pth' if target == 'released' else 'safetensors'}")
        done = convert_weights(source, out, target=target)
        print(f"\n{name} -> {target}: {done.compared} differ by {done.difference:.1e} (largest {done.largest:.1e})")
        assert done.difference < 1e-4 and done.model.startswith(name)
        back = convert_weights(str(out), tmp_path / f"back_{target}.safetensors", target="safetensors")
        got = read_checkpoint_file(back.path).weights
        assert set(got) == set(expected) and all(torch.equal(got[key], expected[key]) for key in expected)


def test_a_checkpoint_of_ours_becomes_a_released_file(tmp_path, capsys):
    source = write_tiny_checkpoint(tmp_path / "tiny.pyth")
    assert main(["convert", source, str(tmp_path / "out.pth"), "--to", "released"]) == 0
    assert "logits differ by at most" in capsys.readouterr().out
    weights = read_checkpoint_file(source).weights
    written = torch.load(tmp_path / "out.pth")["model_state"]
    assert all(torch.equal(written[name], value) for name, value in weights.items())
    assert main(["convert", source, str(tmp_path / "out.pth"), "--to", "released"]) == 1
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("hiera_tiny_16x224", "hf", "model for videos; transformers has Hiera for images alone"),
        ("mae_hiera_tiny_224", "timm", "masked autoencoder, which timm does not have"),
    ],
)
def test_what_a_package_does_not_have_is_refused(name, target, message, tmp_path):
    with pytest.raises(ConversionError, match=message):
        convert_weights(write_model(tmp_path / "in.pth", name), tmp_path / "out", target=target)
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]


def test_weights_that_do_not_tell_their_heads_or_lack_a_part_are_refused(tmp_path):
    small = hv.build_model(TINY, embed_dim=16, stages=(1, 1, 1, 1))
    torch.save(small.state_dict(), tmp_path / "small.pth")
    with pytest.raises(ConversionError, match=r"embed_dim 16.* do not tell how many heads"):
        convert_weights(str(tmp_path / "small.pth"), tmp_path / "out", target="hf")
    state = hv.build_model(TINY).state_dict()
    torch.save({name: value for name, value in state.items() if not name.startswith("head")}, tmp_path / "no_head.pth")
    with pytest.raises(ConversionError, match=r"missing head\.projection\.weight"):
        convert_weights(str(tmp_path / "no_head.pth"), tmp_path / "out", target="timm")


def test_other_numbers_are_refused_and_nothing_is_left(tmp_path, monkeypatch):
    source = write_model(tmp_path / "in.pth")
    write, run = convert_module._WAYS["timm"]
    monkeypatch.setitem(convert_module._WAYS, "timm", (write, lambda *args: (name := run(*args)) and
                        (name[0], name[1], name[2] + 2e-4 * name[1].abs().max())))  # fmt: skip
    with pytest.raises(ConversionError, match=r"gives other logits: the largest difference is .*nothing is written"):
        convert_weights(source, tmp_path / "out.safetensors", target="timm")
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(convert_module._MODULES, "timm", "no_such_package")
    with pytest.raises(ModuleNotFoundError, match="pip install timm"):
        convert_weights(write_model(tmp_path / "in.pth"), tmp_path / "out.safetensors", target="timm")

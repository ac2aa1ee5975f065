"""Exported graphs give the model's numbers in any batch, and one that does not is never kept."""

import copy
import dataclasses
import hashlib
import importlib.util
import json

import numpy as np
import pytest
import torch
from tiny_checkpoint import CLASS_NAMES, write_tiny_checkpoint

from hiera_video.engine import export as export_module
from hiera_video.engine.export import ExportMismatchError, export_model
from hiera_video.engine.trained import load_trained


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pyth")


@pytest.fixture(scope="module")
def trained(checkpoint):
    return load_trained(checkpoint)


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """The folder with model.pt2 of the logits, and what `export_model` says about it."""
    folder = tmp_path_factory.mktemp("export") / "new"
    return folder, export_model(trained, output_dir=folder, formats=["torch"])


@pytest.fixture(scope="module")
def clips():
    return torch.randn((7, 3, 4, 32, 32), generator=torch.Generator().manual_seed(1))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_the_program_gives_the_models_logits_in_any_batch(trained, exported, clips):
    folder, (result,) = exported
    assert names_in(folder) == ["model.pt2", "model.pt2.json"]
    program = torch.export.load(folder / "model.pt2").module()
    with torch.no_grad():
        for size in (1, 2, 7):
            torch.testing.assert_close(program(clips[:size]), trained.model(clips[:size]), atol=1e-5, rtol=0)
    assert result.path == folder / "model.pt2"
    assert result.max_difference <= result.allowed == pytest.approx(1e-4 * min(result.max_output, 1))
    assert result.batch_sizes == (1, 3, 4) and result.clip_ms > 0 and result.eager_ms > 0


def test_the_program_is_for_any_machine(exported):
    """What is faster on this machine alone, or names its folders, is not in it."""
    program = torch.export.load(exported[0] / "model.pt2")
    operators = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert operators.count("aten.linear.default") == 20  # per block 4, three wider skips, one head
    assert not any("conv2d" in operator for operator in operators)
    assert not any("stack_trace" in node.meta for node in program.graph.nodes)


def test_the_side_car_says_how_to_use_it(trained, exported, checkpoint):
    content = json.loads((exported[0] / "model.pt2.json").read_text())
    assert content["input"]["shape"] == ["batch", 3, 4, 32, 32] and content["input"]["dtype"] == "float32"
    assert content["input"]["mean"] == [0.45] * 3 and content["input"]["std"] == [0.225] * 3
    expected = {"num_frames": 4, "sampling_rate_frames": 2, "target_fps": 25, "crop_size_px": 32, "short_side_px": 36}
    assert expected.items() <= content["input"].items()
    assert content["output"] == {"name": "logits", "shape": ["batch", 5], "dtype": "float32"}
    assert content["class_names"] == list(CLASS_NAMES)
    with open(checkpoint, "rb") as file:
        assert content["weights_sha256"] == hashlib.sha256(file.read()).hexdigest()
    assert content["versions"]["torch"] == torch.__version__.split("+")[0]
    assert content["verification"]["batch_sizes"] == [1, 3, 4]


def test_features_are_what_the_classifier_sees(trained, clips, tmp_path):
    (result,) = export_model(trained, output_dir=tmp_path, output="features", formats=["torch"], num_clips=3)
    program = torch.export.load(tmp_path / "model.pt2").module()
    with torch.no_grad():
        torch.testing.assert_close(program(clips), trained.model.forward_features(clips), atol=1e-5, rtol=0)
    assert result.output_size == 64 and result.batch_sizes == (1, 3)
    assert json.loads((tmp_path / "model.pt2.json").read_text())["class_names"] == []


@pytest.mark.slow
def test_a_model_of_pre_training_has_features_alone(tmp_path):
    mae = load_trained(
        write_tiny_checkpoint(tmp_path / "mae.pyth", TASK="pretrain", MODEL__MODEL_NAME="mae_hiera_tiny_16x224")
    )
    with pytest.raises(ValueError, match="mae.pyth is of mae_hiera_tiny_16x224, which has no classifier"):
        export_model(mae, output_dir=tmp_path / "out", formats=["torch"])
    export_model(mae, output_dir=tmp_path / "out", output="features", formats=["torch"])
    assert names_in(tmp_path / "out") == ["model.pt2", "model.pt2.json"]


@pytest.mark.slow
def test_exporting_leaves_the_model_alone(checkpoint, tmp_path, clips):
    trained = load_trained(checkpoint)
    before = copy.deepcopy(trained.model.state_dict())
    export_model(trained, output_dir=tmp_path, precision="fp16", formats=["torch"])
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    program = torch.export.load(tmp_path / "model.pt2")
    assert {value.dtype for value in program.state_dict.values()} == {torch.float16}
    got = program.module()(clips)
    assert got.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(got, trained.model(clips), atol=0.05, rtol=0)


def test_a_program_of_other_weights_is_refused(trained, tmp_path, monkeypatch):
    save = torch.export.save

    def save_perturbed(program, path):
        weight = program.state_dict["model.head.projection.weight"]
        before = weight.clone()
        weight[0, 0] += 1e-2
        save(program, path)
        weight.copy_(before)

    monkeypatch.setattr(torch.export, "save", save_perturbed)
    with pytest.raises(ExportMismatchError, match=r"model.pt2 is off by .* It was removed"):
        export_model(trained, output_dir=tmp_path, formats=["torch"])
    assert names_in(tmp_path) == []


def test_a_refused_program_does_not_replace_a_good_one(trained, exported, monkeypatch):
    folder, _ = exported
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    load = export_module._load
    monkeypatch.setattr(export_module, "_load", lambda *args: lambda video: load(*args)(video) * float("nan"))
    with pytest.raises(ExportMismatchError, match="off by nan"):
        export_model(trained, output_dir=folder, formats=["torch"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_batch_that_is_mixed_up_is_refused(trained, tmp_path, monkeypatch):
    load = export_module._load
    monkeypatch.setattr(export_module, "_load", lambda *args: lambda video: load(*args)(video).flip(0))
    with pytest.raises(ExportMismatchError):
        export_model(trained, output_dir=tmp_path, formats=["torch"])


def test_small_outputs_are_held_to_a_relative_tolerance(trained, tmp_path, monkeypatch):
    small = copy.deepcopy(trained.model)
    with torch.no_grad():
        for parameter in small.head.parameters():
            parameter.mul_(1e-6)
    load = export_module._load
    monkeypatch.setattr(export_module, "_load", lambda *args: lambda video: load(*args)(video) * 1.01)
    with pytest.raises(ExportMismatchError):
        export_model(dataclasses.replace(trained, model=small), output_dir=tmp_path, formats=["torch"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "tokens"}, "output is 'tokens'"),
        ({"formats": ["torch", "tensorrt"]}, "formats is 'tensorrt'"),
        ({"precision": "bf16"}, "precision is 'bf16'"),
        ({"num_clips": 2}, "num_clips is 2"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(trained, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export_model(trained, output_dir=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_named_before_anything_is_done(trained, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(ImportError, match=r"onnxscript.*pip install 'hiera_video\[export\]'"):
        export_model(trained, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def onnx_file(trained, tmp_path_factory):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("onnx")
    export_model(trained, output_dir=folder, formats=["onnx"])
    assert names_in(folder) == ["model.onnx", "model.onnx.json"]
    return folder / "model.onnx"


@pytest.mark.slow
def test_onnx_gives_the_models_logits_in_any_batch(trained, onnx_file, clips):
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    (video,), (logits,) = session.get_inputs(), session.get_outputs()
    batch = video.shape[0]
    assert isinstance(batch, str), "a name stands for any size; torch 2.6 does not take ours"
    assert (video.name, video.shape, video.type) == ("video", [batch, 3, 4, 32, 32], "tensor(float)")
    assert (logits.name, logits.shape) == ("logits", [batch, 5])
    with torch.no_grad():
        for size in (1, 2, 7):
            got = session.run(None, {"video": clips[:size].numpy()})[0]
            expected = trained.model(clips[:size]).numpy()  # up to 12: float32 rounds to 1e-6 of that
            np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6 * abs(expected).max())


def test_onnx_side_car_names_its_packages(onnx_file):
    content = json.loads(onnx_file.with_name("model.onnx.json").read_text())
    assert content["format"] == "ONNX" and content["file"] == "model.onnx"
    assert {"onnx", "onnxscript", "onnxruntime"} <= content["versions"].keys()


@pytest.mark.slow
def test_large_weights_lie_beside_the_graph(trained, tmp_path, monkeypatch, onnx_file, clips):
    import onnxruntime

    monkeypatch.setattr(export_module, "_MAX_PROTOBUF_BYTES", 1)
    export_model(trained, output_dir=tmp_path, formats=["onnx"])
    assert names_in(tmp_path) == ["model.onnx", "model.onnx.data", "model.onnx.json"]
    one, other = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"video": clips.numpy()})[0]
        for path in (tmp_path / "model.onnx", onnx_file)
    )
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_model_of_images_is_exported_for_pictures(tmp_path):
    changes = {"MODEL__MODEL_NAME": "hiera_tiny_224", "DATA__NUM_FRAMES": 1}
    trained = load_trained(write_tiny_checkpoint(tmp_path / "tiny.pyth", **changes))
    exported = export_model(trained, output_dir=tmp_path, formats=["torch"])[0]
    pictures = torch.rand(5, 3, 32, 32)
    with torch.no_grad():
        expected = trained.model(pictures)
    torch.testing.assert_close(torch.export.load(exported.path).module()(pictures), expected, atol=1e-4, rtol=1e-4)

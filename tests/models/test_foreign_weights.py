"""Weights of timm, Hugging Face and SAM2 in our models, against those packages with random weights.

Run with -s to see the largest differences.
"""

import pytest
import torch
from safetensors.torch import save_file

import hiera_video as hv
from hiera_video.models.checkpoint_file import read_checkpoint_file
from hiera_video.models.foreign_weights import recognize_format, to_other_names, to_our_names

timm = pytest.importorskip("timm")

SMALL = {"embed_dim": 16, "stages": (1, 2, 2, 1)}


def make_ours(name="hiera_tiny_224", size=64, **changes):
    """By default classes and size as in the packages' models below, unless the name's own are wanted."""
    small = SMALL | {"num_heads": 1} if size < 200 else {}
    return hv.build_model(name, input_size=(size, size), **(small | changes)).eval()


def randomize(model, seed=0):
    """Values none of which hides a difference: layer scales and norms that are not 1, biases that are not 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            is_scale = ("norm" in name and name.endswith("weight")) or name.endswith("gamma")
            value.copy_(1 + 0.2 * noise if is_scale else 0.05 * noise if value.ndim > 1 else 0.2 * noise)
    return model.eval()


def assert_close(title, ours, theirs, limit=1e-5):
    difference = (ours - theirs).abs().max().item()
    print(f"\n{title}: largest difference {difference:.1e} of {theirs.abs().max().item():.1f}")
    assert difference < limit
    assert theirs.std() > 1e-2  # not equal because both are nothing


def make_timm(name="hiera_tiny_224", **changes):
    torch.manual_seed(0)
    return randomize(timm.create_model(name, num_classes=7, **changes))


@pytest.mark.parametrize(
    ("name", "size", "changes"),
    [
        ("hiera_tiny_224", 64, {**SMALL, "img_size": 64}),
        ("hiera_base_abswin_256", 64, {**SMALL, "img_size": 64}),
        ("hiera_base_abswin_256", 96, {**SMALL, "img_size": 96}),
        pytest.param("hiera_base_224", 224, {}, marks=pytest.mark.slow),
        pytest.param("hiera_base_abswin_256", 256, {}, marks=pytest.mark.slow),
    ],
)
def test_logits_and_maps_equal_timms(name, size, changes, tmp_path):
    theirs = make_timm(name, **changes)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    ours = make_ours("hiera_tiny_224" if changes else "hiera_base_224", size, num_classes=7)
    report = hv.load_weights(ours, tmp_path / "model.safetensors")
    assert not (report.missing or report.unexpected or report.resized)
    assert report.format == ("timm abswin" if "abswin" in name else "timm")
    image = torch.randn(2, 3, size, size)
    with torch.no_grad():
        logits, maps = ours(image, return_intermediates=True)
        assert_close(f"timm {name} {size} logits", logits, theirs(image))
        expected = theirs.forward_intermediates(image, intermediates_only=True, output_fmt="NHWC")
        for stage, (one, two) in enumerate(zip(maps, expected, strict=True), 1):
            assert_close(f"timm {name} {size} stage {stage}", one, two, limit=1e-4)


@pytest.mark.parametrize("size", [64, 96])
def test_a_model_with_two_tables_equals_timms_and_loads_its_weights(size, tmp_path):
    theirs = make_timm("hiera_base_abswin_256", img_size=size, **SMALL)
    torch.save({"model": theirs.state_dict(), "epoch": 3}, tmp_path / "timm.pth")
    ours = make_ours(size=size, num_classes=7, pos_embed_window=True)
    report = hv.load_weights(ours, tmp_path / "timm.pth")
    assert not (report.missing or report.unexpected or report.resized)
    image = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert_close(f"timm abswin {size} in two tables", ours(image), theirs(image))
    loss = ours(image).square().sum()
    loss.backward()
    assert ours.pos_embed_window.grad.abs().sum() > 0 and ours.pos_embed_global.grad.abs().sum() > 0
    assert {"pos_embed_window", "pos_embed_global"} == ours.no_weight_decay()


def test_two_tables_become_one_of_a_video_model_and_not_the_other_way(tmp_path):
    ours = randomize(make_ours(num_classes=7, pos_embed_window=True))
    torch.save(ours.state_dict(), tmp_path / "two.pth")
    plain = make_ours(num_classes=7)
    hv.load_weights(plain, tmp_path / "two.pth")
    image = torch.randn(1, 3, 64, 64)
    video = image[:, :, None].expand(-1, -1, 4, -1, -1)
    clip_model = hv.build_model("hiera_tiny_16x224", input_size=(4, 64, 64), num_classes=7, num_heads=1, **SMALL).eval()
    two_tables = {"num_heads": 1, "pos_embed_window": True, **SMALL}
    clip_two = hv.build_model("hiera_tiny_16x224", input_size=(4, 64, 64), num_classes=7, **two_tables).eval()
    with torch.no_grad():
        assert_close("one table", plain(image), ours(image))
        for model in (clip_model, clip_two):
            report = hv.load_weights(model, tmp_path / "two.pth")
            assert not report.missing and not report.unexpected
            assert_close("a still video", model(video), ours(image))
    torch.save(plain.state_dict(), tmp_path / "one.pth")
    with pytest.raises(ValueError, match="cannot be parted exactly"):
        hv.load_weights(ours, tmp_path / "one.pth")


def test_blocks_that_widen_without_a_layer_are_refused(tmp_path):
    theirs = timm.create_model("hiera_small_abswin_256", num_classes=7, img_size=64, **SMALL)
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")
    with pytest.raises(ValueError, match=r"timm\.pth: blocks\.1 widens from 16 to 32 channels without .*small_abswin"):
        hv.load_weights(make_ours(num_classes=7), tmp_path / "timm.pth")


SAM2 = {"embed_dim": 16, "stages": (1, 2, 3, 1), "global_att_blocks": (4,), "global_pos_size": (7, 7)}


def make_sam2(**changes):
    torch.manual_seed(0)
    return randomize(timm.create_model("sam2_hiera_tiny", num_classes=0, **(SAM2 | changes)))


def to_sam2_names(state):
    """As facebookresearch/sam2 saves it, beside what is not the image encoder's trunk."""
    names = {
        f"image_encoder.trunk.{name.replace('mlp.fc1', 'mlp.layers.0').replace('mlp.fc2', 'mlp.layers.1')}": value
        for name, value in state.items()
        if not name.startswith("head.")
    }
    return {"model": names | {"memory_attention.norm.weight": torch.ones(3), "no_mem_embed": torch.ones(1)}}


@pytest.mark.parametrize("is_original", [True, False])
@pytest.mark.parametrize("window", [14, pytest.param(16, marks=pytest.mark.slow)])
def test_maps_equal_sam2s_where_a_window_covers_the_image(window, is_original, tmp_path):
    large = {"embed_dim": 144, "num_heads": 2, "stages": (1, 1, 2, 1), "window_spec": (8, 4, 16, 8)}
    large["global_att_blocks"] = (3,)
    theirs = make_sam2(**(large if window == 16 else {}))
    torch.save(to_sam2_names(theirs.state_dict()) if is_original else theirs.state_dict(), tmp_path / "sam2.pt")
    size = 16 * window
    arguments = {"embed_dim": 144, "num_heads": 2, "stages": (1, 1, 2, 1)}
    arguments = arguments if window == 16 else {"embed_dim": 16, "num_heads": 1, "stages": (1, 2, 3, 1)}
    ours = make_ours(size=size, num_classes=7, **arguments)
    report = hv.load_weights(ours, tmp_path / "sam2.pt")
    assert report.format == "sam2"
    assert set(report.missing) == {"norm.weight", "norm.bias", "head.projection.weight", "head.projection.bias"}
    image = torch.randn(1, 3, size, size)
    with torch.no_grad():
        expected = theirs.forward_intermediates(image, intermediates_only=True, output_fmt="NHWC")
        for stage, (one, two) in enumerate(zip(ours.forward_maps(image), expected, strict=True), 1):
            assert_close(f"sam2 window {window} stage {stage}", one, two, limit=1e-4)


@pytest.mark.parametrize("size", [64, 448])
def test_sam2_at_another_size_is_refused(size, tmp_path):
    torch.save(to_sam2_names(make_sam2().state_dict()), tmp_path / "sam2.pt")
    ours = hv.build_model("hiera_tiny_224", input_size=(size, size), embed_dim=16, stages=(1, 2, 3, 1))
    with pytest.raises(ValueError, match=r"sam2\.pt is SAM2's: .* only at 224 x 224 px.*ATTN_WINDOW_UNITS \[7, 7\]"):
        hv.load_weights(ours, tmp_path / "sam2.pt")


@pytest.mark.parametrize("num_frames", [None, 4])
def test_maps_equal_sam2s_at_several_windows_a_side(num_frames, tmp_path):
    """Windows of 7 x 7 mask units, one block global; a still video gives the image's maps."""
    theirs = make_sam2()
    torch.save(to_sam2_names(theirs.state_dict()), tmp_path / "sam2.pt")
    arguments = {"embed_dim": 16, "num_heads": 1, "stages": (1, 2, 3, 1), "attn_window_units": (7, 7)}
    size, name = ((448, 448), "hiera_tiny_224") if num_frames is None else ((4, 448, 448), "hiera_tiny_16x224")
    ours = hv.build_model(name, input_size=size, num_classes=7, global_blocks=SAM2["global_att_blocks"], **arguments)
    hv.load_weights(ours.eval(), tmp_path / "sam2.pt")
    image = torch.randn(1, 3, 448, 448)
    clip = image if num_frames is None else image[:, :, None].expand(-1, -1, num_frames, -1, -1)
    with torch.no_grad():
        expected = theirs.forward_intermediates(image, intermediates_only=True, output_fmt="NHWC")
        for stage, (one, two) in enumerate(zip(ours.forward_maps(clip), expected, strict=True), 1):
            two = two if num_frames is None else two[:, None].expand_as(one)
            assert_close(f"sam2 at 448 px, stage {stage}", one, two, limit=1e-4)
    if num_frames is None:
        with pytest.raises(ValueError, match="needs all 14 x 14 of them, got 98"):
            ours.encode(image, torch.arange(196)[None] < 98)


def test_windows_that_do_not_divide_the_grid_are_refused():
    with pytest.raises(ValueError, match=r"attn_window_units must be two divisors of .*\(7, 7\), got \(4, 4\)"):
        hv.build_model("hiera_tiny_224", attn_window_units=(4, 4))
    with pytest.raises(ValueError, match="mean something only with it"):
        hv.build_model("hiera_tiny_224", global_blocks=(1,))


def make_hf(tmp_path, *, is_mae=False, **changes):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    arguments = {"depths": [1, 2, 2, 1], "embed_dim": 16, "num_heads": [1, 2, 4, 8], "image_size": [64, 64]}
    decoder = {"num_query_pool": 2, "decoder_hidden_size": 32, "decoder_depth": 2, "decoder_num_heads": 4}
    names = {"id2label": {i: f"class {i}" for i in range(7)}, "label2id": {f"class {i}": i for i in range(7)}}
    config = transformers.HieraConfig(**(arguments | (decoder if is_mae else names) | changes))
    model = (transformers.HieraForPreTraining if is_mae else transformers.HieraForImageClassification)(config)
    randomize(model).save_pretrained(tmp_path / "hf")
    return model


@pytest.mark.parametrize("image_size", [[64, 64], [32, 96]])
def test_logits_and_maps_equal_hugging_faces(image_size, tmp_path):
    theirs = make_hf(tmp_path, image_size=image_size)
    ours = hv.build_model("hiera_tiny_224", input_size=image_size, num_classes=7, num_heads=1, **SMALL).eval()
    report = hv.load_weights(ours, tmp_path / "hf")
    assert report.format == "hf"
    assert not (report.missing or report.unexpected or report.resized)
    file = read_checkpoint_file(tmp_path / "hf")
    assert file.class_names[3] == "class 3" and file.tokens_grid == tuple(size // 4 for size in image_size)
    image = torch.randn(2, 3, *image_size)
    with torch.no_grad():
        logits, maps = ours(image, return_intermediates=True)
        result = theirs(image, output_hidden_states=True)
        assert_close("hf logits", logits, result.logits)
        for stage, (one, two) in enumerate(zip(maps, result.reshaped_hidden_states[1:], strict=True), 1):
            assert_close(f"hf stage {stage}", one, two, limit=1e-4)


def test_the_loss_equals_hugging_faces(tmp_path):
    theirs = make_hf(tmp_path, is_mae=True)
    decoder = {"decoder_embed_dim": 32, "decoder_depth": 2, "decoder_num_heads": 4}
    ours = make_ours("mae_hiera_tiny_224", **decoder)
    report = hv.load_weights(ours, tmp_path / "hf")
    assert not (report.missing or report.unexpected or report.resized)
    assert read_checkpoint_file(tmp_path / "hf").decoder_num_heads == 4
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs(image, noise=torch.rand(2, 4))
        mask = expected.bool_masked_pos
        units = mask.reshape(2, 4, 4)[:, ::2, ::2].flatten(1) if mask.shape[1] == 16 else mask
        loss, *_ = ours(image, mask=units)
    assert_close("hf loss", loss[None].repeat(2) * torch.tensor([1.0, 2.0]), expected.loss * torch.tensor([1.0, 2.0]))
    other = make_ours("mae_hiera_tiny_224", **{**decoder, "decoder_num_heads": 2})
    with pytest.raises(ValueError, match=r"decoder of 4 heads, the model one of 2; set MAE.DECODER_NUM_HEADS 4"):
        hv.load_weights(other, tmp_path / "hf")


@pytest.mark.parametrize("target", ["hf", "timm", "released"])
@pytest.mark.parametrize("name", ["hiera_tiny_224", "mae_hiera_tiny_224"])
def test_names_go_there_and_back(name, target):
    state = make_ours(name).state_dict()
    if target == "timm" and name.startswith("mae_"):
        return  # timm has no autoencoder
    there = to_other_names(state, target)
    kind, back = to_our_names(there)
    assert kind == recognize_format(there) == {"released": "hiera"}.get(target, target)
    assert list(back) == list(state) and all(torch.equal(back[key], state[key]) for key in state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": {f"model.backbone.{k}": v for k, v in state.items()}},
        lambda state: {"model": {f"module._orig_mod.{k}": v for k, v in state.items()}},
        lambda state: {"model_state": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {f"backbone.{k}": v for k, v in state.items()},
    ],
)
def test_nested_keys_and_prefixes_are_taken_off(wrap, tmp_path):
    state = make_ours(num_classes=7).state_dict()
    torch.save(wrap(state), tmp_path / "w.pth")
    file = read_checkpoint_file(tmp_path / "w.pth")
    assert list(file.weights) == list(state)


def test_a_folder_without_weights_and_a_broken_config_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is a folder, and holds neither model\.safetensors nor"):
        read_checkpoint_file(tmp_path)
    make_hf(tmp_path)
    (tmp_path / "hf" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json is no config of a Hiera: KeyError: 'image_size'"):
        read_checkpoint_file(tmp_path / "hf")

import functools
import http.server
import logging
import pickle
import threading

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

from hiera_video.models import Hiera, HieraMAE, build_model, load_weights
from hiera_video.models.position_embeddings import resize_by_windows, resize_table
from hiera_video.models.targets import unpatchify
from hiera_video.models.weights import LoadReport

hiera = pytest.importorskip("hiera")

SMALL = {"embed_dim": 16, "num_heads": 1, "stages": (1, 1, 1, 1)}
VIDEO = {
    "q_stride": (1, 2, 2),
    "mask_unit_size": (1, 8, 8),
    "patch_kernel": (3, 7, 7),
    "patch_stride": (2, 4, 4),
    "patch_padding": (1, 3, 3),
    "sep_pos_embed": True,
}


def make_video_model(size=(4, 64, 64), num_classes=5, **overrides):
    return Hiera(input_size=size, num_classes=num_classes, **(VIDEO | SMALL | overrides))


def make_image_model(size=(64, 64), num_classes=5, **overrides):
    return Hiera(input_size=size, num_classes=num_classes, **(SMALL | overrides))


def make_released_state(kind="video", num_classes=5):
    torch.manual_seed(1)
    size, extra = ((4, 64, 64), VIDEO) if kind == "video" else ((64, 64), {})
    model = hiera.Hiera(input_size=size, num_classes=num_classes, **SMALL, **extra)
    for value in model.parameters():
        torch.nn.init.normal_(value, std=0.1)
    return model.state_dict()


def save(content, path):
    torch.save(content, path)
    return path


@pytest.mark.parametrize("form", ["released", "ours", "bare", "ddp and compiled", "safetensors"])
def test_every_form_of_file_gives_the_same_weights(form, tmp_path):
    state = make_released_state()
    path = tmp_path / "weights.pth"
    if form == "released":
        save({"model_state": state}, path)
    elif form == "ours":
        save({"epoch": 3, "cfg": "A: 1\n", "model_state": state, "optimizer_state": {"state": {}}}, path)
    elif form == "bare":
        save(state, path)
    elif form == "ddp and compiled":
        save({"model_state": {f"module._orig_mod.{k}": v for k, v in state.items()}}, path)
    else:
        path = tmp_path / "weights.safetensors"
        safetensors.torch.save_file(state, path)
    model = make_video_model()
    report = load_weights(model, path)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert report == LoadReport(str(path), loaded=list(state))
    assert str(report) == f"{path}: loaded {len(state)} of {len(state)} tensors"


def test_weights_by_url(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "served").mkdir()
    state = make_released_state()
    save({"model_state": state}, tmp_path / "served" / "weights.pth")
    handler = functools.partial(_QuietHandler, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        model = make_video_model()
        report = load_weights(model, f"{url}/weights.pth")
        with pytest.raises(OSError, match=r"/missing\.pth: cannot be fetched"):
            load_weights(model, f"{url}/missing.pth")
        server.shutdown()
    assert report.source == f"{url}/weights.pth" and not report.missing
    assert torch.equal(model.norm.weight, state["norm.weight"])


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_a_head_of_another_class_count_is_dropped_with_a_warning(tmp_path, caplog):
    path = save({"model_state": make_released_state(num_classes=9)}, tmp_path / "w.pth")
    model = make_video_model()
    before = model.head.projection.weight.clone()
    logging.getLogger("hiera_video").propagate = True
    with caplog.at_level(logging.WARNING, logger="hiera_video"):
        report = load_weights(model, path)
    head = ["head.projection.weight", "head.projection.bias"]
    assert report.dropped == head and sorted(report.missing) == sorted(head) and not report.unexpected
    assert torch.equal(model.head.projection.weight, before)
    assert "head for 9 classes dropped, the model has 5" in caplog.text
    assert "dropped: head.projection.weight" in str(report)


def test_position_embeddings_are_resized_in_space_and_time(tmp_path):
    state = make_released_state()
    model = make_video_model(size=(8, 96, 64))
    report = load_weights(model, save({"model_state": state}, tmp_path / "w.pth"))
    assert report.resized == ["pos_embed_spatial", "pos_embed_temporal"]
    spatial = state["pos_embed_spatial"].view(1, 16, 16, 16).permute(0, 3, 1, 2)
    spatial = F.interpolate(spatial, size=(24, 16), mode="bicubic", antialias=True)
    spatial = spatial.permute(0, 2, 3, 1).reshape(1, 24 * 16, 16)
    temporal = state["pos_embed_temporal"].transpose(1, 2)
    temporal = F.interpolate(temporal, size=4, mode="linear").transpose(1, 2)
    torch.testing.assert_close(model.pos_embed_spatial, spatial, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.pos_embed_temporal, temporal)
    assert torch.equal(model.norm.weight, state["norm.weight"])


@pytest.mark.parametrize("size", [(96, 96), (32, 32), (32, 96)])
def test_a_table_that_is_a_plane_stays_that_plane_when_resized(size, tmp_path):
    """Checks axes and alignment: a linear function of the position is kept by linear and bicubic interpolation."""

    def make_plane(height, width):
        y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        return (3 * y - x)[None, ..., None].expand(1, height, width, 16)

    state = make_released_state("image")
    state["pos_embed"] = make_plane(16, 16).flatten(1, 2).clone()
    model = make_image_model(size=size)
    report = load_weights(model, save(state, tmp_path / "w.pth"))
    assert report.resized == ["pos_embed"]
    got = model.pos_embed.detach().view(1, size[0] // 4, size[1] // 4, 16)
    inner = (slice(None), slice(2, -2), slice(2, -2))  # the interpolation levels off at the border
    torch.testing.assert_close(got[inner], make_plane(size[0] // 4, size[1] // 4)[inner], atol=2e-2, rtol=0)


def test_a_joint_table_of_a_video_model_is_resized_with_its_grid(tmp_path):
    source = make_video_model(size=(4, 64, 96), sep_pos_embed=False)
    with torch.no_grad():
        source.pos_embed.copy_(torch.linspace(0, 1, 2)[:, None].expand(2, 16 * 24).reshape(1, -1, 1))
    path = save(source.state_dict(), tmp_path / "w.pth")
    model = make_video_model(size=(8, 64, 64), sep_pos_embed=False)
    with pytest.raises(ValueError, match=r"pos_embed has 768 tokens of an unknown grid.*pass source_grid"):
        load_weights(model, path)
    load_weights(model, path, source_grid=source.tokens_grid)
    per_frame = model.pos_embed.view(4, 16 * 16, 16)
    expected = torch.tensor([0.0, 0.25, 0.75, 1.0])[:, None, None].expand_as(per_frame)
    torch.testing.assert_close(per_frame.detach(), expected, atol=1e-5, rtol=0)


def test_a_grid_that_is_not_square_is_given_or_carried(tmp_path):
    source = make_video_model(size=(4, 64, 96))
    state = source.state_dict()
    path = save({"model_state": state}, tmp_path / "w.pth")
    model = make_video_model(size=(4, 96, 96))
    before = model.norm.weight.clone().fill_(3.0)
    torch.nn.init.constant_(model.norm.weight, 3.0)
    with pytest.raises(ValueError, match=r"pos_embed_spatial has 384 tokens.*\(24, 24\); pass source_grid"):
        load_weights(model, path)
    assert torch.equal(model.norm.weight, before)  # an error leaves the model alone
    with pytest.raises(ValueError, match=r"source_grid \(2, 16, 16\) does not fit"):
        load_weights(model, path, source_grid=(2, 16, 16))
    given = load_weights(model, path, source_grid=source.tokens_grid)
    from_argument = model.pos_embed_spatial.clone()
    carried = save({"model_state": state, "tokens_grid": source.tokens_grid}, tmp_path / "carried.pth")
    report = load_weights(model, carried)
    assert given.resized == report.resized == ["pos_embed_spatial"]
    assert torch.equal(model.pos_embed_spatial, from_argument)


def test_a_table_of_equal_length_but_another_grid_is_resized_when_the_grid_is_known(tmp_path):
    source = make_video_model(size=(4, 32, 128))
    path = save({"model_state": source.state_dict(), "tokens_grid": source.tokens_grid}, tmp_path / "w.pth")
    assert load_weights(make_video_model(size=(4, 64, 64)), path).resized == ["pos_embed_spatial"]


@pytest.mark.parametrize("num_frames", [2, 4, 8])
def test_a_still_video_gives_the_image_models_features(num_frames, tmp_path):
    image_model = make_image_model(num_classes=7)
    image_model.load_state_dict(make_released_state("image", num_classes=7))
    path = save({"model_state": image_model.state_dict()}, tmp_path / "w.pth")
    model = make_video_model(size=(num_frames, 64, 64))
    report = load_weights(model, path)
    assert report.inflated == ["patch_embed.proj.weight", "pos_embed_spatial", "pos_embed_temporal"]
    assert report.dropped and not report.unexpected
    image = torch.randn(2, 3, 64, 64)
    video = image[:, :, None].expand(-1, -1, num_frames, -1, -1)
    with torch.no_grad():
        torch.testing.assert_close(
            model.forward_features(video), image_model.forward_features(image), atol=1e-5, rtol=1e-5
        )
        for clip_map, image_map in zip(model(video, return_intermediates=True)[1],
                                       image_model(image, return_intermediates=True)[1], strict=True):  # fmt: skip
            torch.testing.assert_close(clip_map, image_map[:, None].expand_as(clip_map), atol=1e-4, rtol=1e-4)
    weight = model.patch_embed.proj.weight
    assert torch.equal(weight[:, :, 0], torch.zeros_like(weight[:, :, 0]))  # spread evenly over the token's two frames
    assert torch.equal(weight[:, :, 1], weight[:, :, 2])


def test_an_image_checkpoint_is_inflated_and_resized_at_once(tmp_path):
    path = save({"model_state": make_released_state("image")}, tmp_path / "w.pth")
    model = make_video_model(size=(4, 96, 96))
    for grid in (None, (16, 16)):
        report = load_weights(model, path, source_grid=grid)
        assert report.resized == ["pos_embed_spatial"]
        assert (model.pos_embed_temporal == 0).all() and not report.missing


def test_the_decoder_of_an_mae_checkpoint_is_left_out(tmp_path):
    mae = hiera.hiera_mae.MaskedAutoencoderHiera(
        input_size=(4, 64, 64), q_pool=2, decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2, **SMALL, **VIDEO
    )
    state = mae.state_dict()
    model = make_video_model()
    report = load_weights(model, save({"model_state": state}, tmp_path / "mae.pth"))
    assert set(report.missing) == {"norm.weight", "norm.bias", "head.projection.weight", "head.projection.bias"}
    assert not report.unexpected and not report.dropped
    assert set(report.loaded) | set(report.dropped_decoder) == set(state)
    assert "mask_token" in report.dropped_decoder and "encoder_norm.weight" in report.dropped_decoder
    assert f"dropped: {len(report.dropped_decoder)} tensors of the MAE decoder" in str(report)


DECODER = {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2}


def make_mae(kind="video", size=(4, 64, 64), **changes):
    """With weights none of which is zero or one, so that nothing hides behind them."""
    torch.manual_seed(3)
    arguments = {"q_pool": 2, **DECODER, **SMALL, **(VIDEO if kind == "video" else {}), **changes}
    model = HieraMAE(input_size=size, **arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


@pytest.mark.parametrize("size", [(4, 64, 64), (8, 96, 96), (32, 64, 64), (4, 288, 288), (16, 64, 128)])
def test_mae_weights_load_at_any_size(size, tmp_path):
    source = make_mae()
    path = save({"model_state": source.state_dict()}, tmp_path / "mae.pth")
    model = make_mae(size=size)
    report = load_weights(model, path)
    assert not (report.missing or report.unexpected or report.dropped_decoder)
    assert ("decoder_pos_embed" in report.resized) == (size != (4, 64, 64))
    expected = resize_table(source.decoder_pos_embed, source.pred_grid, model.pred_grid)
    assert torch.equal(model.decoder_pos_embed, expected)
    for name, grid in model.pos_embed_grids.items():
        assert torch.equal(
            getattr(model, name), resize_table(getattr(source, name), source.pos_embed_grids[name], grid)
        )
    video = torch.randn(1, 3, *size)
    assert model(video, mask_ratio=0.5)[0].isfinite()


@pytest.mark.parametrize("num_frames", [2, 4, 8])
def test_a_still_video_gives_the_image_autoencoders_predictions(num_frames, tmp_path):
    """With a tube mask each frame of tokens sees what the image's tokens see, and predicts the same patches."""
    image_model = make_mae("image", size=(64, 64))
    path = save({"model_state": image_model.state_dict()}, tmp_path / "mae.pth")
    model = make_mae(size=(num_frames, 64, 64))
    report = load_weights(model, path)
    assert {"decoder_pos_embed", "decoder_pred.weight", "multi_scale_fusion_heads.0.weight"} <= set(report.inflated)
    assert not (report.missing or report.unexpected or report.dropped_decoder or report.resized)
    image = torch.randn(2, 3, 64, 64)
    video = image[:, :, None].expand(-1, -1, num_frames, -1, -1)
    mask = torch.tensor([[True, False, False, True], [False, True, False, False]])[:1].expand(2, -1)
    with torch.no_grad():
        expected_loss, *_ = image_model(image, mask=mask)
        loss, *_ = model(video, mask=mask.repeat(1, num_frames // 2))
        image_pred, image_hidden = image_model.reconstruct(image, mask)
        pred, hidden = model.reconstruct(video, mask.repeat(1, num_frames // 2))
    torch.testing.assert_close(loss, expected_loss, atol=1e-5, rtol=1e-5)
    still = unpatchify(pred, model.pred_stride)  # (B, C, T', H, W)
    painted = unpatchify(image_pred, image_model.pred_stride)[:, :, None].expand_as(still)
    torch.testing.assert_close(still, painted, atol=1e-4, rtol=1e-4)
    assert image_hidden.any() and torch.equal(hidden, image_hidden[:, None].expand_as(hidden))


def test_image_mae_weights_load_into_a_larger_video_model(tmp_path):
    source, model = make_mae("image", size=(64, 64)), make_mae(size=(8, 96, 96))
    report = load_weights(model, save({"model_state": source.state_dict()}, tmp_path / "mae.pth"))
    assert set(report.resized) == {"pos_embed_spatial", "decoder_pos_embed"} and not report.missing
    assert torch.equal(model.pos_embed_spatial, resize_table(source.pos_embed, (16, 16), (24, 24)))
    still = resize_table(source.decoder_pos_embed, source.pred_grid, model.pred_grid[1:])  # one frame of tokens
    torch.testing.assert_close(model.decoder_pos_embed, still.repeat(1, model.pred_grid[0], 1))


def test_a_decoder_that_nobody_needs_is_ignored_whatever_its_shape(tmp_path):
    """As in extraction from weights of pre-training, whose decoder is of another width."""
    source = make_mae(decoder_embed_dim=48)
    path = save({"model_state": source.state_dict()}, tmp_path / "mae.pth")
    model = make_mae()
    unused = ("decoder_", "mask_token", "multi_scale_fusion_heads.")
    report = load_weights(model, path, ignore=unused)
    assert not (report.missing or report.unexpected) and "mask_token" in report.ignored
    video = torch.randn(1, 3, 4, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(video), source.forward_features(video))
    encoder_only = {name: value for name, value in source.state_dict().items() if not name.startswith(unused)}
    assert not load_weights(model, save(encoder_only, tmp_path / "encoder.pth"), ignore=unused).missing


@pytest.mark.parametrize("heads", [None, 4, 2])
def test_decoder_heads_travel_with_the_file(heads, tmp_path, caplog):
    source = make_mae()
    content = {"model_state": source.state_dict()} | ({} if heads is None else {"decoder_num_heads": heads})
    path, model = save(content, tmp_path / "mae.pth"), make_mae()
    if heads == 4:
        with pytest.raises(ValueError, match=r"decoder of 4 heads, the model one of 2; set MAE\.DECODER_NUM_HEADS 4"):
            load_weights(model, path)
        return
    load_weights(model, path)
    assert ("does not say how many heads its decoder has; the model takes 2" in caplog.text) == (heads is None)


def test_weights_that_fill_little_of_the_encoder_are_refused_with_what_they_seem_to_be(tmp_path):
    state = {name: value for name, value in make_released_state().items() if not name.startswith("blocks.3.")}
    path, model = save(state, tmp_path / "w.pth"), make_video_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    message = (
        r"fills \d+\.\d% of the encoder, less than 90%: missing blocks\.3\..*the file seems to be a Hiera for videos"
    )
    with pytest.raises(ValueError, match=message + r".*TRAIN\.ALLOW_PARTIAL True"):
        load_weights(model, path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert load_weights(model, path, allow_partial=True).missing


@pytest.mark.parametrize("kind", ["bicubic", "absolute_win"])
def test_position_embeddings_are_resized_as_asked(kind, tmp_path):
    source = make_video_model(size=(4, 64, 64))
    path = save({"model_state": source.state_dict()}, tmp_path / "w.pth")
    model = make_video_model(size=(4, 128, 128))
    assert load_weights(model, path, pos_embed_resize=kind).resized == ["pos_embed_spatial"]
    resize = resize_table if kind == "bicubic" else functools.partial(resize_by_windows, window=(8, 8))
    expected = resize(source.pos_embed_spatial, (16, 16), (32, 32))
    torch.testing.assert_close(model.pos_embed_spatial, expected)
    same = make_video_model(size=(4, 64, 64))
    assert not load_weights(same, path, pos_embed_resize=kind).resized
    assert torch.equal(same.pos_embed_spatial, source.pos_embed_spatial)
    with pytest.raises(ValueError, match="pos_embed_resize must be one of bicubic, absolute_win, got 'nearest'"):
        load_weights(model, path, pos_embed_resize="nearest")


def test_missing_and_unexpected_names_are_reported(tmp_path):
    state = make_released_state()
    state["extra"] = state.pop("norm.bias")
    report = load_weights(make_video_model(), save(state, tmp_path / "w.pth"))
    assert report.missing == ["norm.bias"] and report.unexpected == ["extra"]
    assert "missing: norm.bias" in str(report) and "unexpected: extra" in str(report)


def test_another_shape_names_the_tensor_and_both_shapes(tmp_path):
    path = save(make_released_state(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth: pos_embed_spatial has shape \(1, 256, 16\).* \(1, 256, 32\)"):
        load_weights(make_video_model(embed_dim=32), path)
    with pytest.raises(ValueError, match=r"patch_embed\.proj\.weight has shape .* the model needs"):
        load_weights(make_image_model(), path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused_by_name_and_nothing_is_loaded(value, tmp_path):
    state = make_released_state()
    state["norm.bias"][3] = value
    path, model = save(state, tmp_path / "w.pth"), make_video_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"w\.pth: norm\.bias has values that are not finite"):
        load_weights(model, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class _Trap:
    def __reduce__(self):
        return print, ("unsafe code ran",)


@pytest.mark.parametrize("kind", ["text", "empty", "cut", "unsafe", "unsafe old", "no tensors", "not a dict", "other"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_checkpoint_is_refused_by_name_and_never_run(kind, suffix, tmp_path, capsys):
    path = tmp_path / f"file{suffix}"
    if kind == "text":
        path.write_text("hello")
    elif kind == "empty":
        path.touch()
    elif kind == "unsafe old":
        path.write_bytes(pickle.dumps({"model_state": _Trap()}))
    else:
        contents = {
            "cut": make_released_state(),
            "unsafe": {"model_state": make_released_state(), "trap": _Trap()},
            "no tensors": {"model_state": {"a": 1}},
            "not a dict": [torch.zeros(1)],
            "other": {"fc.weight": torch.zeros(1)},
        }
        save(contents[kind], path)
        if kind == "cut":
            path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=rf"file\{suffix} (is no checkpoint|holds no)"):
        load_weights(make_video_model(), path)
    assert "unsafe code ran" not in capsys.readouterr().out


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth: no such file"):
        load_weights(make_video_model(), tmp_path / "nowhere.pth")


@pytest.mark.parametrize("name", ["hiera_tiny_224", "hiera_tiny_16x224"])
def test_a_named_model_loads_a_file_like_the_released_ones(name, tmp_path):
    extra = {} if name.endswith("_224") and "16x" not in name else VIDEO | {"input_size": (16, 224, 224)}
    released = hiera.Hiera(embed_dim=96, num_heads=1, stages=(1, 2, 7, 2), num_classes=400, **extra)
    path = save({"model_state": released.state_dict()}, tmp_path / "released.pth")
    model = build_model(name, num_classes=400)
    report = load_weights(model, path)
    assert not (report.missing or report.unexpected or report.resized or report.dropped)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in released.state_dict().items())

import shutil

import pytest
import torch
from torch._dynamo.utils import counters
from torch.profiler import ProfilerActivity, profile
from waiting import NoWaiting

from hiera_video.models import build_model, layers, model_names
from hiera_video.models.hiera import Hiera

VIDEO = {
    "input_size": (4, 64, 64),
    "q_stride": (1, 2, 2),
    "mask_unit_size": (1, 8, 8),
    "patch_kernel": (3, 7, 7),
    "patch_stride": (2, 4, 4),
    "patch_padding": (1, 3, 3),
    "sep_pos_embed": True,
}
SMALL = {"embed_dim": 16, "num_heads": 1, "stages": (1, 2, 2, 1), "num_classes": 5}


def make_model(**overrides):
    torch.manual_seed(0)
    return Hiera(**(VIDEO | SMALL | {"head_init_scale": 1.0} | overrides))


def make_mask(batch=2, keep=3, units=8):
    return torch.rand(batch, units, generator=torch.Generator().manual_seed(1)).argsort(dim=1) < keep


def test_shapes_of_logits_features_and_maps():
    model = make_model()
    video = torch.randn(2, 3, 4, 64, 64)
    logits, maps = model(video, return_intermediates=True)
    assert logits.shape == (2, 5)
    assert model.forward_features(video).shape == (2, 128)
    assert [tuple(m.shape) for m in maps] == [
        (2, 2, 16, 16, 16), (2, 2, 8, 8, 32), (2, 2, 4, 4, 64), (2, 2, 2, 2, 128),
    ]  # fmt: skip
    tokens, maps = model.encode(video, make_mask())
    assert tokens.shape == (2, 3, 128)
    assert [tuple(m.shape) for m in maps] == [
        (2, 3, 1, 8, 8, 16), (2, 3, 1, 4, 4, 32), (2, 3, 1, 2, 2, 64), (2, 3, 1, 1, 1, 128),
    ]  # fmt: skip


def test_fewer_poolings_for_mae_leave_a_map_per_mask_unit():
    model = make_model(q_pool=2)
    tokens, maps = model.encode(torch.randn(2, 3, 4, 64, 64), make_mask())
    assert tokens.shape == (2, 3 * 4, 128)
    assert [tuple(m.shape[2:]) for m in maps] == [(1, 8, 8, 16), (1, 4, 4, 32), (1, 2, 2, 64), (1, 2, 2, 128)]
    assert torch.equal(maps[-1].flatten(1, 4), tokens)


def test_logits_are_the_same_in_train_and_eval_and_come_from_the_features():
    model = make_model().train()
    video = torch.randn(2, 3, 4, 64, 64)
    train = model(video)
    torch.testing.assert_close(model.eval()(video), train)
    torch.testing.assert_close(model.head(model.forward_features(video)), train)


def test_maps_are_in_spatial_order():
    """With global attention switched off a change of one mask unit's pixels shows at its own place alone."""
    model = make_model(mask_unit_attn=(True, True, True, True), q_pool=2).eval()
    video = torch.randn(1, 3, 4, 64, 64)
    changed = video.clone()
    changed[:, :, 2:, 40:56, 8:24] += 1.0  # inside the unit at t 1, h 1, w 0; too far from its sides to leak
    with torch.no_grad():
        for before, after in zip(model(video, return_intermediates=True)[1],
                                 model(changed, return_intermediates=True)[1], strict=True):  # fmt: skip
            differs = (before != after).any(dim=-1)[0]
            t, h, w = differs.shape
            assert differs[t // 2 :, h // 2 :, : w // 2].any()
            differs[t // 2 :, h // 2 :, : w // 2] = False
            if t > 1:
                differs[: t // 2, h // 2 :, : w // 2] = False  # the patch kernel also sees the frame before
            assert not differs.any()


def test_hidden_pixels_do_not_leak():
    model = make_model().eval()
    mask = make_mask(batch=1)
    video = torch.randn(1, 3, 4, 64, 64)
    hidden = ~mask.view(1, 1, 2, 2, 2).repeat_interleave(2, 2).repeat_interleave(32, 3).repeat_interleave(32, 4)
    other = torch.where(hidden, torch.randn(video.shape) * 100, video)
    nan = torch.where(hidden, torch.nan, video)
    with torch.no_grad():
        expected = model.encode(video, mask)[0]
        assert torch.equal(model.encode(other, mask)[0], expected)
        assert torch.equal(model.encode(nan, mask)[0], expected)
        assert not torch.equal(model.encode(video * 1.1, mask)[0], expected)


@pytest.mark.parametrize("size", [(32, 224, 224), (16, 288, 288), (8, 64, 64), (2, 32, 96)])
def test_other_input_sizes(size):
    model = make_model(input_size=size, embed_dim=8, stages=(1, 1, 1, 1))
    with torch.no_grad():
        _, maps = model(torch.randn(1, 3, *size), return_intermediates=True)
    assert maps[-1].shape[1:4] == (size[0] // 2, size[1] // 32, size[2] // 32)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"input_size": (16, 230, 224)}, r"multiple of \(2, 32, 32\).*\(16, 224, 224\), \(16, 256, 224\)"),
        ({"input_size": (15, 224, 224)}, r"\(14, 224, 224\), \(16, 224, 224\)"),
        ({"input_size": (1, 20, 64)}, r"legal sizes nearby: \(2, 32, 64\)$"),
        ({"input_size": (64, 64)}, "sep_pos_embed needs"),
        ({"input_size": (64, 64), "sep_pos_embed": False}, "must have 2 values"),
        ({"input_size": (2, 2, 64, 64)}, r"input_size must be \(T, H, W\)"),
        ({"q_pool": 4}, r"q_pool must be in \[0, 4\)"),
        ({"mask_unit_size": (1, 4, 4)}, r"mask_unit_size must be a multiple of .*\(1, 8, 8\)"),
        ({"mask_unit_attn": (True, False)}, "one value per stage"),
        ({"norm_layer": "LayrNorm"}, "norm_layer"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        make_model(**overrides)


@pytest.mark.parametrize(
    "video",
    [
        torch.zeros(1, 3, 4, 64, 32),
        torch.zeros(1, 3, 8, 64, 64),
        torch.zeros(1, 1, 4, 64, 64),
        torch.zeros(3, 4, 64, 64),
        torch.zeros(1, 3, 4, 64, 64, dtype=torch.uint8),
    ],
)
def test_a_video_of_another_shape_or_dtype_is_refused(video):
    with pytest.raises(ValueError, match=r"float tensor of shape \(batch, 3, 4, 64, 64\)"):
        make_model()(video)


def test_a_wrong_mask_is_refused():
    with pytest.raises(ValueError, match=r"shape \(batch, mask units\) = \(2, 8\)"):
        make_model().encode(torch.zeros(2, 3, 4, 64, 64), torch.ones(1, 8, dtype=torch.bool))


@pytest.mark.parametrize("autocast", [False, True])
def test_attention_reaches_the_fused_kernel(autocast, monkeypatch):
    monkeypatch.setattr(layers, "_MAX_PLAIN_TOKENS", 0)  # windows of any length
    model = make_model().train()
    video = torch.randn(2, 3, 4, 64, 64)
    for mask in (None, make_mask()):
        with profile(activities=[ProfilerActivity.CPU]) as prof:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                out = model(video) if mask is None else model.encode(video, mask)[0]
            out.sum().backward()
        count = {event.key: event.count for event in prof.key_averages()}
        assert count["aten::_scaled_dot_product_flash_attention_for_cpu"] == len(model.blocks)
        assert count["aten::_scaled_dot_product_flash_attention_for_cpu_backward"] == len(model.blocks)
        assert not any("attention_math" in key for key in count)


def test_bfloat16_autocast_is_close_and_gives_float32_gradients():
    model = make_model().train()
    video = torch.randn(2, 3, 4, 64, 64)
    expected = model(video)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(video)
    assert logits.dtype == torch.bfloat16
    assert 0 < (logits - expected).abs().max() < 0.03 * expected.abs().max()
    logits.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_activation_checkpointing_gives_the_same_gradients():
    video = torch.randn(2, 3, 4, 64, 64)
    grads = []
    for checkpointing in (False, True):
        model = make_model(activation_checkpointing=checkpointing, drop_path_rate=0.5, head_dropout=0.2).train()
        torch.manual_seed(7)
        model(video).square().sum().backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_activation_checkpointing_keeps_less():
    def count_saved(checkpointing):
        sizes = []
        model = make_model(activation_checkpointing=checkpointing).train()
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t)
        with hooks:
            model(torch.randn(1, 3, 4, 64, 64))
        return sum(sizes)

    assert count_saved(True) < 0.3 * count_saved(False)


def test_head_dropout_and_drop_path_act_in_training_only():
    video = torch.randn(2, 3, 4, 64, 64)
    for overrides in ({"head_dropout": 0.5}, {"drop_path_rate": 0.5}):
        model = make_model(**overrides)
        with torch.no_grad():
            assert torch.equal(model.eval()(video), model(video))
            assert not torch.equal(model.train()(video), model(video))


def test_drop_path_grows_linearly():
    model = make_model(drop_path_rate=0.5)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in model.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_layer_ids_cover_every_parameter():
    model = make_model()
    ids = {name: model.get_layer_id(name) for name, _ in model.named_parameters()}
    assert set(ids.values()) == set(range(model.num_layers)) == set(range(8))
    assert ids["pos_embed_spatial"] == ids["pos_embed_temporal"] == ids["patch_embed.proj.weight"] == 0
    assert ids["blocks.0.norm1.weight"] == 1
    assert ids["blocks.5.mlp.fc2.bias"] == 6
    assert ids["norm.weight"] == ids["head.projection.bias"] == 7
    with pytest.raises(ValueError, match=r"blocks\.6\.norm1\.weight"):
        model.get_layer_id("blocks.6.norm1.weight")


def test_no_weight_decay_names_the_position_embeddings():
    assert make_model().no_weight_decay() == {"pos_embed_spatial", "pos_embed_temporal"}
    image = Hiera(input_size=(64, 64), **SMALL)
    assert image.no_weight_decay() == {"pos_embed"}
    assert image.no_weight_decay() <= dict(image.named_parameters()).keys()


def test_initial_weights():
    model = make_model(head_init_scale=0.001, embed_dim=32)
    for name, value in model.named_parameters():
        if name.startswith("head."):
            assert value.abs().max() < 1e-4
        elif "norm" in name and name.endswith("weight"):
            assert (value == 1).all()
        elif name.endswith("bias") and name != "patch_embed.proj.bias":
            assert (value == 0.02).all()
        elif value.numel() > 1000:
            assert value.std().item() == pytest.approx(0.02, rel=0.1), name
            assert value.abs().max() < 2


CLASSIFIERS = [name for name in model_names() if not name.startswith("mae_")]


def check_that_nothing_waits(name, **overrides):
    with torch.device("meta"):
        model = build_model(name, drop_path_rate=0.2, head_dropout=0.2, **overrides).train()
        video = torch.empty(2, 3, *model.input_size)
    with NoWaiting():
        model(video).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["hiera_tiny_224", "hiera_tiny_16x224"])
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_forward_and_backward_never_wait_for_the_device(name, activation_checkpointing):
    check_that_nothing_waits(name, activation_checkpointing=activation_checkpointing)


@pytest.mark.slow
def test_no_recipes_model_waits_for_the_device():
    for name in CLASSIFIERS:
        check_that_nothing_waits(name)
    check_that_nothing_waits("hiera_large_16x224", input_size=(32, 224, 224))


@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_the_model_is_one_graph_for_torch_compile(activation_checkpointing):
    torch.compiler.reset()
    model = make_model(stages=(1, 1, 1, 1), activation_checkpointing=activation_checkpointing).train()
    video = torch.randn(2, 3, 4, 64, 64)
    expected = model(video)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    counters.clear()
    got = compiled(video)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
    grads = [torch.autograd.grad(out.square().sum(), model.parameters()) for out in (expected, got)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5 * a.abs().max().item(), rtol=1e-4)
    compiled(torch.randn_like(video)).sum().backward()
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


@pytest.mark.slow
def test_a_model_of_full_size_is_one_graph_for_torch_compile():
    """Other widths and depths repeat the same blocks; `benchmarks/bench_model.py --compile` counts for any of them."""
    torch.compiler.reset()
    with torch.device("meta"):
        model = build_model("hiera_base_16x224", drop_path_rate=0.1).train()
        video = torch.empty(2, 3, *model.input_size)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    counters.clear()
    for _ in range(2):
        compiled(video).sum().backward()
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


def test_batches_of_other_sizes_share_one_more_graph():
    """The first size has a graph of its own, all others share the second, a batch of one clip has a third."""
    torch.compiler.reset()
    # torch computes convolutions of less than 20480 values in another way, for which it would make one more graph; on
    # some processors linear layers are convolutions.
    stages = {"stages": (1, 1), "q_pool": 1, "mask_unit_attn": (True, False)}
    model = make_model(**stages, embed_dim=64).eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    counters.clear()
    with torch.no_grad():
        for batch, graphs in ((4, 1), (4, 1), (3, 2), (2, 2), (5, 2), (4, 2), (1, 3)):
            video = torch.randn(batch, 3, 4, 64, 64)
            torch.testing.assert_close(compiled(video), model(video), atol=1e-6, rtol=1e-5)
            assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_torch_compile_gives_the_same_logits_and_gradients():
    torch.compiler.reset()
    model = make_model(stages=(1, 1), q_pool=1, mask_unit_attn=(True, False), embed_dim=8).train()
    video = torch.randn(2, 3, 4, 64, 64)
    counters.clear()
    got, expected = torch.compile(model, fullgraph=True)(video), model(video)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    grads = [torch.autograd.grad(out.square().sum(), model.parameters()) for out in (expected, got)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5 * a.abs().max().item(), rtol=1e-3)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


@pytest.mark.parametrize("head_type", ["mean", "attentive"])
def test_a_decision_from_some_mask_units_ignores_all_other_pixels(head_type):
    model = make_model(head_type=head_type).eval()
    video = torch.randn(2, 3, 4, 64, 64)
    with torch.no_grad():
        every = torch.arange(model.num_mask_units).expand(2, -1)
        torch.testing.assert_close(model.classify_units(video, every), model(video))
        visible = torch.tensor([[0, 3, 5], [1, 2, 7]])  # of 2 x 2 x 2 units of 2 x 32 x 32 pixels
        hidden = torch.ones(2, 1, 2, 2, 2, dtype=torch.bool)
        for sample, units in enumerate(visible.tolist()):
            for unit in units:
                hidden[sample, 0, unit // 4, unit // 2 % 2, unit % 2] = False
        hidden = hidden.repeat_interleave(2, 2).repeat_interleave(32, 3).repeat_interleave(32, 4)
        logits = model.classify_units(video, visible)
        assert torch.equal(model.classify_units(torch.where(hidden, 100.0, video), visible), logits)
        assert not torch.allclose(model.classify_units(torch.where(hidden, video, -video), visible), logits)
        assert not torch.allclose(model(video), logits)


def test_units_cannot_be_left_out_of_windows_of_units():
    model = build_model(
        "hiera_tiny_224", input_size=(64, 64), embed_dim=8, stages=(1, 1, 1, 1), attn_window_units=(1, 1)
    )
    with pytest.raises(ValueError, match="attn_window_units is"):
        model.classify_units(torch.randn(1, 3, 64, 64), torch.tensor([[0]]))

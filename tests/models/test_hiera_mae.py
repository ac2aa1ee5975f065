import itertools
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._dynamo.utils import counters
from torch.profiler import ProfilerActivity, profile
from waiting import NoWaiting, WaitsForDevice

from hiera_video.models import Hiera, HieraMAE, build_model, layers, model_names
from hiera_video.models import hiera_mae as module
from hiera_video.models.flops import compute_flops
from hiera_video.models.mask_units import choose_running_cells, compute_visible_units, draw_mask, random_mask
from hiera_video.models.targets import compute_contrastive_loss, paint_patches

VIDEO = {
    "input_size": (4, 64, 96),
    "q_stride": (1, 2, 2),
    "mask_unit_size": (1, 8, 8),
    "patch_kernel": (3, 7, 7),
    "patch_stride": (2, 4, 4),
    "patch_padding": (1, 3, 3),
    "sep_pos_embed": True,
}
IMAGE = {"input_size": (96, 64)}
SMALL = {"embed_dim": 8, "num_heads": 1, "stages": (1, 2, 2, 1), "q_pool": 2}
SMALL_DECODER = {"decoder_embed_dim": 16, "decoder_depth": 2, "decoder_num_heads": 4}
KINDS = {"video": VIDEO, "image": IMAGE}


def make_model(kind="video", **overrides):
    torch.manual_seed(0)
    model = HieraMAE(**(KINDS[kind] | SMALL | SMALL_DECODER | overrides))
    for name, value in model.named_parameters():
        if "norm" not in name or not name.endswith("weight"):
            nn.init.normal_(value, std=0.1)  # biases and position embeddings that show when they are in a wrong place
    return model


def make_video(model, batch=2):
    return torch.randn(batch, 3, *model.input_size, generator=torch.Generator().manual_seed(1))


def make_mask(model, batch=2, keep=3):
    noise = torch.rand(batch, model.num_mask_units, generator=torch.Generator().manual_seed(2))
    return noise.argsort(dim=1) < keep


# A second implementation, for one sample: dense maps in spatial order, loops over mask units, windows and tokens.


def attend(block, tokens, queries):
    """Attention of a block for normed tokens (N, D); for each query the indices of the tokens that it stands for."""
    q, k, v = block.attn.qkv(tokens).chunk(3, dim=-1)
    q = torch.stack([q[members].max(dim=0).values for members in queries])
    heads = []
    for q_h, k_h, v_h in zip(*(t.chunk(block.attn.heads, dim=-1) for t in (q, k, v)), strict=True):
        heads.append((q_h @ k_h.T / k_h.shape[1] ** 0.5).softmax(dim=-1) @ v_h)
    return block.attn.proj(torch.cat(heads, dim=-1))


def run_block(block, x, windows, pool):
    """x: {place: token}; windows: lists of places that attend to each other; pool: {new place: old places} or None."""
    out = {}
    for places in windows:
        normed = block.norm1(torch.stack([x[place] for place in places]))
        pools = pool(places) if pool else {place: [place] for place in places}
        queries = [[places.index(place) for place in members] for members in pools.values()]
        skip = block.proj(normed) if block.proj is not None else torch.stack([x[place] for place in places])
        skip = torch.stack([skip[members].max(dim=0).values for members in queries])
        y = skip + attend(block, normed, queries)
        y = y + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(y))))
        out |= dict(zip(pools, y, strict=True))
    return out


def pool_places(places):
    pools = {}
    for place in places:
        pools.setdefault((*place[:-2], place[-2] // 2, place[-1] // 2), []).append(place)
    return pools


def compute_unit(model, place, pools):
    size = [m // s**pools for m, s in zip(model.mask_unit_size, model.q_stride, strict=True)]
    return tuple(p // m for p, m in zip(place, size, strict=True))


def naive_encode(model, video, units):
    """{place on the last stage's grid: fused token} of the visible units."""
    keep = torch.zeros(1, 1, *model.mask_units_grid)
    for unit in units:
        keep[(0, 0, *unit)] = 1
    hidden = F.interpolate(keep, size=model.input_size) == 0
    proj = model.patch_embed.proj
    conv = F.conv3d if len(model.input_size) == 3 else F.conv2d
    maps = conv(video[None].masked_fill(hidden, 0), proj.weight, proj.bias, proj.stride, proj.padding)[0]
    x = {}
    for place in itertools.product(*map(range, model.tokens_grid)):
        if model.sep_pos_embed:
            t, h, w = place
            pos = model.pos_embed_temporal[0, t] + model.pos_embed_spatial[0, h * model.tokens_grid[2] + w]
        else:
            pos = model.pos_embed[0, place[0] * model.tokens_grid[1] + place[1]]
        if compute_unit(model, place, 0) in units:
            x[place] = maps[(slice(None), *place)] + pos
    fused, pools = {}, 0
    for i, block in enumerate(model.blocks):
        if block.attn.is_global:
            windows = [list(x)]
        else:
            windows = [[place for place in x if compute_unit(model, place, pools) == unit] for unit in units]
        x = run_block(block, x, windows, pool_places if block.attn.q_window > 1 else None)
        pools += block.attn.q_window > 1
        stage = model.stage_ends.index(i) if i in model.stage_ends else None
        if stage is not None and (stage < model.q_pool or i == len(model.blocks) - 1):
            for place, token in naive_fuse(model, x, stage).items():
                fused[place] = fused.get(place, 0) + token
    return {place: model.encoder_norm(token) for place, token in fused.items()}


def naive_fuse(model, x, stage):
    if stage >= model.q_pool:
        return x
    head, fused = model.multi_scale_fusion_heads[stage], {}
    for place, token in x.items():
        cell = tuple(p // k for p, k in zip(place, head.kernel_size, strict=True))
        weight = head.weight[(slice(None), slice(None), *(p % k for p, k in zip(place, head.kernel_size, strict=True)))]
        fused[cell] = fused.get(cell, head.bias) + weight @ token
    return fused


def naive_decode(model, latent, places):
    """{place: prediction} for the visible tokens of latent and the other places, and no other token."""
    x = {}
    for i, place in enumerate(itertools.product(*map(range, model.pred_grid))):
        if place in latent or place in places:
            token = model.decoder_embed(latent[place]) if place in latent else model.mask_token[0, 0]
            x[place] = token + model.decoder_pos_embed[0, i]
    for block in model.decoder_blocks:
        x = run_block(block, x, [list(x)], None)
    return {place: model.decoder_pred(model.decoder_norm(token)) for place, token in x.items() if place in places}


def naive_label(model, video, place):
    if len(place) == 3:
        video, place = video[:, 2 * place[0]], place[1:]
    patch = video[:, 16 * place[0] : 16 * place[0] + 16, 16 * place[1] : 16 * place[1] + 16]
    patch = (patch.permute(1, 2, 0) if len(model.input_size) == 3 else patch).flatten()
    return (patch - patch.mean()) / (patch.var(unbiased=True) + 1e-6).sqrt() if model.norm_target else patch


def naive_forward(model, video, mask, scored):
    """Loss, predictions and labels of a batch; scored (B, U): the mask units that the decoder is to predict."""
    preds, labels = [], []
    all_units = list(itertools.product(*map(range, model.mask_units_grid)))
    for sample, sample_mask, sample_scored in zip(video, mask, scored, strict=True):
        latent = naive_encode(model, sample, [u for u, keep in zip(all_units, sample_mask, strict=True) if keep])
        units = [u for u, score in zip(all_units, sample_scored, strict=True) if score]
        grid = itertools.product(*map(range, model.pred_grid))
        places = [place for place in grid if compute_unit(model, place, model.q_pool) in units]
        preds += list(naive_decode(model, latent, places).values())
        labels += [naive_label(model, sample, place) for place in places]
    preds, labels = torch.stack(preds), torch.stack(labels)
    return sum(((p - label) ** 2).mean() for p, label in zip(preds, labels, strict=True)) / len(preds), preds, labels


@pytest.mark.parametrize("norm_target", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_predictions_and_labels_equal_a_naive_reference(kind, norm_target):
    model = make_model(kind, norm_target=norm_target, decoder_depth=1).double()
    video, mask = make_video(model).double(), torch.zeros(2, model.num_mask_units, dtype=torch.bool)
    mask[0, [0, 1]] = True  # side by side: in spatial order their tokens alternate
    mask[1, [2, 4]] = True
    with torch.no_grad():
        loss, pred, label, got_mask = model(video, mask=mask)
        expected = naive_forward(model, video, mask, ~mask)
    assert got_mask is mask
    assert pred.shape == label.shape == (2 * (model.num_mask_units - 2) * 4, 16 * 16 * 3)
    for a, b in zip((loss, pred, label), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-11)


def test_a_share_of_the_hidden_units_is_decoded_as_if_the_others_were_not_there():
    model = make_model(decoder_keep_ratio=0.4).double()
    video, mask = make_video(model).double(), make_mask(model)
    torch.manual_seed(4)
    scored = choose_running_cells(mask, model.mask_units_grid, 4)
    assert scored.sum(dim=1).tolist() == [4, 4] and not (scored & mask).any()  # 0.4 of 9
    with torch.no_grad():
        expected = naive_forward(model, video, mask, scored)
        torch.manual_seed(4)
        loss, pred, label, got_mask = model(video, mask=mask)
    assert torch.equal(got_mask, mask)
    for a, b in zip((loss, pred, label), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-11)


def test_all_hidden_units_are_decoded_without_drawing_anything(monkeypatch):
    monkeypatch.setattr(module, "choose_running_cells", None)
    model = make_model(decoder_keep_ratio=1.0)
    state = torch.get_rng_state()
    model(make_video(model), mask=make_mask(model))
    assert torch.equal(torch.get_rng_state(), state)


def test_hidden_pixels_reach_labels_but_not_predictions():
    model = make_model().eval()
    video, mask = make_video(model, 1), make_mask(model, 1)
    unit = (~mask).view(1, 1, 2, 2, 3)
    hidden = unit.repeat_interleave(2, 2).repeat_interleave(32, 3).repeat_interleave(32, 4)
    with torch.no_grad():
        _, expected, label, _ = model(video, mask=mask)
        for other in (torch.full_like(video, torch.nan), make_video(model, 1) * 50 + 3 * video.flip(-1)):
            changed = torch.where(hidden, other, video)
            _, pred, other_label, _ = model(changed, mask=mask)
            assert torch.equal(pred, expected)
            assert not torch.equal(other_label, label)
        assert not torch.equal(model(video * 1.1, mask=mask)[1], expected)


def test_encoder_blocks_see_visible_tokens_and_the_prediction_hidden_ones_alone():
    model = make_model(decoder_keep_ratio=0.5)
    sizes = {}
    for name, part in model.named_modules():
        part.register_forward_hook(lambda _, x, y, name=name: sizes.update({name: (x[0].shape, y)}))
    _, pred, _, _ = model(make_video(model), mask=make_mask(model))
    assert [sizes[f"blocks.{i}"][0][1:3] for i in range(6)] == [(3, 64), (3, 64), (3, 16), (3, 16), (3, 4), (3, 4)]
    assert sizes["patch_embed"][1].shape[:-1] == (2 * 3, 1, 8, 8)
    assert sizes["decoder_blocks.0"][0] == (2, 1, 3 * 4 + 4 * 4, 16)  # of 9 hidden units 4 are half, to even
    assert sizes["decoder_norm"][0] == (2, 16, 16)
    assert pred.shape == (32, 768)


def test_multiply_adds_of_video_base_are_the_papers():
    """11.1 and 60.3 G; the encoder less the patch embedding of hidden units, which is 1.06 of its 11.1."""

    class Part(nn.Module):
        def __init__(self, model, method):
            super().__init__()
            self.model, self.method = model, method

        def forward(self, *inputs):
            return getattr(self.model, self.method)(*inputs)

    with torch.device("meta"):
        model = build_model("mae_hiera_base_16x224")
        video, latent = torch.empty(1, 3, 16, 224, 224), torch.empty(1, 39, 4, 768)
        visible, tokens = (torch.empty(1, n, dtype=torch.int64) for n in (39, 353 * 4))
        encoder = compute_flops(Part(model, "encode_visible"), (video, visible)) / 1e9
        decoder = compute_flops(Part(model, "decode"), (latent, visible, tokens)) / 1e9
    hidden_patches = 353 * 64 * 96 * (3 * 3 * 7 * 7) / 1e9
    visible_pred = 39 * 4 * 512 * 768 / 1e9
    assert encoder + hidden_patches == pytest.approx(11.1, abs=0.05)
    assert decoder + visible_pred == pytest.approx(60.3, abs=0.05)


def draw_visible(model, batch=2):
    """Indices of what masks of the paper's ratio keep, on the CPU, as a training job has them."""
    mask = torch.stack([draw_mask(model.mask_units_grid, 0.8) for _ in range(batch)])
    return compute_visible_units(mask, batch, model.num_mask_units)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep_ratio", [1.0, 0.4])
def test_indices_and_a_mask_give_the_same(kind, keep_ratio):
    model = make_model(kind, decoder_keep_ratio=keep_ratio)
    video, mask = make_video(model), make_mask(model)
    results = []
    for what in ({"mask": mask}, {"visible": compute_visible_units(mask, 2, model.num_mask_units)}):
        torch.manual_seed(5)
        results.append(model(video, **what))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("visible", "message"),
    [
        (torch.zeros(2, 3), "visible must be int64 of shape .batch = 2, kept., got torch.float32"),
        (torch.zeros(3, 3, dtype=torch.int64), r"got torch.int64 of shape \(3, 3\)"),
        (torch.zeros(2, 0, dtype=torch.int64), "keep and hide at least 1 of 12 mask units, got 0 kept"),
        (torch.arange(12).expand(2, 12), "got 12 kept, none hidden"),
    ],
)
def test_wrong_indices_are_refused(visible, message):
    model = make_model()
    with pytest.raises(ValueError, match=message):
        model(make_video(model), visible=visible)
    with pytest.raises(ValueError, match="give one of them, got both"):
        model(make_video(model), mask=make_mask(model), visible=visible)


def check_that_nothing_waits(name, **overrides):
    with torch.device("meta"):
        model = build_model(name, drop_path_rate=0.2, **overrides).train()
        video = torch.empty(2, 3, *model.input_size)
    visible = draw_visible(model)
    with NoWaiting():
        model(video, visible=visible.to("meta", non_blocking=True))[0].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    return model, video


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("mae_hiera_tiny_224", {"decoder_keep_ratio": 0.5}),
        ("mae_hiera_tiny_16x224", {"decoder_keep_ratio": 0.5, "activation_checkpointing": True, "target": "hog"}),
    ],
)
def test_forward_and_backward_never_wait_for_the_device(name, overrides):
    model, video = check_that_nothing_waits(name, **overrides)
    mask = draw_mask(model.mask_units_grid, 0.8).expand(2, -1)
    with NoWaiting():  # also with a mask of the CPU, or with one that is drawn on the device
        model(video, mask=mask)
        model(video, mask_ratio=0.7)
        with pytest.raises(WaitsForDevice):
            model(video, mask=mask.to("meta", non_blocking=True))


@pytest.mark.slow
def test_no_recipes_model_waits_for_the_device():
    for name in model_names():
        if name.startswith("mae_"):
            check_that_nothing_waits(name)
    check_that_nothing_waits("mae_hiera_large_16x224", input_size=(32, 224, 224))


def check_that_it_is_one_graph(model, backend, tolerance):
    """Two steps with other masks: one graph, without a break, with the loss and the gradients of the model itself."""
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    counters.clear()
    video = make_video(model)
    for seed in range(2):
        torch.manual_seed(seed)
        visible = draw_visible(model)
        losses = [run(video, visible=visible)[0] for run in (model, compiled)]
        torch.testing.assert_close(*losses, atol=0, rtol=tolerance)
        grads = [torch.autograd.grad(loss, model.parameters()) for loss in losses]
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, atol=10 * tolerance * a.abs().max().item(), rtol=100 * tolerance)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [("video", {}), ("image", {"activation_checkpointing": True}), ("image", {"target": "hog"})],
)
def test_the_model_is_one_graph_for_torch_compile(kind, overrides):
    check_that_it_is_one_graph(make_model(kind, stages=(1, 1, 1, 1), decoder_depth=1, **overrides), "aot_eager", 1e-6)


@pytest.mark.slow
def test_a_model_of_full_size_is_one_graph_for_torch_compile():
    torch.compiler.reset()
    with torch.device("meta"):
        model = build_model("mae_hiera_base_16x224", drop_path_rate=0.2).train()
        video = torch.empty(2, 3, *model.input_size)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    counters.clear()
    for seed in range(2):
        torch.manual_seed(seed)
        compiled(video, visible=draw_visible(model).to("meta"))[0].backward()
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_torch_compile_gives_the_same_loss_and_gradients():
    stages = {"stages": (1, 1), "q_pool": 1, "mask_unit_attn": (True, False)}
    check_that_it_is_one_graph(make_model("image", **stages, decoder_depth=1), "inductor", 1e-5)


def test_the_mask_is_drawn_when_none_is_given():
    model = make_model()
    torch.manual_seed(3)
    _, pred, _, mask = model(make_video(model), mask_ratio=0.7)
    torch.manual_seed(3)
    assert torch.equal(mask, random_mask(2, 12, 0.7))
    assert len(pred) == 2 * 9 * 4
    assert model(make_video(model), mask=mask)[0].isfinite()


def test_hog_is_predicted_in_108_values():
    model = make_model(target="hog")
    loss, pred, label, _ = model(make_video(model), mask=make_mask(model))
    assert pred.shape == label.shape == (2 * 9 * 4, 108)
    cells = label.view(-1, 4, 9, 3).norm(dim=2)
    torch.testing.assert_close(cells, torch.ones_like(cells))
    assert loss.item() == pytest.approx(((pred - label) ** 2).mean().item())


def test_the_contrastive_term_is_added_with_its_weight():
    plain, model = make_model(), make_model(contrastive_weight=0.5, contrastive_temperature=0.2)
    video, mask = make_video(model), make_mask(model)
    expected, pred, label, _ = plain(video, mask=mask)
    term = compute_contrastive_loss(pred.view(2, 36, -1), label.view(2, 36, -1), 0.2)
    torch.testing.assert_close(model(video, mask=mask)[0], expected + 0.5 * term)


@pytest.mark.parametrize("kind", KINDS)
def test_reconstruct_gives_all_predictions_in_their_place(kind):
    model = make_model(kind, decoder_keep_ratio=0.3).eval()
    video, mask = make_video(model), make_mask(model, keep=2)
    pred, hidden = model.reconstruct(video, mask)
    assert pred.shape == (2, *model.pred_grid, 768) and hidden.shape == (2, *model.pred_grid)
    assert not pred.requires_grad and (pred[~hidden] == 0).all()
    units = mask.view(2, *model.mask_units_grid)
    for place in itertools.product(range(2), *map(range, model.pred_grid)):
        assert hidden[place] == ~units[(place[0], *compute_unit(model, place[1:], 2))]
    model.decoder_keep_ratio = 1.0
    torch.testing.assert_close(pred[hidden], model(video, mask=mask)[1])
    painted = paint_patches(video, pred, hidden, model.pred_stride, normalized=True)
    assert painted.shape == (video.shape if kind == "image" else (2, 3, 2, 64, 96))


def test_features_for_the_probe_are_those_of_the_unmasked_encoder():
    model = make_model()
    classifier = Hiera(**VIDEO, **SMALL)
    classifier.load_state_dict(
        {k.replace("encoder_norm", "norm"): v for k, v in model.state_dict().items()}, strict=False
    )
    video = make_video(model)
    torch.testing.assert_close(model.forward_features(video), classifier.forward_features(video))


def test_layer_ids_and_weight_decay_know_the_decoder():
    model = make_model()
    ids = {name: model.get_layer_id(name) for name, _ in model.named_parameters()}
    assert set(ids.values()) == set(range(model.num_layers)) == set(range(8))
    assert ids["pos_embed_temporal"] == ids["patch_embed.proj.bias"] == 0 and ids["blocks.5.norm1.weight"] == 6
    last = ("decoder_", "mask_token", "multi_scale_fusion_heads", "encoder_norm")
    assert {name for name, i in ids.items() if i == 7} == {name for name in ids if name.startswith(last)}
    exempt = {"pos_embed_spatial", "pos_embed_temporal", "decoder_pos_embed", "mask_token"}
    assert model.no_weight_decay() == exempt <= ids.keys()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"target": "pixels"}, "target must be one of pixel, hog, got 'pixels'"),
        ({"decoder_num_heads": 5}, "decoder_num_heads divide decoder_embed_dim, got 2, 5, 16"),
        ({"decoder_depth": 0}, "decoder_depth must be at least 1"),
        ({"contrastive_weight": -1.0}, "contrastive_weight must be at least 0, got -1"),
        ({"contrastive_temperature": 0.0}, "contrastive_temperature must be above 0, got 0"),
        ({"decoder_keep_ratio": 0.0}, r"decoder_keep_ratio must be in \(0, 1\], got 0"),
        ({"decoder_keep_ratio": 1.5}, r"decoder_keep_ratio must be in \(0, 1\], got 1.5"),
        ({"target": "hog", "q_pool": 0}, r"'hog' needs tokens of multiples of 8 px, got \(4, 4\)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        make_model(**overrides)


def test_masks_that_do_not_fit_are_refused():
    model = make_model()
    video = make_video(model)
    with pytest.raises(ValueError, match="hide at least 1 of 12 mask units"):
        model(video, mask=torch.ones(2, 12, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least 1, got"):
        model(video, mask=torch.zeros(2, 12, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"= \(2, 12\)"):
        model(video, mask=torch.ones(2, 11, dtype=torch.bool))
    with pytest.raises(ValueError, match="mask_ratio"):
        model(video, mask_ratio=0.95)


def test_build_model_knows_the_decoders_arguments():
    model = build_model("mae_hiera_tiny_16x224", input_size=(2, 32, 64), decoder_depth=1, drop_path_rate=0.1)
    assert (model.q_pool, model.pred_grid, len(model.decoder_blocks)) == (2, (1, 2, 4), 1)
    assert model.decoder_blocks[0].attn.heads == 16
    with pytest.raises(
        ValueError, match="'decoder_dept' is not an argument of mae_hiera_tiny_224; legal: decoder_depth"
    ):
        build_model("mae_hiera_tiny_224", decoder_dept=3)
    for name, argument in (("hiera_tiny_224", "decoder_depth"), ("mae_hiera_tiny_224", "encoder")):
        with pytest.raises(ValueError, match=f"'{argument}' is not an argument of {name}"):
            build_model(name, **{argument: 3})


def test_activation_checkpointing_gives_the_same_gradients_and_covers_the_decoder():
    grads, counts = [], []
    for checkpointing in (False, True):
        model = make_model(activation_checkpointing=checkpointing, drop_path_rate=0.5)
        calls = []
        for block in [*model.blocks, *model.decoder_blocks]:
            block.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(7)
        model(make_video(model), mask=make_mask(model))[0].backward()
        grads.append([p.grad for p in model.parameters()])
        counts.append(len(calls))
    assert counts == [8, 16]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_bfloat16_autocast_is_close_and_attention_reaches_the_fused_kernel(monkeypatch):
    monkeypatch.setattr(layers, "_MAX_PLAIN_TOKENS", 0)  # windows of any length
    model = make_model()
    video, mask = make_video(model), make_mask(model)
    expected = model(video, mask=mask)
    with profile(activities=[ProfilerActivity.CPU]) as prof:
        with torch.autocast("cpu", torch.bfloat16):
            loss, pred, label, _ = model(video, mask=mask)
        loss.backward()
    count = {event.key: event.count for event in prof.key_averages()}
    assert count["aten::_scaled_dot_product_flash_attention_for_cpu"] == 8
    assert count["aten::_scaled_dot_product_flash_attention_for_cpu_backward"] == 8
    assert loss.dtype == label.dtype == torch.float32 and pred.dtype == torch.bfloat16
    assert torch.equal(label, expected[2])
    assert (pred - expected[1]).abs().max() < 0.05 * expected[1].abs().max()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "size", "ratio"), [("mae_hiera_tiny_224", (64, 320), 0.6), ("mae_hiera_tiny_16x224", (4, 64, 320), 0.9)]
)
def test_the_default_mask_ratio_and_heads_are_those_of_the_paper(name, size, ratio):
    model = build_model(name, input_size=size, embed_dim=8, stages=(1, 1, 1, 1), decoder_depth=1)
    mask = model(torch.randn(1, 3, *size))[3]
    assert int(mask.sum()) == int(model.num_mask_units * (1 - ratio))
    assert model.decoder_num_heads == 16


def test_without_fusion_the_decoder_sees_the_last_stage_alone():
    arguments = {"input_size": (4, 64, 64), "embed_dim": 8, "stages": (1, 1, 1, 1), "decoder_depth": 1}
    fused, single = (build_model("mae_hiera_tiny_16x224", multi_scale=on, **arguments) for on in (True, False))
    names = set(fused.state_dict()) - set(single.state_dict())
    assert names and all(name.startswith("multi_scale_fusion_heads.") for name in names)
    video, mask = torch.randn(2, 3, 4, 64, 64), torch.tensor([[True] * 4 + [False] * 4] * 2)
    visible = mask.nonzero()[:, 1].view(2, 4)
    x, _ = single.run_blocks(video, visible)
    torch.testing.assert_close(single.encode_visible(video, visible), single.encoder_norm(x))
    assert single(video, mask=mask)[0].isfinite()

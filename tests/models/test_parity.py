"""Our Hiera against the released package `hiera-transformer` 0.1.4 with the same random weights.

Run with -s to see the largest differences.
"""

import pytest
import torch

from hiera_video.models import Hiera, build_model, model_names

hiera = pytest.importorskip("hiera")

SIZES = {
    "tiny": {"embed_dim": 96, "num_heads": 1, "stages": (1, 2, 7, 2)},
    "base": {"embed_dim": 96, "num_heads": 1, "stages": (2, 3, 16, 3)},
}
IMAGE = {"input_size": (224, 224), "num_classes": 1000}
VIDEO = {
    "input_size": (16, 224, 224),
    "num_classes": 400,
    "q_stride": (1, 2, 2),
    "mask_unit_size": (1, 8, 8),
    "patch_kernel": (3, 7, 7),
    "patch_stride": (2, 4, 4),
    "patch_padding": (1, 3, 3),
    "sep_pos_embed": True,
}
TO_COMPARE = ["tiny", pytest.param("base", marks=pytest.mark.slow)]
SMALL_IMAGE = IMAGE | {"input_size": (96, 96)}
SMALL_VIDEO = VIDEO | {"input_size": (4, 96, 96)}
KINDS = {"image": IMAGE, "video": VIDEO, "small image": SMALL_IMAGE, "small video": SMALL_VIDEO}


def _make_name(size, kind):
    return f"hiera_{size}_{'16x224' if 'video' in kind else '224'}"


def _make_pair(size, kind):
    """The two models with the same weights, none of them near a value that hides a difference."""
    torch.manual_seed(0)
    released = hiera.Hiera(**SIZES[size], **KINDS[kind])  # there is no released function for a tiny video model
    with torch.device("meta"):
        ours = build_model(_make_name(size, kind), input_size=KINDS[kind]["input_size"])
    with torch.no_grad():
        for key, value in released.named_parameters():
            if value.ndim > 1:
                value.normal_(std=0.03)
            else:
                value.normal_(mean=1.0 if "norm" in key and key.endswith("weight") else 0.0, std=0.2)
    ours.load_state_dict({name: value.clone() for name, value in released.state_dict().items()}, assign=True)
    return released, ours


def _run(model, video, mask):
    """Output, maps and the gradients of a loss that all of them take part in."""
    model.train()
    if mask is not None and isinstance(model, Hiera):
        output, maps = model.encode(video, mask)
    else:
        output, maps = model(video, **({} if mask is None else {"mask": mask}), return_intermediates=True)
    generator = torch.Generator().manual_seed(5)
    loss = sum((t * torch.randn(t.shape, generator=generator)).mean() for t in (output, *maps))
    loss.backward()
    return output.detach(), [m.detach() for m in maps], {k: p.grad for k, p in model.named_parameters()}


def _run_both(size, kind, masked, dtype):
    released, ours = _make_pair(size, kind)
    video = torch.randn(1, 3, *ours.input_size)
    mask = torch.rand(1, ours.num_mask_units).argsort(dim=1) < ours.num_mask_units // 4 if masked else None
    expected, got = (_run(model.to(dtype), video.to(dtype), mask) for model in (released, ours))
    assert len(got[1]) == len(expected[1]) == 4
    assert all(a.shape == b.shape for a, b in zip(got[1], expected[1], strict=True))
    unused = {name for name, grad in expected[2].items() if grad is None}
    assert {name for name, grad in got[2].items() if grad is None} == unused
    assert unused <= {"norm.weight", "norm.bias", "head.projection.weight", "head.projection.bias"}
    return expected, got


def _compute_largest(expected, got):
    """Largest difference over the largest value."""
    return ((expected - got).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("masked", [False, True], ids=["all tokens", "masked"])
@pytest.mark.parametrize("kind", ["image", pytest.param("video", marks=pytest.mark.slow)])
@pytest.mark.parametrize("size", TO_COMPARE)
def test_float32_outputs_maps_and_gradients_equal_the_released(size, kind, masked, record_property):
    """Gradients by their norm: where two tokens of a pooling window differ by less than rounding, another of them may
    win, and a few places of the gradients before that pooling then differ. Not so in float64, see the next test."""
    expected, got = _run_both(size, kind, masked, torch.float32)
    output = (expected[0] - got[0]).abs().max().item()
    maps = max(_compute_largest(a, b) for a, b in zip(expected[1], got[1], strict=True))
    grads = {k: ((got[2][k] - g).norm() / g.norm()).item() for k, g in expected[2].items() if g is not None}
    worst = max(grads, key=grads.get)
    last = sum(SIZES[size]["stages"]) - 1
    after_poolings = max(v for k, v in grads.items() if k.startswith((f"blocks.{last}.", "norm", "head")))
    largest = expected[0].abs().max().item()
    line = (
        f"float32 {size} {kind}{' masked' if masked else ''}: {'tokens' if masked else 'logits'} {output:.1e} "
        f"(largest {largest:.1f}), maps {maps:.1e} of their largest, "
        f"gradients {grads[worst]:.1e} of their norm ({worst}), after the last pooling {after_poolings:.1e}"
    )
    record_property("largest differences", line)
    print("\n" + line)
    assert output < (1e-5 * largest if masked else 1e-5)
    assert maps < 1e-5
    assert after_poolings < 1e-5
    assert grads[worst] < 2e-2


@pytest.mark.parametrize("masked", [False, True], ids=["all tokens", "masked"])
@pytest.mark.parametrize("kind", [pytest.param("small image", marks=pytest.mark.slow), "small video"])
@pytest.mark.parametrize("size", TO_COMPARE)
def test_float64_outputs_maps_and_gradients_equal_the_released(size, kind, masked, record_property):
    expected, got = _run_both(size, kind, masked, torch.float64)
    output = _compute_largest(expected[0], got[0])
    maps = max(_compute_largest(a, b) for a, b in zip(expected[1], got[1], strict=True))
    grads = max(_compute_largest(g, got[2][k]) for k, g in expected[2].items() if g is not None)
    line = (
        f"float64 {size} {kind}{' masked' if masked else ''}: output {output:.1e}, maps {maps:.1e}, "
        f"gradients {grads:.1e}, each of the largest value"
    )
    record_property("largest differences", line)
    print("\n" + line)
    assert max(output, maps, grads) < 1e-11


def test_released_eval_output_is_the_softmax_of_ours():
    released, ours = _make_pair("tiny", "image")
    image = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(image).softmax(dim=-1), released.eval()(image), atol=1e-6, rtol=1e-4)


@pytest.mark.slow
def test_visible_tokens_with_fewer_poolings_equal_the_released_but_for_their_order():
    torch.manual_seed(0)
    ours = build_model("hiera_tiny_224", q_pool=2)
    released = hiera.hiera_tiny_224(q_pool=2)
    released.load_state_dict(ours.state_dict(), strict=True)
    image = torch.randn(2, 3, 224, 224)
    mask = torch.rand(2, 49).argsort(dim=1) < 19
    with torch.no_grad():
        expected, expected_maps = released(image, mask=mask, return_intermediates=True)
        got, maps = ours.encode(image, mask)
    by_unit = expected.view(2, 4, 19, -1).transpose(1, 2).flatten(1, 2)  # released: place in the unit first
    torch.testing.assert_close(got, by_unit, atol=1e-5, rtol=1e-5)
    for a, b in zip(maps, expected_maps, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["image", "video"])
def test_the_same_seed_gives_the_released_initial_weights(kind):
    torch.manual_seed(11)
    expected = hiera.Hiera(**SIZES["tiny"], **KINDS[kind]).state_dict()
    torch.manual_seed(11)
    got = build_model(_make_name("tiny", kind)).state_dict()
    assert list(got) == list(expected)
    assert all(torch.equal(got[key], expected[key]) for key in expected)


def test_names_and_shapes_of_every_size_equal_the_released(monkeypatch):
    linspace = torch.linspace  # the released constructor reads its values, which meta tensors do not have
    monkeypatch.setattr(torch, "linspace", lambda *args, **_: linspace(*args, device="cpu"))
    released_names = [name for name in model_names() if hasattr(hiera, name) and not name.startswith("mae_")]
    assert len(released_names) == 10
    for name in released_names:
        with torch.device("meta"):
            expected = getattr(hiera, name)().state_dict()
            got = build_model(name).state_dict()
        assert {k: v.shape for k, v in got.items()} == {k: v.shape for k, v in expected.items()}

"""Our Hiera against the released package `hiera-transformer` 0.1.4 with the same random weights.

Run with -s to see the largest differences.
"""

import pytest
import torch

from hiera_video.models import build_model

hiera = pytest.importorskip("hiera")

TINY = {"embed_dim": 96, "num_heads": 1, "stages": (1, 2, 7, 2)}
RELEASED = {
    "hiera_tiny_224": lambda: hiera.hiera_tiny_224(),
    "hiera_base_224": lambda: hiera.hiera_base_224(),
    "hiera_tiny_16x224": lambda: hiera.hiera_base_16x224(**TINY),  # the release has no such name
    "hiera_base_16x224": lambda: hiera.hiera_base_16x224(),
}


def _make_pair(name):
    """The two models with the same weights, none of them near a value that hides a difference."""
    torch.manual_seed(0)
    released, ours = RELEASED[name](), build_model(name)
    with torch.no_grad():
        for key, value in released.named_parameters():
            if value.ndim > 1:
                value.normal_(std=0.03)
            else:
                value.normal_(mean=1.0 if "norm" in key and key.endswith("weight") else 0.0, std=0.2)
    ours.load_state_dict(released.state_dict(), strict=True)
    return released, ours


def _run(model, video, mask):
    """Output, maps and the gradients of a loss that all of them take part in."""
    output, maps = model.train()(video, mask=mask, return_intermediates=True)
    generator = torch.Generator().manual_seed(5)
    loss = sum((t * torch.randn(t.shape, generator=generator)).mean() for t in (output, *maps))
    loss.backward()
    return output.detach(), [m.detach() for m in maps], {k: p.grad for k, p in model.named_parameters()}


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("name", RELEASED)
def test_outputs_maps_and_gradients_equal_the_released(name, masked, record_property):
    released, ours = _make_pair(name)
    batch = 1 if name == "hiera_base_16x224" else 2
    video = torch.randn(batch, 3, *ours.input_size)
    mask = torch.rand(batch, ours.num_mask_units).argsort(dim=1) < ours.num_mask_units // 4 if masked else None
    expected, got = _run(released, video, mask), _run(ours, video, mask)

    output = (got[0] - expected[0]).abs().max().item()
    assert len(got[1]) == len(expected[1]) == 4
    assert all(a.shape == b.shape for a, b in zip(got[1], expected[1], strict=True))
    maps = [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(got[1], expected[1], strict=True)]
    assert {k for k, g in got[2].items() if g is None} == {k for k, g in expected[2].items() if g is None}
    grads = {k: ((got[2][k] - g).abs().max() / g.abs().max()).item() for k, g in expected[2].items() if g is not None}
    assert len(grads) > 100
    worst = max(grads, key=grads.get)
    line = (
        f"{name} {'masked' if masked else 'all'}: output {output:.1e} (of up to {expected[0].abs().max():.1f}), "
        f"maps relative to their largest value {max(maps):.1e}, gradients {grads[worst]:.1e} ({worst})"
    )
    record_property("largest differences", line)
    print("\n" + line)

    # Logits are of order 1; the visible tokens under a mask are the last map.
    assert output < (1e-5 if mask is None else 1e-5 * expected[0].abs().max())
    assert max(maps) < 1e-5
    assert grads[worst] < 1e-4


def test_released_eval_output_is_the_softmax_of_ours():
    released, ours = _make_pair("hiera_tiny_224")
    image = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(image).softmax(dim=-1), released.eval()(image), atol=1e-6, rtol=1e-4)


def test_visible_tokens_with_fewer_poolings_equal_the_released_but_for_their_order():
    torch.manual_seed(0)
    ours = build_model("hiera_tiny_224", q_pool=2)
    released = hiera.hiera_tiny_224(q_pool=2)
    released.load_state_dict(ours.state_dict(), strict=True)
    image = torch.randn(2, 3, 224, 224)
    mask = torch.rand(2, 49).argsort(dim=1) < 19
    with torch.no_grad():
        expected, expected_maps = released(image, mask=mask, return_intermediates=True)
        got, maps = ours(image, mask=mask, return_intermediates=True)
    by_unit = expected.view(2, 4, 19, -1).transpose(1, 2).flatten(1, 2)  # released: place in the unit first
    torch.testing.assert_close(got, by_unit, atol=1e-5, rtol=1e-5)
    for a, b in zip(maps, expected_maps, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["hiera_tiny_224", "hiera_tiny_16x224"])
def test_the_same_seed_gives_the_released_initial_weights(name):
    torch.manual_seed(11)
    expected = RELEASED[name]().state_dict()
    torch.manual_seed(11)
    got = build_model(name).state_dict()
    assert list(got) == list(expected)
    assert all(torch.equal(got[key], expected[key]) for key in expected)


def test_names_and_shapes_of_every_size_equal_the_released():
    for size in ("tiny", "small", "base", "base_plus", "large"):
        with torch.device("meta"):
            ours = build_model(f"hiera_{size}_224").state_dict()
        expected = getattr(hiera, f"hiera_{size}_224")().state_dict()
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in expected.items()}

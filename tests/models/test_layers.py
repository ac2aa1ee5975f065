import pytest
import torch
from pytorchvideo.layers import Mlp as PytorchvideoMlp

from hiera_video.models import layers
from hiera_video.models.layers import HieraBlock, MaskUnitAttention, Mlp


def test_mlp_equals_pytorchvideos():
    mlp, other = Mlp(8, 32), PytorchvideoMlp(8, 32)
    other.load_state_dict(mlp.state_dict(), strict=True)
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(mlp(x), other(x), atol=1e-6, rtol=1e-6)


def _attend_naively(attention, x):
    """One window (N, dim) at a time, one head at a time, one query at a time."""
    q, k, v = attention.qkv(x).unflatten(-1, (3, attention.heads, -1)).unbind(1)
    if attention.q_window > 1:
        q = torch.stack([q[i : i + attention.q_window].max(dim=0).values for i in range(0, len(q), attention.q_window)])
    rows = []
    for query in q:
        heads = [
            (torch.softmax(k[:, h] @ query[h] / len(query[h]) ** 0.5, dim=0)[:, None] * v[:, h]).sum(dim=0)
            for h in range(attention.heads)
        ]
        rows.append(attention.proj(torch.cat(heads)))
    return torch.stack(rows)


@pytest.mark.parametrize("q_window", [1, 4])
@pytest.mark.parametrize("is_global", [False, True])
def test_attention_equals_a_loop_over_windows_heads_and_queries(q_window, is_global):
    torch.manual_seed(0)
    attention = MaskUnitAttention(6, 8, heads=2, q_window=q_window, is_global=is_global)
    x = torch.randn(2, 3, 8, 6)
    with torch.no_grad():
        if is_global:
            expected = torch.stack([_attend_naively(attention, sample.flatten(0, 1)) for sample in x])
        else:
            expected = torch.stack([torch.stack([_attend_naively(attention, unit) for unit in s]) for s in x])
        torch.testing.assert_close(attention(x), expected.reshape(2, 3, 8 // q_window, 8), atol=1e-6, rtol=1e-5)


def test_more_windows_than_a_kernel_takes_are_cut_into_parts(monkeypatch):
    """The same numbers, exactly, also in a compiled graph, which makes the same calls."""
    torch.manual_seed(0)
    attention = MaskUnitAttention(6, 8, heads=2, q_window=4)
    x = torch.randn(3, 5, 8, 6)
    expected = attention(x)
    expected_grads = torch.autograd.grad(expected.square().sum(), attention.parameters())
    calls = []

    def count_calls(graph, _):
        attend = torch.nn.functional.scaled_dot_product_attention
        calls.append([len(node.meta["example_value"]) for node in graph.graph.nodes if node.target is attend])
        return graph

    monkeypatch.setattr(layers, "_MAX_WINDOWS", 4)
    torch.compiler.reset()
    for run in (attention, torch.compile(attention, fullgraph=True, backend=count_calls)):
        got = run(x)
        assert torch.equal(got, expected)
        for a, b in zip(torch.autograd.grad(got.square().sum(), attention.parameters()), expected_grads, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert calls == [[4, 4, 4, 3]]


def test_the_limit_is_that_of_cuda_and_reaching_it_is_no_reason_to_cut(monkeypatch):
    calls = []
    monkeypatch.setattr(layers.F, "scaled_dot_product_attention", lambda q, *_: calls.append(len(q)) or q)
    for windows in (65_535, 65_536):
        q = torch.empty(windows, 1, 1, 1)
        assert layers._attend_in_parts(q, q, q).shape == q.shape
    assert calls == [65_535, 65_535, 1]


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="heads must divide the width 8, got 3"):
        MaskUnitAttention(6, 8, heads=3)


def test_drop_path_drops_whole_branches_of_samples():
    torch.manual_seed(0)
    block = HieraBlock(8, 8, 2, drop_path=0.5).train()
    x = torch.randn(1, 1, 4, 8).expand(64, -1, -1, -1)
    kinds = {tuple(sample.flatten()[:4].round(decimals=3).tolist()) for sample in block(x).detach()}
    assert len(kinds) == 4  # attention dropped or not, MLP dropped or not
    assert tuple(x[0].flatten()[:4].round(decimals=3).tolist()) in kinds
    assert len({tuple(sample.flatten().tolist()) for sample in block.eval()(x).detach()}) == 1


@pytest.mark.parametrize("q_window", [1, 4])
def test_short_windows_in_bfloat16_train_by_plain_products_on_a_cpu(q_window, monkeypatch):
    """They come as near to float32 as the fused kernel does."""
    torch.manual_seed(0)
    attention = MaskUnitAttention(32, 32, heads=2, q_window=q_window)
    x = torch.randn(2, 3, 16, 32)

    def run(max_plain_tokens, dtype):
        monkeypatch.setattr(layers, "_MAX_PLAIN_TOKENS", max_plain_tokens)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            output = attention(x)
        grads = torch.autograd.grad(output.float().square().sum(), attention.parameters())
        return [output.float(), *grads]

    exact, fused = run(256, torch.float32), run(0, torch.bfloat16)
    with monkeypatch.context() as patched:
        patched.delattr(torch.nn.functional, "scaled_dot_product_attention")
        plain = run(16, torch.bfloat16)
        with pytest.raises(AttributeError):
            run(15, torch.bfloat16)  # longer windows go by the fused kernel
    for one, other, reference in zip(plain, fused, exact, strict=True):
        largest = reference.abs().max()
        assert (one - reference).abs().max() < max(2 * (other - reference).abs().max(), 1e-3 * largest)
        assert (one - reference).abs().max() < 0.03 * largest

import pytest
import torch
import torch.nn.functional as F

from hiera_video.models import cpu_linear
from hiera_video.models.cpu_linear import Linear


@pytest.mark.parametrize("has_faster_conv", [False, True])
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 4, 5), (0, 5)])
def test_linear_equals_torch_linear(shape, has_faster_conv, monkeypatch):
    monkeypatch.setattr(cpu_linear, "_HAS_FASTER_CONV", has_faster_conv)
    torch.manual_seed(0)
    layer = Linear(5, 7)
    x = torch.randn(shape, requires_grad=True)
    weights = torch.randn(*shape[:-1], 7)
    got = torch.autograd.grad((layer(x) * weights).sum(), (x, layer.weight, layer.bias))
    expected_out = F.linear(x, layer.weight, layer.bias)
    expected = torch.autograd.grad((expected_out * weights).sum(), (x, layer.weight, layer.bias))
    assert layer(x).shape == expected_out.shape
    torch.testing.assert_close(layer(x), expected_out, atol=1e-6, rtol=1e-6)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-6)


def test_linear_takes_a_tensor_that_is_not_contiguous():
    layer = Linear(5, 7)
    x = torch.randn(4, 5, 3).transpose(1, 2)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, layer.bias), atol=1e-6, rtol=1e-6)


def test_linear_obeys_autocast_and_dtype():
    layer = Linear(5, 7)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 5)).dtype == torch.bfloat16
    assert layer.double()(torch.randn(2, 5, dtype=torch.float64)).dtype == torch.float64

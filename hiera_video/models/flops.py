"""What a model costs: multiply-adds and parameters."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# The names under which attention shows in a trace: the function, or a kernel where dispatch came first.
_ATTENTION_OPS = (
    "aten::scaled_dot_product_attention",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_attention_math",
)


class _MetaConvAsProduct(TorchFunctionMode):
    """Makes convolutions on the meta device matrix products of as many multiply-adds; they cannot be traced there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (F.conv1d, F.conv2d, F.conv3d) or not args[0].is_meta:
            return func(*args, **(kwargs or {}))
        x, weight, bias, stride, padding = args[:5]
        sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)
        sides = [(int(n) + 2 * p - int(k)) // s + 1 for n, k, s, p in sizes]
        patches = torch.empty(int(x.shape[0]), *sides, weight[0].numel(), dtype=x.dtype, device="meta")
        return F.linear(patches, weight.flatten(1), bias).movedim(-1, 1)  # (B, D, T', H', W')


def compute_flops(model: nn.Module, inputs: Tensor | tuple[Tensor, ...]) -> int:
    """Multiply-adds of one forward pass, attention's two products included, as fvcore counts them.

    Args:
        model: traced in eval mode and put back. On the meta device nothing is computed, so that the size of the model
            does not matter.
        inputs: example input on the model's device; the batch counts.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), _MetaConvAsProduct(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's, about the input checks
            analysis = FlopCountAnalysis(model, inputs)
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            analysis.set_op_handle(**dict.fromkeys(_ATTENTION_OPS, _count_attention))
            return int(analysis.total())
    finally:
        model.train(was_training)


def count_parameters(model: nn.Module) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _count_attention(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Two products: q (..., N, d) with k (..., S, d), and the weights (..., N, S) with v (..., S, e)."""
    q, k, v = (value.type().sizes() for value in inputs[:3])
    return math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])

"""What a model costs: multiply-adds and parameters."""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

# The names under which attention shows in a trace: the function, or a kernel where dispatch came first.
_ATTENTION_OPS = (
    "aten::scaled_dot_product_attention",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "aten::_scaled_dot_product_attention_math",
)


class _PausedTracing(TorchDispatchMode):
    """Runs kernels untraced, after the tracer has noted them: meta kernels in Python fail on traced sizes."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        state = torch._C._get_tracing_state()
        torch._C._set_tracing_state(None)
        try:
            return func(*args, **(kwargs or {}))
        finally:
            torch._C._set_tracing_state(state)


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
        with torch.no_grad(), _PausedTracing(), warnings.catch_warnings():
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

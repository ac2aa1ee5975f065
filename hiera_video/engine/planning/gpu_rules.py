"""Makes fake tensors on a machine without a GPU take the memory that a GPU's arithmetic would take."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from hiera_video.utils.trees import map_tensors

# Of the functions that autocast runs in float32 on CUDA and not on a CPU, those that models and losses here call.
_FLOAT32_ON_CUDA = {
    *(F.layer_norm, torch.layer_norm, F.softmax, torch.softmax, Tensor.softmax, F.log_softmax, F.cross_entropy),
    *(F.mse_loss, F.binary_cross_entropy_with_logits, torch.pow, Tensor.pow, Tensor.__pow__, torch.sum, Tensor.sum),
    *(torch.exp, Tensor.exp, torch.log, Tensor.log, torch.cumsum, Tensor.cumsum),
}


class GpuRules(TorchFunctionMode):
    """Where CUDA differs from a CPU in what it keeps, tensors on the CPU are treated as CUDA does it.

    Autocast keeps norms, losses and some sums in float32 there; our own code asks tensors whether they are on a CPU and
    then takes routes that are faster there.

    Follows: torch's documentation of autocast, "CUDA Ops that autocast to float32".
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs a function as CUDA would."""
        kwargs = kwargs or {}
        if func == Tensor.is_cpu.__get__:  # type: ignore[attr-defined]  # a property of C, which the stubs call a bool
            return False
        if func in _FLOAT32_ON_CUDA and torch.is_autocast_enabled("cpu"):
            args, kwargs = map_tensors(args, _to_float32), map_tensors(kwargs, _to_float32)
        return func(*args, **kwargs)


def _to_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor

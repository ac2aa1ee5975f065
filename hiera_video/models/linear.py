"""A linear layer that takes the faster of PyTorch's two CPU libraries."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# torch sends float32 matrix products to MKL, which keeps to AVX2 on AMD processors, and convolutions to oneDNN, which
# uses AVX-512 on any that has it.
_HAS_FASTER_CONV = torch.backends.mkldnn.is_available() and "AVX512" in torch.backends.cpu.get_cpu_capability()


class Linear(nn.Linear):
    """`nn.Linear`, with the same parameters and numbers; in float32 on an AVX-512 CPU computed as a 1x1 convolution.

    On AMD processors that is up to twice as fast, forward and backward. All else goes through `F.linear`.
    """

    def forward(self, x: Tensor) -> Tensor:
        is_plain_float32 = x.dtype == self.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if not (_HAS_FASTER_CONV and x.is_cpu and is_plain_float32 and x.numel() > 0):
            return F.linear(x, self.weight, self.bias)
        rows = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)  # (1, in, rows, 1), channels last in memory
        rows = F.conv2d(rows, self.weight[:, :, None, None], self.bias)  # (1, out, rows, 1)
        return rows.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)  # (..., out)

"""Linear layers that take a faster route on some CPUs, with the same parameters and numbers as `nn.Linear`.

torch sends float32 matrix products to MKL, which uses only AVX2 on AMD processors, and convolutions to oneDNN, which
uses AVX-512 on every processor that has it. On AMD's a linear layer that is written as a 1x1 convolution is up to twice
as fast, forward and backward; on Intel's it is slower.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hiera_video.utils.machine import read_cpu_info

# torch 2.6 has only `is_compiling`, which is true in more cases.
is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)

_HAS_FASTER_CONV = (
    torch.backends.mkldnn.is_available()
    and "AVX512" in torch.backends.cpu.get_cpu_capability()
    and read_cpu_info("vendor_id") == "AuthenticAMD"
)


def compute_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear`, (..., in) -> (..., out), computed as a 1x1 convolution in float32 on AMD's processors with AVX-512.

    An exported graph gets `F.linear`, because it will run on other machines.
    """
    is_plain_float32 = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if not (_HAS_FASTER_CONV and x.is_cpu and is_plain_float32) or is_exporting() or not x.numel():
        return F.linear(x, weight, bias)
    rows = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)  # (1, in, rows, 1), channels last
    # Dilation means nothing to a kernel of size 1, but on one thread torch gives other 1x1 convolutions of one sample
    # to a slower routine.
    rows = F.conv2d(rows, weight[:, :, None, None], bias, dilation=2)  # (1, out, rows, 1)
    return rows.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)  # (..., out)


class Linear(nn.Linear):
    """`nn.Linear` by way of `compute_linear`: the same parameters and numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return compute_linear(x, self.weight, self.bias)

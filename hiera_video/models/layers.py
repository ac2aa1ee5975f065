"""The parts of Hiera: attention, MLP, block, patch embedding, classifier.

Tokens are (B, U, M, D) in the order of `mask_units.unroll`: U mask units of M tokens each.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from pytorchvideo.layers.drop_path import DropPath
from torch import Tensor, nn

from hiera_video.models.cpu_linear import Linear, is_exporting
from hiera_video.models.mask_units import pool_windows

# CUDA's kernels give each window of a batch a place of its own in a launch grid, whose sides end here.
_MAX_WINDOWS = 65_535
_MAX_PLAIN_TOKENS = 256


class MaskUnitAttention(nn.Module):
    """Multi-head attention inside each mask unit, or over all tokens; queries may be max-pooled.

    Args:
        dim: input channels.
        dim_out: output channels.
        heads: attention heads, a divisor of dim_out.
        q_window: tokens that one pooled query stands for; 1 for no pooling.
        is_global: attend over all mask units instead of inside each.
        unit_windows: with is_global, the grid of mask units (uh, uw) and the units per side of a window (gh, gw) that
            attention stays in; None for no windows. Units of all frames are in one window.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        heads: int,
        *,
        q_window: int = 1,
        is_global: bool = False,
        unit_windows: tuple[Sequence[int], Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        if dim_out % heads:
            raise ValueError(f"heads must divide the width {dim_out}, got {heads}")
        self.heads = heads
        self.q_window = q_window
        self.is_global = is_global
        self.unit_windows = unit_windows
        self.qkv = Linear(dim, 3 * dim_out)
        self.proj = Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, U, M, dim) tokens in `unroll`'s order -> (B, U, M / q_window, dim_out)."""
        if self.unit_windows:
            return self._attend_in_windows(x, *self.unit_windows)
        return self._attend(x)

    def _attend_in_windows(self, x: Tensor, grid: Sequence[int], window: Sequence[int]) -> Tensor:
        (uh, uw), (gh, gw) = grid, window
        batch, units = x.shape[:2]
        if units % (uh * uw):
            raise ValueError(
                f"attention in windows of {gh} x {gw} mask units needs all {uh} x {uw} of them, got {units}"
            )
        sides = (uh // gh, gh, uw // gw, gw)
        x = x.unflatten(1, (-1, *sides)).permute(0, 2, 4, 1, 3, 5, 6, 7)  # (B, uh / gh, uw / gw, ut, gh, gw, M, dim)
        x = self._attend(x.reshape(-1, units // (sides[0] * sides[2]), *x.shape[-2:]))
        x = x.unflatten(0, (batch, sides[0], sides[2])).unflatten(3, (-1, gh, gw))
        return x.permute(0, 3, 1, 4, 2, 5, 6, 7).flatten(1, 5)  # (B, U, M / q_window, dim_out)

    def _attend(self, x: Tensor) -> Tensor:
        batch, units = x.shape[:2]
        qkv = self.qkv(x)  # (B, U, M, 3 * dim_out)
        # Windows go into the batch: fused attention kernels take 4-D q, k, v only.
        qkv = qkv.flatten(1, 2) if self.is_global else qkv.flatten(0, 1)  # (windows, N, 3 * dim_out)
        # One unbind instead of three selects: its backward fills one tensor instead of adding up three.
        q, k, v = qkv.unflatten(-1, (3, -1)).unbind(-2)  # 3 x (windows, N, dim_out)
        if self.q_window > 1:
            q = pool_windows(q, self.q_window)  # (windows, N / q_window, dim_out)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))  # (windows, heads, N, dim)
        x = _attend_in_parts(q, k, v)
        x = x.transpose(1, 2).reshape(batch, units, -1, self.proj.in_features)  # (B, U, M / q_window, dim_out)
        return self.proj(x)


def _attend_in_parts(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of more windows than CUDA's kernels take: 3 x (windows, heads, N, dim) -> (windows, heads, N', dim).

    Follows: pytorch#146704, where more than 65,535 windows end in an error of CUDA. An exported graph, whose batch is
        not known yet, gets one call.
    """
    if is_exporting() or q.shape[0] <= _MAX_WINDOWS:
        return _attend_at_once(q, k, v)
    parts = zip(*(t.split(_MAX_WINDOWS) for t in (q, k, v)), strict=True)
    return torch.cat([_attend_at_once(*part) for part in parts])


def _attend_at_once(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention by the fused kernel: 3 x (windows, heads, N, dim) -> (windows, heads, N', dim).

    On a CPU the backward pass of that kernel is slower in bfloat16 than plain products, which have instructions of
    their own there. They keep the scores of all pairs, so they are taken for short windows alone.
    """
    is_bf16_training = q.is_cpu and q.dtype == torch.bfloat16 and torch.is_grad_enabled()
    if not is_bf16_training or k.shape[-2] > _MAX_PLAIN_TOKENS:
        return F.scaled_dot_product_attention(q, k, v)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (windows, heads, N', N)
    return scores.softmax(dim=-1).to(v.dtype) @ v


class Mlp(nn.Module):
    """Two linear layers with a GELU between: (..., dim) -> (..., dim).

    Differs: `pytorchvideo.layers.Mlp` has the same parameters and numbers, but makes its own `nn.Linear`s.
    """

    def __init__(self, dim: int, dim_hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, dim_hidden)
        self.fc2 = Linear(dim_hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class HieraBlock(nn.Module):
    """A transformer block; where the width changes, a linear layer and max pooling stand in the skip path.

    Args:
        dim: input channels.
        dim_out: output channels.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP over dim_out.
        drop_path: probability to drop a residual branch of a sample in training.
        norm_layer: called with a width, gives the norm.
        q_window: see `MaskUnitAttention`.
        is_global: see `MaskUnitAttention`.
        unit_windows: see `MaskUnitAttention`.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        q_window: int = 1,
        is_global: bool = False,
        unit_windows: tuple[Sequence[int], Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = MaskUnitAttention(
            dim, dim_out, heads, q_window=q_window, is_global=is_global, unit_windows=unit_windows
        )
        self.norm2 = norm_layer(dim_out)
        self.mlp = Mlp(dim_out, int(dim_out * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.proj = Linear(dim, dim_out) if dim != dim_out else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, U, M, dim) tokens in `unroll`'s order -> (B, U, M / q_window, dim_out)."""
        x_norm = self.norm1(x)
        if self.proj is not None:
            x = self.proj(x_norm)
        x = pool_windows(x, self.attn.q_window) + self.drop_path(self.attn(x_norm))
        return x + self.drop_path(self.mlp(self.norm2(x)))


Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
CONVS: dict[int, Callable[..., Conv]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_CONV_FUNCTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


class PatchEmbed(nn.Module):
    """Overlapping patches by a strided convolution: (B, C, T, H, W) -> (B, T', H', W', D); for images without T.

    The input is padded with zeros, or with `padded` has what the convolution sees around it already.
    """

    def __init__(
        self, in_chans: int, dim: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = tuple(kernel), tuple(stride), tuple(padding)
        self.proj = CONVS[len(kernel)](in_chans, dim, self.kernel, self.stride, self.padding)

    def forward(self, x: Tensor, padded: bool = False) -> Tensor:
        if padded:
            num_dims = x.ndim - 2
            x = _CONV_FUNCTIONS[num_dims](x, self.proj.weight, self.proj.bias, self.stride, (0,) * num_dims)
        else:
            x = self.proj(x)
        return x.movedim(1, -1)  # (B, D, T', H', W') -> (B, T', H', W', D)


class AttentivePool(nn.Module):
    """Learned queries look over all tokens, one for each head: (B, N, D) -> (B, D).

    Follows: attentive probing as in V-JEPA (arXiv 2404.08471, section 4), with multi-head cross-attention alone.
    Differs: with one query, the keys' projection is part of it, a vector of D values for each head, and the output
        projection is part of the classifier. Neither changes what can be learned.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Parameter(torch.randn(num_heads, dim) / dim**0.5)
        self.value = Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        weights = (tokens @ self.query.T).softmax(dim=1)  # (B, N, heads)
        seen = weights.transpose(1, 2) @ tokens  # (B, heads, D)
        values = self.value(seen).unflatten(-1, (self.num_heads, -1))  # (B, heads, heads, D / heads)
        return values.diagonal(dim1=1, dim2=2).transpose(1, 2).flatten(1)  # each head keeps its own part: (B, D)


class Head(nn.Module):
    """Dropout and the linear classifier: (B, D) -> (B, K) logits.

    Differs: the released head applies a softmax in eval mode; here the output means the same in train and eval.
    """

    def __init__(self, dim: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.projection = Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(self.dropout(x))

"""Position embeddings of another size: tables of values in space, in time or in both, interpolated to another grid."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

RESIZE_KINDS = ("bicubic", "absolute_win")


def resize_table(table: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """Interpolates a table: time linear, space bicubic (antialiased where it shrinks).

    Args:
        table: (1, prod(old), D).
        old: its grid, (T',), (H', W') or (T', H', W').
        new: the grid wanted, of as many sides.

    Returns:
        (1, prod(new), D).
    """
    old, new = tuple(old), tuple(new)
    x = table.float().transpose(1, 2).unflatten(2, old)  # (1, D, [T',] H', W')
    if len(old) != 2 and old[0] != new[0]:
        steps = x.flatten(3).transpose(2, 3) if len(old) == 3 else x[:, :, None]  # (1, D, H' * W' or 1, T')
        steps = F.interpolate(steps.flatten(1, 2), size=new[0], mode="linear")  # (1, D * ..., T' new)
        x = steps.view(1, x.shape[1], -1, new[0]).transpose(2, 3).reshape(1, x.shape[1], new[0], *old[1:])
    if len(old) != 1 and old[-2:] != new[-2:]:
        maps = x.transpose(1, 2).flatten(0, 1) if len(old) == 3 else x  # (T' or 1, D, H', W')
        maps = F.interpolate(maps, size=new[-2:], mode="bicubic", antialias=True)  # (T' or 1, D, H' new, W' new)
        x = maps.unflatten(0, (1, -1)).transpose(1, 2)  # (1, D, T' or 1, H' new, W' new)
    return x.flatten(2).transpose(1, 2).to(table.dtype).contiguous()  # (1, prod(new), D)


def resize_by_windows(table: Tensor, old: Sequence[int], new: Sequence[int], window: Sequence[int]) -> Tensor:
    """Interpolates a spatial table in two parts: what repeats in each window stays aligned with the windows.

    Attention inside mask units teaches a table a pattern that repeats from unit to unit. Plain interpolation stretches
    it, so that it no longer fits the units, which keep their size.

    Args:
        table: (1, H' * W', D).
        old: its grid, (H', W').
        new: the grid wanted, multiples of the window.
        window: tokens per side of a mask unit, (mh, mw).

    Returns:
        (1, prod(new), D).

    Follows: "absolute win" of Bolya et al., "Window Attention is Bugged" (arXiv 2311.05613), for a table that was not
        trained in two parts.
    Differs: a slope over the whole table is no pattern of its windows: a plane is interpolated as a plane.
    """
    pattern = compute_window_pattern(table, old, window)  # (1, mh * mw, D)
    rest = table - tile_windows(pattern, old, window)
    return resize_table(rest, old, new) + tile_windows(pattern, new, window)


def compute_window_pattern(table: Tensor, grid: Sequence[int], window: Sequence[int]) -> Tensor:
    """What repeats in each window of a table, with mean 0: (1, H' * W', D) -> (1, mh * mw, D).

    It is the mean over windows of what a running mean as long as a window leaves over, taken where that mean does not
    touch the border. Zero where a side of the table has less than two windows, since nothing repeats there.
    """
    x = table.float().transpose(1, 2).unflatten(2, tuple(grid))  # (1, D, H', W')
    if any(side < 2 * size or side % size or size % 2 for side, size in zip(grid, window, strict=True)):
        return table.new_zeros(1, math.prod(window), table.shape[2])
    smooth = x
    for dim, size in zip((2, 3), window, strict=True):
        windows = smooth.unfold(dim, size + 1, 1)  # one token more than a window, whose ends count half each
        weight = torch.full((size + 1,), 1 / size)
        weight[0] = weight[-1] = 0.5 / size
        smooth = windows @ weight.to(windows)
    half = [size // 2 for size in window]
    inner = x[:, :, half[0] : -half[0], half[1] : -half[1]] - smooth  # whole windows, shifted by half of one
    mean = inner.unflatten(3, (-1, window[1])).unflatten(2, (-1, window[0])).mean(dim=(2, 4))  # (1, D, mh, mw)
    return mean.roll(half, dims=(2, 3)).flatten(2).transpose(1, 2).to(table.dtype)


def tile_windows(pattern: Tensor, grid: Sequence[int], window: Sequence[int]) -> Tensor:
    """Repeats a window over a grid: (1, mh * mw, D) -> (1, H' * W', D)."""
    x = pattern.transpose(1, 2).unflatten(2, tuple(window))  # (1, D, mh, mw)
    x = x.tile([side // size for side, size in zip(grid, window, strict=True)])
    return x.flatten(2).transpose(1, 2)


def join_windows(
    table: Tensor,
    pattern: Tensor,
    *,
    table_grid: Sequence[int],
    grid: Sequence[int],
    window: Sequence[int],
    antialias: bool = True,
) -> Tensor:
    """A spatial table that was trained in two parts, at any size.

    Args:
        table: (1, gh * gw, D), interpolated over the whole image.
        pattern: (1, mh * mw, D), repeated in each window.
        table_grid: (gh, gw).
        grid: (H', W'), multiples of the window.
        window: (mh, mw).
        antialias: as timm's Hiera interpolates; SAM2 does without, which gives other values also where it enlarges.

    Returns:
        (1, H' * W', D).
    """
    x = table.float().transpose(1, 2).unflatten(2, tuple(table_grid))  # (1, D, gh, gw)
    x = F.interpolate(x, size=tuple(grid), mode="bicubic", antialias=antialias)
    return x.flatten(2).transpose(1, 2).to(table.dtype) + tile_windows(pattern, grid, window)

"""Mask units: the order in which Hiera keeps its tokens, the way back to space and time, and random masks.

A mask unit is the block of neighboring tokens that is kept or masked as a whole, and that attends to itself in the
early stages (for video 1x8x8 tokens). `unroll` gives every mask unit a dimension of its own, and orders the tokens
inside it such that those which the first query pooling joins lie side by side; then the next pooling's windows, and so
on (for 2x2 pooling this is the Z-order curve). From then on

- mask-unit attention is attention over one dimension,
- max pooling over space is a maximum over `prod(q_stride)` consecutive tokens,
- dropping masked units is indexing one dimension,

whatever the number of dimensions of the input. The price: maps must be brought back by `reroll`.

Differs: the released code puts the pooling windows before the mask units, so that one mask unit is a strided set of
tokens. Only the order inside the model differs; nothing that is learned depends on it.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def _split_sizes(mask_unit_size: Sequence[int], q_stride: Sequence[int], num_pools: int) -> list[tuple[int, ...]]:
    """Splits a mask unit's sides into factors, coarsest first: what is left after all poolings, then the poolings."""
    rest = tuple(m // s**num_pools for m, s in zip(mask_unit_size, q_stride, strict=True))
    return [rest] + [tuple(q_stride)] * num_pools


def unroll(x: Tensor, mask_unit_size: Sequence[int], q_stride: Sequence[int], num_pools: int) -> Tensor:
    """Orders a map's tokens by mask unit.

    Args:
        x: (B, T', H', W', D), or (B, H', W', D) for images; each side a multiple of the mask unit's.
        mask_unit_size: tokens per side of a mask unit; each a multiple of q_stride ** num_pools.
        q_stride: tokens per side of a pooling window.
        num_pools: query poolings that are still to come.

    Returns:
        (B, U, M, D) contiguous: U mask units in spatial order, of M tokens each. Each prod(q_stride) consecutive
        tokens are one pooling window.
    """
    splits = _split_sizes(mask_unit_size, q_stride, num_pools)
    num_dims, num_splits = len(mask_unit_size), len(splits)
    grid = [n // m for n, m in zip(x.shape[1:-1], mask_unit_size, strict=True)]
    sides = [size for dim in range(num_dims) for size in (grid[dim], *(split[dim] for split in splits))]
    x = x.reshape(x.shape[0], *sides, x.shape[-1])  # e.g. (B, uh, rh, 2, 2, uw, rw, 2, 2, D)
    step = 1 + num_splits
    order = [1 + dim * step + level for level in range(step) for dim in range(num_dims)]
    x = x.permute(0, *order, x.ndim - 1)  # e.g. (B, uh, uw, rh, rw, 2, 2, 2, 2, D)
    return x.reshape(x.shape[0], math.prod(grid), -1, x.shape[-1])  # (B, U, M, D)


def reroll(x: Tensor, mask_unit_size: Sequence[int], q_stride: Sequence[int], num_pools: int) -> Tensor:
    """Undoes `unroll` inside each mask unit.

    Args:
        x: (B, U, M, D), all mask units or only the visible ones.
        mask_unit_size: tokens per side of a mask unit now, after the poolings that were already made.
        q_stride: tokens per side of a pooling window.
        num_pools: the poolings that `unroll` prepared and that were not made yet.

    Returns:
        (B, U, mt, mh, mw, D), or (B, U, mh, mw, D) for images: the map of each mask unit.
    """
    splits = _split_sizes(mask_unit_size, q_stride, num_pools)
    num_dims, num_splits = len(mask_unit_size), len(splits)
    sides = [size for split in splits for size in split]
    x = x.reshape(*x.shape[:2], *sides, x.shape[-1])  # e.g. (B, U, rh, rw, 2, 2, 2, 2, D)
    order = [2 + level * num_dims + dim for dim in range(num_dims) for level in range(num_splits)]
    x = x.permute(0, 1, *order, x.ndim - 1)  # e.g. (B, U, rh, 2, 2, rw, 2, 2, D)
    return x.reshape(*x.shape[:2], *mask_unit_size, x.shape[-1])  # e.g. (B, U, mh, mw, D)


def join_mask_units(x: Tensor, grid: Sequence[int]) -> Tensor:
    """Puts the maps of all mask units together.

    Args:
        x: (B, U, mt, mh, mw, D), or without mt for images.
        grid: mask units per side, prod(grid) = U.

    Returns:
        (B, T', H', W', D), or (B, H', W', D), in spatial order.
    """
    num_dims = len(grid)
    sides = x.shape[2:-1]
    x = x.reshape(x.shape[0], *grid, *sides, x.shape[-1])  # e.g. (B, uh, uw, mh, mw, D)
    order = [1 + dim + part * num_dims for dim in range(num_dims) for part in range(2)]
    x = x.permute(0, *order, x.ndim - 1)  # e.g. (B, uh, mh, uw, mw, D)
    return x.reshape(x.shape[0], *(g * s for g, s in zip(grid, sides, strict=True)), x.shape[-1])  # (B, H', W', D)


def pool_windows(x: Tensor, window: int) -> Tensor:
    """Maximum over each pooling window of unrolled tokens.

    Args:
        x: (..., M, D), in the order of `unroll`.
        window: tokens in a pooling window, prod(q_stride).

    Returns:
        (..., M / window, D).

    The gradient goes to one token of a window, the first of equal ones, as in max pooling; `amax` would share it out
    among equal ones. Without a gradient `amax` gives the same numbers ten times faster.
    """
    if window == 1:
        return x
    x = x.unflatten(-2, (-1, window))  # (..., M / window, window, D)
    if torch.is_grad_enabled() and x.requires_grad:
        return x.max(dim=-2).values
    return x.amax(dim=-2)


def compute_visible_units(mask: Tensor, batch_size: int, num_units: int) -> Tensor:
    """Indices of the mask units that a mask keeps. It waits for the mask's device, to know how many they are.

    Args:
        mask: (B, U) bool, True = keep.
        batch_size: B.
        num_units: U.

    Returns:
        (B, number of kept units) int64, ascending in each sample.

    Raises:
        ValueError: a wrong shape or dtype, no unit kept, or not equally many in each sample.
    """
    shape = (batch_size, num_units)
    if mask.dtype != torch.bool or tuple(mask.shape) != shape:
        raise ValueError(
            f"mask must be bool of shape (batch, mask units) = {shape}, got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    counts = mask.sum(dim=1)
    fewest, most = int(counts.min()), int(counts.max())
    if fewest != most or most == 0:
        raise ValueError(f"mask must keep equally many mask units in each sample, at least 1, got {counts.tolist()}")
    return mask.nonzero()[:, 1].view(mask.shape[0], most)  # (B, kept)


def list_units(mask: Tensor, count: int) -> Tensor:
    """Indices of the True units of a mask, without waiting for its device.

    Args:
        mask: (B, U) bool.
        count: how many are True in each sample. It is not checked: that would wait.

    Returns:
        (B, count) int64, ascending in each sample.
    """
    return mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :count]


def mark_units(units: Tensor, num_units: int) -> Tensor:
    """A mask that is True at the given units: (B, n) int64 -> (B, U) bool."""
    mask = torch.zeros(len(units), num_units, dtype=torch.bool, device=units.device)
    return mask.scatter(1, units, 1)


def locate_units(units: Tensor, grid: Sequence[int]) -> tuple[Tensor, ...]:
    """Places of mask units in their grid: (B, n) int64 -> for each side of the grid (B, n) int64.

    Differs: `torch.unravel_index` makes tensors of the grid's sides, and their copy waits for a GPU.
    """
    places = []
    for size in reversed(grid):
        places.append(units % size)
        units = units // size
    return tuple(reversed(places))


def take_rows(table: Tensor, index: Tensor) -> Tensor:
    """Takes rows of a table that all samples share: table (U, ...), index (B, n) int64 -> (B, n, ...).

    Its gradient is as large as the table; that of indexing an expanded table would have the batch on top.
    """
    rows = F.embedding(index, table.flatten(1))  # (B, n, prod(...))
    return rows.unflatten(-1, table.shape[1:])


def random_mask(batch_size: int, num_units: int, mask_ratio: float, device: torch.device | str = "cpu") -> Tensor:
    """Draws which mask units stay visible, each set equally likely.

    Args:
        batch_size: B.
        num_units: U.
        mask_ratio: share of the units to hide, in [0, 1); int(U * (1 - mask_ratio)) stay visible.
        device: where the mask is drawn.

    Returns:
        (B, U) bool, True = keep.

    Raises:
        ValueError: mask_ratio is outside [0, 1) or leaves no unit.

    Follows: the released code, the same mask under the same seed.
    """
    num_keep = count_kept(num_units, mask_ratio)
    noise = torch.rand(batch_size, num_units, device=device)
    visible = noise.argsort(dim=1)[:, :num_keep]
    return torch.zeros_like(noise, dtype=torch.bool).scatter_(1, visible, True)


def count_kept(num_units: int, mask_ratio: float) -> int:
    """How many of num_units mask units stay visible in `random_mask`, which says what it raises."""
    num_keep = int(num_units * (1 - mask_ratio))
    if not 0 <= mask_ratio < 1 or num_keep == 0:
        raise ValueError(f"mask_ratio must be in [0, 1) and leave at least 1 of {num_units} units, got {mask_ratio}")
    return num_keep


def tube_mask(batch_size: int, grid: Sequence[int], mask_ratio: float, device: torch.device | str = "cpu") -> Tensor:
    """Draws which mask units stay visible, the same place in all frames.

    Args:
        batch_size: B.
        grid: mask units per side, (ut, uh, uw); of an image (uh, uw), for which it is `random_mask`.
        mask_ratio: share of the places to hide, in [0, 1); ut * int(uh * uw * (1 - mask_ratio)) units stay visible.
        device: where the mask is drawn.

    Returns:
        (B, ut * uh * uw) bool, True = keep.

    Raises:
        ValueError: mask_ratio is outside [0, 1) or leaves no unit.
    """
    places = random_mask(batch_size, math.prod(grid[-2:]), mask_ratio, device)  # (B, uh * uw)
    return places.repeat(1, math.prod(grid[:-2]))  # (B, ut * uh * uw)


def draw_mask(grid: Sequence[int], mask_ratio: float, *, kind: str = "random") -> Tensor:
    """A mask of one clip, bool (U,), by `random_mask` or `tube_mask`, from torch's global generator.

    Args:
        grid: mask units per side.
        mask_ratio: share to hide.
        kind: "random" or "tube".

    Raises:
        ValueError: mask_ratio leaves no unit, or another kind.
    """
    if kind not in ("random", "tube"):
        raise ValueError(f"kind must be 'random' or 'tube', got {kind!r}")
    return (random_mask(1, math.prod(grid), mask_ratio) if kind == "random" else tube_mask(1, grid, mask_ratio))[0]


def choose_running_cells(mask: Tensor, grid: Sequence[int], num_chosen: int) -> Tensor:
    """Draws some of the hidden mask units, spread evenly over space and time.

    Each 2x2 cell of units is filled in a fixed order, diagonal first; the place where this begins moves on with each
    step in time, and begins anywhere in each sample. Which of equally early units are taken is random.

    Args:
        mask: (B, U) bool, True = keep, equally many in each sample.
        grid: mask units per side, (ut, uh, uw) or (uh, uw).
        num_chosen: how many to choose of the hidden units of each sample, at most all of them.

    Returns:
        (B, U) bool, True = chosen.

    Follows: the running cell masking of the decoder in VideoMAE V2 (arXiv 2303.16727, section 3.2).
    Differs: it chooses among the hidden units alone, and an exact number of them.
    """
    t, h, w = torch.meshgrid(*(torch.arange(n, device=mask.device) for n in (1, *grid)[-3:]), indexing="ij")
    place = 2 * ((h + w) % 2) + h % 2  # top left, bottom right, top right, bottom left: (ut, uh, uw)
    start = torch.randint(4, (len(mask), 1), device=mask.device)
    turn = ((place + t).flatten() + start) % 4 + torch.rand(mask.shape, device=mask.device)  # (B, U)
    chosen = turn.masked_fill(mask, torch.inf).argsort(dim=1)[:, :num_chosen]
    return torch.zeros_like(mask).scatter_(1, chosen, True)

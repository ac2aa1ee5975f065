"""The encoder of Hiera, a hierarchical vision transformer for videos and images, in classifiers and in pre-training.

Follows: Ryali et al., "Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles" (ICML 2023), section 3
and table 2; parameter names, shapes and numbers are those of the released package `hiera-transformer` 0.1.4.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate, chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hiera_video.models import mask_units
from hiera_video.models.layers import CONVS, HieraBlock, PatchEmbed
from hiera_video.models.mask_units import compute_visible_units, join_mask_units, reroll, take_rows, unroll
from hiera_video.models.position_embeddings import join_windows


class HieraEncoder(nn.Module):
    """Hiera up to its last block, for videos (three sizes in `input_size`) or images (two).

    `Hiera` adds the classifier, `HieraMAE` the decoder of pre-training; each has a norm after the last block.

    Args:
        input_size: (T, H, W) in frames and pixels, or (H, W); multiples of patch_stride * mask_unit_size.
        in_chans: C, color channels.
        embed_dim: D of the first stage.
        num_heads: attention heads of the first stage.
        stages: blocks per stage.
        q_pool: stages, from the second on, whose first block pools queries; MAE pre-training has one less.
        q_stride: tokens per side of a query pooling window.
        mask_unit_size: tokens per side of a mask unit, multiples of q_stride ** q_pool.
        mask_unit_attn: per stage, attention inside mask units (True) or global. A stage's first block still attends
            like the stage before.
        attn_window_units: mask units per side of a window, (gh, gw), inside which the attention of stages that would be
            global stays, in space; () for none. SAM2's windows are 7 x 7 units (L: 8 x 8). Not for pre-training.
        global_blocks: with attn_window_units, blocks that are global all the same, counted from 0.
        dim_mul: factor on the width from stage to stage.
        head_mul: factor on the heads from stage to stage.
        patch_kernel: size of the patch convolution's kernel, in frames and pixels.
        patch_stride: its stride.
        patch_padding: its padding.
        mlp_ratio: hidden width of the MLPs over D.
        drop_path_rate: drop path of the last block; it grows linearly from 0 in the first.
        norm_layer: name of a torch.nn norm, made with eps 1e-6, or a callable from a width to a module.
        sep_pos_embed: position embedding as a spatial plus a temporal table (video) instead of one table.
        pos_embed_window: the spatial table is made of two trained ones: one repeats in each mask unit, the other is
            interpolated over the whole frame. Such a model keeps its alignment with mask units at any size.
        pos_embed_global_size: of the latter, in its own tokens.
        activation_checkpointing: keep only each block's input for the backward pass and compute the rest again.

    Raises:
        ValueError: arguments that do not fit together.

    Follows: `hiera.Hiera` of the released package; pos_embed_window as timm's `hiera_base_abswin_256` has it.
    Differs: see `mask_units` (order of tokens); sizes are checked.
    """

    # Which of them a model has: `pos_embed_grids`.
    pos_embed: nn.Parameter
    pos_embed_spatial: nn.Parameter
    pos_embed_global: nn.Parameter
    pos_embed_window: nn.Parameter
    pos_embed_temporal: nn.Parameter

    def __init__(
        self,
        *,
        input_size: Sequence[int] = (224, 224),
        in_chans: int = 3,
        embed_dim: int = 96,
        num_heads: int = 1,
        stages: Sequence[int] = (2, 3, 16, 3),
        q_pool: int = 3,
        q_stride: Sequence[int] = (2, 2),
        mask_unit_size: Sequence[int] = (8, 8),
        mask_unit_attn: Sequence[bool] = (True, True, False, False),
        attn_window_units: Sequence[int] = (),
        global_blocks: Sequence[int] = (),
        dim_mul: float = 2.0,
        head_mul: float = 2.0,
        patch_kernel: Sequence[int] = (7, 7),
        patch_stride: Sequence[int] = (4, 4),
        patch_padding: Sequence[int] = (3, 3),
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        norm_layer: str | Callable[[int], nn.Module] = "LayerNorm",
        sep_pos_embed: bool = False,
        pos_embed_window: bool = False,
        pos_embed_global_size: Sequence[int] = (14, 14),
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"q_stride": q_stride, "mask_unit_size": mask_unit_size, "patch_kernel": patch_kernel}
        sizes |= {"patch_stride": patch_stride, "patch_padding": patch_padding}
        _check_dimensions(input_size, sizes, sep_pos_embed)
        if pos_embed_window and len(input_size) == 3 and not sep_pos_embed:
            raise ValueError("pos_embed_window of a video model needs sep_pos_embed")
        _check_stages(stages, mask_unit_attn, q_pool, mask_unit_size, q_stride)
        _check_input_size(input_size, patch_stride, mask_unit_size)
        if isinstance(norm_layer, str):
            if not hasattr(nn, norm_layer):
                raise ValueError(f"norm_layer must name a norm of torch.nn such as 'LayerNorm', got {norm_layer!r}")
            norm_layer = partial(getattr(nn, norm_layer), eps=1e-6)

        self.in_chans = in_chans
        self.mlp_ratio = mlp_ratio
        self.norm_layer = norm_layer
        self.input_size = tuple(input_size)
        self.patch_stride = tuple(patch_stride)
        self.q_pool = q_pool
        self.q_stride = tuple(q_stride)
        self.mask_unit_size = tuple(mask_unit_size)
        self.tokens_grid = _divide(input_size, patch_stride)
        self.mask_units_grid = _divide(self.tokens_grid, mask_unit_size)
        _check_windows(self.mask_units_grid[-2:], attn_window_units, global_blocks)
        self.attn_window_units, self.global_blocks = tuple(attn_window_units), tuple(global_blocks)
        self.stage_ends = [end - 1 for end in accumulate(stages)]
        self.sep_pos_embed = sep_pos_embed
        self.has_window_table = pos_embed_window
        self.pos_embed_global_size = tuple(pos_embed_global_size)
        self.activation_checkpointing = activation_checkpointing

        self.patch_embed = PatchEmbed(in_chans, embed_dim, patch_kernel, patch_stride, patch_padding)
        for name, grid in self.pos_embed_grids.items():
            setattr(self, name, nn.Parameter(torch.zeros(1, math.prod(grid), embed_dim)))
        self.widths = [embed_dim]
        heads = [num_heads]
        for _ in stages[1:]:
            self.widths.append(int(self.widths[-1] * dim_mul))
            heads.append(int(heads[-1] * head_mul))
        self.num_heads = heads[-1]  # of the last stage
        self.blocks = self._build_blocks(stages, heads, mask_unit_attn, drop_path_rate)

    def _build_blocks(
        self, stages: Sequence[int], heads: Sequence[int], mask_unit_attn: Sequence[bool], drop_path_rate: float
    ) -> nn.ModuleList:
        drop_paths = iter(torch.linspace(0, drop_path_rate, sum(stages), device="cpu").tolist())
        blocks = nn.ModuleList()
        for stage, depth in enumerate(stages):
            for i in range(depth):
                # A stage's first block gets, and attends like, the stage before.
                before = max(stage - 1, 0) if i == 0 else stage
                is_global = not mask_unit_attn[before]
                is_windowed = self.attn_window_units and is_global and len(blocks) not in self.global_blocks
                block = HieraBlock(
                    self.widths[before],
                    self.widths[stage],
                    heads[stage],
                    mlp_ratio=self.mlp_ratio,
                    drop_path=next(drop_paths),
                    norm_layer=self.norm_layer,
                    q_window=math.prod(self.q_stride) if before < stage <= self.q_pool else 1,
                    is_global=is_global,
                    unit_windows=(self.mask_units_grid[-2:], self.attn_window_units) if is_windowed else None,
                )
                blocks.append(block)
        return blocks

    def init_weights(self, beside: Iterable[nn.Module] = ()) -> None:
        """Draws the initial weights of all modules, and then of those beside it, as the released classifier does."""
        for name in self.pos_embed_grids:
            nn.init.trunc_normal_(self.get_parameter(name), std=0.02)
        for module in chain(self.modules(), *(other.modules() for other in beside)):
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
                nn.init.trunc_normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear | nn.LayerNorm):
                nn.init.constant_(module.bias, 0.02)

    @property
    def num_mask_units(self) -> int:
        """U, the length of a mask."""
        return math.prod(self.mask_units_grid)

    @property
    def num_layers(self) -> int:
        """How many values `get_layer_id` has: the embeddings, each block, and the norm with the head."""
        return len(self.blocks) + 2

    @property
    def pos_embed_grids(self) -> dict[str, tuple[int, ...]]:
        """The encoder's position embeddings: name -> tokens per side."""
        temporal = {"pos_embed_temporal": self.tokens_grid[:1]} if self.sep_pos_embed else {}
        if self.has_window_table:
            spatial = {"pos_embed_global": self.pos_embed_global_size, "pos_embed_window": self.mask_unit_size[-2:]}
            return spatial | temporal
        return {"pos_embed_spatial": self.tokens_grid[1:]} | temporal if temporal else {"pos_embed": self.tokens_grid}

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters, besides biases and norms, that weight decay should leave alone."""
        return set(self.pos_embed_grids)

    def get_layer_id(self, name: str) -> int:
        """Depth of a parameter, for layer-wise learning rate decay.

        Args:
            name: as in `named_parameters`.

        Returns:
            0 for patch and position embeddings, i + 1 for block i, num_layers - 1 for the norm and the head.

        Raises:
            ValueError: no such parameter.
        """
        try:
            self.get_parameter(name)
        except AttributeError as error:
            raise ValueError(f"name must be one of this model's parameters, got {name!r}") from error
        part, *rest = name.split(".")
        if part.startswith(("patch_embed", "pos_embed")):
            return 0
        return int(rest[0]) + 1 if part == "blocks" else self.num_layers - 1

    def norm_last(self, x: Tensor) -> Tensor:
        """The norm after the last block, which each kind of model has under its own name: (..., D) -> (..., D)."""
        raise NotImplementedError

    def encode(self, video: Tensor, mask: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Encodes clips, or with a mask their visible mask units alone.

        Args:
            video: (B, C, T, H, W) float, normalized; for images (B, C, H, W).
            mask: (B, U) bool, True = keep, equally many mask units kept in each sample.

        Returns:
            The last stage's tokens (B, N, D) before any norm, mask unit by mask unit.
            For each stage a map (B, T', H', W', D), for images (B, H', W', D), in spatial order; with a mask
            (B, visible mask units, mt, mh, mw, D), for images without mt.

        Raises:
            ValueError: the shape of the video or the mask does not fit the model.
        """
        visible = None if mask is None else self.find_visible(mask, video)
        x, stages = self.run_blocks(video, visible, with_stages=True)
        maps = [self._reroll(tokens, i, joined=mask is None) for i, tokens in enumerate(stages)]
        return x.flatten(1, 2), maps  # (B, U, M, D) -> (B, N, D)

    def find_visible(self, mask: Tensor, video: Tensor) -> Tensor:
        """What a mask keeps, see `compute_visible_units`, on the video's device."""
        visible = compute_visible_units(mask, len(video), self.num_mask_units)  # (B, kept)
        return visible.to(video.device, non_blocking=True)

    def forward_maps(self, video: Tensor) -> list[Tensor]:
        """The output of each stage in spatial order: (B, C, T, H, W) -> list of (B, T', H', W', D)."""
        return self.encode(video)[1]

    def forward_features(self, video: Tensor) -> Tensor:
        """The normed mean over the last stage's tokens, which a classifier sees: (B, C, T, H, W) -> (B, D)."""
        x, _ = self.run_blocks(video, None)
        return self.norm_last(x.mean(dim=(1, 2)))

    def run_blocks(
        self, video: Tensor, visible: Tensor | None, *, with_stages: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Runs all blocks on tokens in the order of `unroll`.

        Args:
            video: as in `encode`.
            visible: (B, kept) int64, the mask units to encode; None for all.
            with_stages: keep the output of each stage.

        Returns:
            The last stage's tokens (B, U, M, D), with U = kept where units are hidden; and those of each stage, or [].
        """
        x = self._embed(video, visible)
        stages = []
        for i, block in enumerate(self.blocks):
            x = self.run_block(block, x)
            if with_stages and i in self.stage_ends:
                stages.append(x)
        return x, stages

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        """Runs one block, with activation checkpointing where the model has it: tokens in, tokens out."""
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, x, use_reentrant=False)
        return block(x)

    def drop_time(self, video: Tensor) -> Tensor:
        """A clip of one frame as the picture that an image model takes: (B, C, 1, H, W) -> (B, C, H, W)."""
        is_clip = len(self.input_size) == 2 and video.ndim == 5 and video.shape[2] == 1
        return video[:, :, 0] if is_clip else video

    def _embed(self, video: Tensor, visible: Tensor | None) -> Tensor:
        video = self.drop_time(video)
        expected = (self.in_chans, *self.input_size)
        if tuple(video.shape[1:]) != expected or not video.is_floating_point():
            raise ValueError(
                f"video must be a float tensor of shape (batch, {', '.join(map(str, expected))}), got {video.dtype} of "
                f"shape {tuple(video.shape)}; for another size build the model with input_size"
            )
        pos = self._unroll(self._assemble_pos_embed())  # (1, U, M, D)
        if visible is None:
            return self._unroll(self.patch_embed(video)) + pos  # (B, U, M, D)
        windows = self._cut_visible_windows(video, visible)  # (B * kept, C, wt, wh, ww)
        x = self._unroll(self.patch_embed(windows, padded=True))  # (B * kept, 1, M, D)
        return x.view(*visible.shape, *x.shape[2:]) + take_rows(pos[0], visible)  # (B, kept, M, D)

    def _unroll(self, x: Tensor) -> Tensor:
        return unroll(x, self.mask_unit_size, self.q_stride, self.q_pool)

    def _assemble_pos_embed(self) -> Tensor:
        if self.has_window_table:
            spatial = join_windows(
                self.pos_embed_global,
                self.pos_embed_window,
                table_grid=self.pos_embed_global_size,
                grid=self.tokens_grid[-2:],
                window=self.mask_unit_size[-2:],
            )
        else:
            spatial = self.pos_embed_spatial if self.sep_pos_embed else self.pos_embed
        if not self.sep_pos_embed:
            return spatial.unflatten(1, self.tokens_grid)  # (1, T', H', W', D)
        spatial = spatial.unflatten(1, (1, *self.tokens_grid[1:]))  # (1, 1, H', W', D)
        return spatial + self.pos_embed_temporal[:, :, None, None]  # (1, T', H', W', D)

    def _cut_visible_windows(self, video: Tensor, visible: Tensor) -> Tensor:
        """The pixels that the patches of each visible mask unit see, hidden ones zeroed, so that nothing leaks.

        (B, C, T, H, W) and (B, kept) -> (B * kept, C, wt, wh, ww), for images without wt. The windows overlap.
        """
        patch = self.patch_embed
        video = self._hide_masked(video, mask_units.mark_units(visible, self.num_mask_units))
        windows = F.pad(video, [pad for pad in reversed(patch.padding) for _ in range(2)])
        for dim, (m, stride, kernel) in enumerate(
            zip(self.mask_unit_size, self.patch_stride, patch.kernel, strict=True)
        ):
            windows = windows.unfold(2 + dim, (m - 1) * stride + kernel, m * stride)
        # windows: (B, C, ut, uh, uw, wt, wh, ww), a view: only the visible ones are ever written
        sample = torch.arange(len(video), device=video.device)[:, None]  # (B, 1)
        unit = mask_units.locate_units(visible, self.mask_units_grid)  # 3 x (B, kept)
        index: tuple[Tensor | slice, ...] = (sample, slice(None), *unit)
        return windows[index].flatten(0, 1)  # (B * kept, C, wt, wh, ww)

    def _hide_masked(self, video: Tensor, mask: Tensor) -> Tensor:
        """Zeroes the pixels under masked units: the patches overlap, and would leak them into visible tokens."""
        grid = self.mask_units_grid
        unit = _divide(self.input_size, grid)
        sides = [size for pair in zip(grid, unit, strict=True) for size in pair]
        keep = mask.reshape(-1, 1, *(size for g in grid for size in (g, 1)))  # e.g. (B, 1, uh, 1, uw, 1)
        pixels = video.reshape(*video.shape[:2], *sides)  # e.g. (B, C, uh, 32, uw, 32)
        return pixels.masked_fill(~keep, 0.0).reshape(video.shape)  # (B, C, T, H, W)

    def _reroll(self, x: Tensor, stage: int, *, joined: bool) -> Tensor:
        pools = min(stage, self.q_pool)
        unit = tuple(m // s**pools for m, s in zip(self.mask_unit_size, self.q_stride, strict=True))
        x = reroll(x, unit, self.q_stride, self.q_pool - pools)  # (B, U, mt, mh, mw, D)
        return join_mask_units(x, self.mask_units_grid) if joined else x


def _divide(sizes: Sequence[int], by: Sequence[int]) -> tuple[int, ...]:
    return tuple(n // d for n, d in zip(sizes, by, strict=True))


def _check_dimensions(input_size: Sequence[int], sizes: dict[str, Sequence[int]], sep_pos_embed: bool) -> None:
    if len(input_size) not in CONVS:
        raise ValueError(f"input_size must be (T, H, W) or (H, W), got {tuple(input_size)}")
    if sep_pos_embed and len(input_size) != 3:
        raise ValueError(f"sep_pos_embed needs input_size (T, H, W), got {tuple(input_size)}")
    for name, value in sizes.items():
        if len(value) != len(input_size):
            raise ValueError(f"{name} must have {len(input_size)} values like input_size, got {tuple(value)}")


def _check_stages(
    stages: Sequence[int],
    mask_unit_attn: Sequence[bool],
    q_pool: int,
    mask_unit_size: Sequence[int],
    q_stride: Sequence[int],
) -> None:
    if len(mask_unit_attn) != len(stages) or min(stages) < 1:
        raise ValueError(
            f"stages must be positive and mask_unit_attn have one value per stage, got {stages}, {mask_unit_attn}"
        )
    if not 0 <= q_pool < len(stages):
        raise ValueError(f"q_pool must be in [0, {len(stages)}) for {len(stages)} stages, got {q_pool}")
    if any(m % s**q_pool for m, s in zip(mask_unit_size, q_stride, strict=True)):
        raise ValueError(
            f"mask_unit_size must be a multiple of q_stride ** q_pool = {tuple(s**q_pool for s in q_stride)}, "
            f"got {tuple(mask_unit_size)}"
        )


def _check_windows(units_grid: Sequence[int], window: Sequence[int], global_blocks: Sequence[int]) -> None:
    if not window and not global_blocks:
        return
    if len(window) != 2 or any(side < 1 or units % side for units, side in zip(units_grid, window, strict=True)):
        raise ValueError(
            f"attn_window_units must be two divisors of the mask units' grid, {tuple(units_grid)}, got {tuple(window)}"
            + ("; global_blocks mean something only with it" if not window else "")
        )


def _check_input_size(input_size: Sequence[int], patch_stride: Sequence[int], mask_unit_size: Sequence[int]) -> None:
    units = [p * m for p, m in zip(patch_stride, mask_unit_size, strict=True)]
    below = tuple(max(n // u, 1) * u for n, u in zip(input_size, units, strict=True))
    above = tuple(max(-(-n // u), 1) * u for n, u in zip(input_size, units, strict=True))
    if below != tuple(input_size):
        raise ValueError(
            f"input_size must be a multiple of {tuple(units)} (patch_stride * mask_unit_size), got {tuple(input_size)}"
            f"; legal sizes nearby: {below}" + (f", {above}" if above != below else "")
        )

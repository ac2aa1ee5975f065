"""Masked autoencoder pre-training of Hiera: a sparse encoder, multi-scale fusion, a decoder, a target.

Follows: Ryali et al. (ICML 2023), section 4 and appendix; parameter names, shapes and numbers are those of the released
package `hiera-transformer` 0.1.4.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from hiera_video.models.cpu_linear import Linear, compute_linear
from hiera_video.models.encoder import HieraEncoder
from hiera_video.models.layers import CONVS, Conv, Head, HieraBlock
from hiera_video.models.mask_units import (
    choose_running_cells,
    count_kept,
    list_units,
    mark_units,
    random_mask,
    take_rows,
    unroll,
)
from hiera_video.models.targets import (
    HOG_BINS,
    HOG_CELL_PX,
    compute_contrastive_loss,
    compute_hog_patches,
    normalize_patches,
    patchify,
)

_TARGETS = ("pixel", "hog")
_MASK_RATIOS = {2: 0.6, 3: 0.9}  # of images, of videos


class HieraMAE(HieraEncoder):
    """Hiera that learns to predict the mask units it does not see.

    Args:
        decoder_embed_dim: Dd, width of the decoder.
        decoder_depth: its blocks.
        decoder_num_heads: its attention heads, a divisor of Dd.
        target: "pixel", or "hog" (histograms of oriented gradients: 9 bins, cells of 8 px).
        norm_target: normalize each pixel patch by its own mean and variance; HOG is normalized cell by cell always.
        multi_scale: the decoder sees the fused output of all stages, or that of the last one alone, an ablation of the
            paper's table 3b.
        contrastive_weight: factor of `compute_contrastive_loss` beside the mean squared error. The paper does not use
            it.
        contrastive_temperature: see there.
        decoder_keep_ratio: share of the hidden mask units, drawn anew each time, that are decoded and scored, in
            (0, 1]. 1 is the paper; below 1 goes beyond it to save time, see `choose_running_cells`.
        num_classes: has an effect on the initial weights alone, see below.
        **encoder: arguments of `HieraEncoder`. Pre-training has q_pool one less than the classifier.

    Raises:
        ValueError: arguments that do not fit together.

    Follows: `hiera.hiera_mae` of the released package; under the same seed the initial weights are the same. Its 16
        decoder heads are the default, also for video, since its weights were trained so; the paper's table says 8.
    Differs: the decoder sees visible tokens first, then hidden ones, which attention does not notice; only hidden
        tokens go through its last norm and the prediction.
    """

    def __init__(
        self,
        *,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        target: str = "pixel",
        norm_target: bool = True,
        multi_scale: bool = True,
        contrastive_weight: float = 0.0,
        contrastive_temperature: float = 0.07,
        decoder_keep_ratio: float = 1.0,
        num_classes: int = 1000,
        **encoder: Any,
    ) -> None:
        super().__init__(**encoder)
        if decoder_depth < 1 or decoder_embed_dim % decoder_num_heads:
            raise ValueError(
                "decoder_depth must be at least 1 and decoder_num_heads divide decoder_embed_dim, got "
                f"{decoder_depth}, {decoder_num_heads}, {decoder_embed_dim}"
            )
        _check_target(target, contrastive_weight, contrastive_temperature, decoder_keep_ratio)
        self.decoder_num_heads = decoder_num_heads
        self.target = target
        self.norm_target = norm_target
        self.contrastive_weight = contrastive_weight
        self.contrastive_temperature = contrastive_temperature
        self.decoder_keep_ratio = decoder_keep_ratio
        pooled = [s**self.q_pool for s in self.q_stride]
        self.pred_stride = tuple(p * s for p, s in zip(self.patch_stride, pooled, strict=True))
        self.pred_grid = tuple(n // s for n, s in zip(self.tokens_grid, pooled, strict=True))

        # The released model is first made as a classifier, whose head it then throws away. Drawing such a head, for
        # nothing else, leaves the random generator where the same seed gives the released weights.
        width = self.widths[-1]
        self.init_weights(beside=[Head(width, num_classes, dropout=0.0)])
        self.encoder_norm = self.norm_layer(width)
        self.multi_scale_fusion_heads = nn.ModuleList()
        for stage in range(self.q_pool if multi_scale else 0):
            kernel = tuple(s ** (self.q_pool - stage) for s in self.q_stride)
            self.multi_scale_fusion_heads.append(CONVS[len(kernel)](self.widths[stage], width, kernel, kernel))
        self.multi_scale_fusion_heads.append(nn.Identity())  # the last stage has the decoder's grid
        self.decoder_embed = Linear(width, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, math.prod(self.pred_grid), decoder_embed_dim))
        self.decoder_blocks = nn.ModuleList(
            HieraBlock(
                decoder_embed_dim,
                decoder_embed_dim,
                decoder_num_heads,
                mlp_ratio=self.mlp_ratio,
                norm_layer=self.norm_layer,
            )
            for _ in range(decoder_depth)
        )
        self.decoder_norm = self.norm_layer(decoder_embed_dim)
        self.decoder_pred = Linear(decoder_embed_dim, self._compute_patch_values())
        self._init_mae_weights()

    def _compute_patch_values(self) -> int:
        sides = self.pred_stride[-2:]
        if self.target == "pixel":
            return math.prod(sides) * self.in_chans
        if any(side % HOG_CELL_PX for side in sides):
            raise ValueError(f"target 'hog' needs tokens of multiples of {HOG_CELL_PX} px, got {sides}")
        return math.prod(side // HOG_CELL_PX for side in sides) * HOG_BINS * self.in_chans

    def _init_mae_weights(self) -> None:
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.decoder_pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
            if isinstance(module, (nn.Linear, nn.LayerNorm)):
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))  # as if it were a linear layer

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters, besides biases and norms, that weight decay should leave alone."""
        return super().no_weight_decay() | {"decoder_pos_embed", "mask_token"}

    def forward(
        self,
        video: Tensor,
        mask_ratio: float | None = None,
        mask: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Predicts hidden mask units from visible ones.

        Args:
            video: (B, C, T, H, W) float, normalized; for images (B, C, H, W).
            mask_ratio: share of the mask units to hide at random, when none are given. By default the paper's: 0.9
                for videos, 0.6 for images.
            mask: (B, U) bool, True = keep, equally many kept in each sample; at least one kept and one hidden. On the
                CPU too: how many are kept must be known, and for a mask on a GPU that means to wait for it.
            visible: instead of a mask what `compute_visible_units` makes of it, (B, kept) int64, ascending, on the
                video's device. With it the model waits for nothing and is one graph for torch.compile. The indices are
                taken as they are.

        Returns:
            loss: a scalar, the mean squared error over the scored tokens, plus the contrastive term if it has weight.
            pred: (scored tokens of the batch, P), sample by sample in spatial order; the scored tokens are the hidden
                ones, or a share of them with decoder_keep_ratio below 1.
            label: the same shape, the truth. For P see `patchify` and `compute_hog_patches`.
            mask: (B, U) bool, the mask given or drawn.

        Raises:
            ValueError: the shape of the video, the mask or visible does not fit the model, both of the latter are
                given, or mask_ratio leaves none.
        """
        video = self.drop_time(video)
        if mask is not None and visible is not None:
            raise ValueError("mask and visible say the same: give one of them, got both")
        if mask is not None:
            visible = self.find_visible(mask, video)
        elif visible is None:
            visible = self._draw_visible(video, mask_ratio)
        kept, hidden = self._find_hidden(visible, len(video))
        if self.decoder_keep_ratio < 1:
            num_chosen = max(round(hidden.shape[1] * self.decoder_keep_ratio), 1)
            hidden = list_units(choose_running_cells(kept, self.mask_units_grid, num_chosen), num_chosen)
        tokens = self._find_tokens(hidden).sort(dim=1).values
        pred = self.decode(self.encode_visible(video, visible), visible, tokens)
        label = self.compute_label(video, tokens)
        mask = kept if mask is None else mask
        return self.compute_loss(pred, label), pred.flatten(0, 1), label.flatten(0, 1), mask

    def norm_last(self, x: Tensor) -> Tensor:
        """The encoder's norm: (..., D) -> (..., D)."""
        return self.encoder_norm(x)

    def encode_visible(self, video: Tensor, visible: Tensor) -> Tensor:
        """Encodes visible mask units and fuses all stages.

        Args:
            video: as in `forward`.
            visible: (B, kept) int64, indices of mask units.

        Returns:
            (B, kept, M', D): M' tokens of each unit on the last stage's grid.
        """
        _, stages = self.run_blocks(video, visible, with_stages=True)
        return self.fuse_stages(stages)

    def fuse_stages(self, stages: list[Tensor]) -> Tensor:
        """Brings the stages' tokens (B, U, M, D) to the last stage's grid and width, adds them up, norms the sum."""
        # Without pooling a later stage replaces an earlier one.
        stages = stages[: len(self.multi_scale_fusion_heads) - 1] + stages[-1:]
        parts = [
            self._project_windows(head, tokens, self.q_pool - i)
            for i, (head, tokens) in enumerate(zip(self.multi_scale_fusion_heads, stages, strict=True))
        ]
        return self.encoder_norm(sum(parts[1:], parts[0]))

    def _project_windows(self, head: nn.Module, tokens: Tensor, num_pools: int) -> Tensor:
        """A convolution whose kernel is its stride, on unrolled tokens, where each of its windows lies contiguous."""
        if not isinstance(head, Conv):
            return head(tokens)
        weight = unroll(head.weight.movedim(1, -1), head.kernel_size, self.q_stride, num_pools)  # (D, 1, window, Ds)
        windows = tokens.unflatten(2, (-1, math.prod(head.kernel_size))).flatten(3)  # (B, U, M', window * Ds)
        return compute_linear(windows, weight.flatten(1), head.bias)

    def decode(self, latent: Tensor, visible: Tensor, tokens: Tensor) -> Tensor:
        """Predicts hidden tokens.

        Args:
            latent: (B, kept, M', D) from `encode_visible`.
            visible: (B, kept) int64, its mask units.
            tokens: (B, n) int64, the places to predict on the last stage's grid. Hidden tokens that are not among them
                are not there for the decoder.

        Returns:
            (B, n, P).
        """
        pos = self.decoder_pos_embed[0]  # (N', Dd)
        x = self.decoder_embed(latent).flatten(1, 2)  # (B, kept * M', Dd)
        x = x + take_rows(pos, self._find_tokens(visible))
        mask_tokens = self.mask_token + take_rows(pos, tokens)  # (B, n, Dd)
        num_visible = x.shape[1]
        x = torch.cat([x, mask_tokens], dim=1)[:, None]  # (B, 1, tokens, Dd): one window
        for block in self.decoder_blocks:
            x = self.run_block(block, x)
        return self.decoder_pred(self.decoder_norm(x[:, 0, num_visible:]))

    @torch.no_grad()
    def compute_label(self, video: Tensor, tokens: Tensor) -> Tensor:
        """The truth of what `decode` predicts: video as in `forward`, tokens (B, n) int64 -> (B, n, P)."""
        compute_patches = patchify if self.target == "pixel" else compute_hog_patches
        patches = compute_patches(video, self.pred_stride).flatten(1, -2)  # (B, N', P)
        label = patches[torch.arange(len(video), device=video.device)[:, None], tokens]
        return normalize_patches(label)[0] if self.target == "pixel" and self.norm_target else label

    def compute_loss(self, pred: Tensor, label: Tensor) -> Tensor:
        """pred and label (B, n, P) -> a scalar, see `forward`."""
        loss = ((pred - label) ** 2).mean()
        if self.contrastive_weight:
            loss = loss + self.contrastive_weight * compute_contrastive_loss(pred, label, self.contrastive_temperature)
        return loss

    @torch.no_grad()
    def reconstruct(self, video: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Predicts all hidden tokens, to look at them; `paint_patches` puts them into the video.

        Args:
            video: as in `forward`.
            mask: as in `forward`.

        Returns:
            pred: (B, T', H', W', P), for images without T'; 0 where a token is visible.
            hidden: (B, T', H', W') bool, for images without T'.

        Raises:
            ValueError: as `forward`.
        """
        video = self.drop_time(video)
        visible = self.find_visible(mask, video)
        _, hidden = self._find_hidden(visible, len(video))
        tokens = self._find_tokens(hidden).sort(dim=1).values  # (B, n)
        pred = self.decode(self.encode_visible(video, visible), visible, tokens)  # (B, n, P)
        shape = len(video), math.prod(self.pred_grid)
        index = tokens[..., None].expand_as(pred)  # (B, n, P)
        patches = pred.new_zeros(*shape, pred.shape[-1]).scatter_(1, index, pred)  # (B, N', P)
        is_hidden = torch.zeros(shape, dtype=torch.bool, device=pred.device).scatter_(1, tokens, True)  # (B, N')
        return patches.unflatten(1, self.pred_grid), is_hidden.unflatten(1, self.pred_grid)

    def _draw_visible(self, video: Tensor, mask_ratio: float | None) -> Tensor:
        if mask_ratio is None:
            mask_ratio = _MASK_RATIOS[len(self.input_size)]
        mask = random_mask(len(video), self.num_mask_units, mask_ratio, video.device)
        return list_units(mask, count_kept(self.num_mask_units, mask_ratio))  # (B, kept)

    def _find_hidden(self, visible: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
        """From indices of visible mask units (B, kept) to the mask (B, U) and the hidden ones (B, U - kept)."""
        num_units = self.num_mask_units
        if visible.ndim != 2 or len(visible) != batch_size or visible.dtype != torch.int64:
            raise ValueError(
                f"visible must be int64 of shape (batch = {batch_size}, kept), got {visible.dtype} of shape "
                f"{tuple(visible.shape)}"
            )
        if not 0 < visible.shape[1] < num_units:
            raise ValueError(
                f"mask must keep and hide at least 1 of {num_units} mask units, got {visible.shape[1]} kept"
                + (", none hidden" if visible.shape[1] == num_units else "")
            )
        kept = mark_units(visible, num_units)
        return kept, list_units(~kept, num_units - visible.shape[1])

    def _find_tokens(self, units: Tensor) -> Tensor:
        """Places of mask units' tokens on the last stage's grid, unit by unit: (B, n) -> (B, n * M'), both int64."""
        places = torch.arange(math.prod(self.pred_grid), device=units.device).view(1, *self.pred_grid, 1)
        size = [n // u for n, u in zip(self.pred_grid, self.mask_units_grid, strict=True)]
        by_unit = unroll(places, size, self.q_stride, 0)[0, ..., 0]  # (U, M')
        return by_unit[units].flatten(1)  # (B, n * M')


def _check_target(target: str, weight: float, temperature: float, keep_ratio: float) -> None:
    if target not in _TARGETS:
        raise ValueError(f"target must be one of {', '.join(_TARGETS)}, got {target!r}")
    if weight < 0:
        raise ValueError(f"contrastive_weight must be at least 0, got {weight}")
    if temperature <= 0:
        raise ValueError(f"contrastive_temperature must be above 0, got {temperature}")
    if not 0 < keep_ratio <= 1:
        raise ValueError(f"decoder_keep_ratio must be in (0, 1], got {keep_ratio}")

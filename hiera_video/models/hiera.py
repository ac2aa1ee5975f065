"""Hiera as a classifier of videos and images: the encoder, a norm, and a head."""

from typing import Any

import torch
from torch import Tensor

from hiera_video.models.encoder import HieraEncoder
from hiera_video.models.layers import AttentivePool, Head

HEAD_TYPES = ("mean", "attentive")


class Hiera(HieraEncoder):
    """Hiera for classification.

    Args:
        num_classes: K.
        head_type: what the classifier sees: "mean", of all tokens; "attentive", what learned queries find among them.
        head_dropout: dropout before the classifier.
        head_init_scale: factor on the classifier's initial weights.
        **encoder: arguments of `HieraEncoder`.

    Raises:
        ValueError: arguments that do not fit together.

    Follows: `hiera.Hiera` of the released package `hiera-transformer` 0.1.4; under the same seed the initial weights
        are the same.
    Differs: see `Head` (no softmax) and `HieraEncoder`.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        head_type: str = "mean",
        head_dropout: float = 0.0,
        head_init_scale: float = 0.001,
        **encoder: Any,
    ) -> None:
        super().__init__(**encoder)
        if head_type not in HEAD_TYPES:
            raise ValueError(f"head_type is {head_type!r}; legal: {', '.join(HEAD_TYPES)}")
        self.norm = self.norm_layer(self.widths[-1])
        self.pool = AttentivePool(self.widths[-1], self.num_heads) if head_type == "attentive" else None
        self.head = Head(self.widths[-1], num_classes, head_dropout)
        self.init_weights()
        with torch.no_grad():
            self.head.projection.weight.mul_(head_init_scale)
            self.head.projection.bias.mul_(head_init_scale)

    def norm_last(self, x: Tensor) -> Tensor:
        """The norm before the head: (..., D) -> (..., D)."""
        return self.norm(x)

    def no_weight_decay(self) -> set[str]:
        """See `HieraEncoder.no_weight_decay`."""
        return super().no_weight_decay() | ({"pool.query"} if self.pool else set())

    def forward_features(self, video: Tensor) -> Tensor:
        """What the classifier sees: (B, C, T, H, W) -> (B, D)."""
        if self.pool is None:
            return super().forward_features(video)
        x, _ = self.run_blocks(video, None)
        return self.pool(self.norm(x.flatten(1, 2)))

    def forward(self, video: Tensor, return_intermediates: bool = False) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Classifies clips.

        Args:
            video: (B, C, T, H, W) float, normalized; for images (B, C, H, W).
            return_intermediates: also return the output of each stage.

        Returns:
            Logits (B, K), in train and eval mode alike.
            With return_intermediates a second value: for each stage a map (B, T', H', W', D), for images
            (B, H', W', D), in spatial order.

        Raises:
            ValueError: the shape of the video does not fit the model.
        """
        if return_intermediates:
            tokens, maps = self.encode(video)  # (B, N, D)
            return self.classify_tokens(tokens), maps
        x, _ = self.run_blocks(video, None)
        return self.classify_tokens(x.flatten(1, 2))  # (B, U, M, D) -> (B, N, D)

    def classify_units(self, video: Tensor, visible: Tensor) -> Tensor:
        """Classifies clips from some of their mask units alone, as pre-training encodes them: the rest costs nothing.

        Args:
            video: (B, C, T, H, W) float, normalized; for images (B, C, H, W).
            visible: (B, kept) int64, the mask units to look at, equally many in each sample. Pixels under the others
                change nothing at all.

        Returns:
            Logits (B, K).

        Raises:
            ValueError: the shape of the video does not fit the model, or its attention has windows of mask units, from
                which none can be left out.
        """
        if self.attn_window_units:
            raise ValueError(
                f"attn_window_units is {self.attn_window_units}: this model's attention has windows of mask units, so "
                "none can be left out; it needs attn_window_units ()"
            )
        x, _ = self.run_blocks(video, visible)
        return self.classify_tokens(x.flatten(1, 2))  # (B, kept, M, D) -> (B, N, D)

    def classify_tokens(self, tokens: Tensor) -> Tensor:
        """What the head makes of the last stage's tokens, in any order: (B, N, D) -> logits (B, K)."""
        if self.pool is not None:
            return self.head(self.pool(self.norm(tokens)))
        return self.head(self.norm(tokens.mean(dim=1)))

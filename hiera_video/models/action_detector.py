"""Hiera as a detector of actions: the encoder, and a head that says of each box what is done in it."""

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import roi_align

from hiera_video.models.encoder import HieraEncoder
from hiera_video.models.layers import Head

_BINS = 7  # per side of a box


class HieraActionDetector(HieraEncoder):
    """Hiera for actions of persons, or of whatever is in the boxes that somebody found.

    The last stage's map is normed and averaged over time; each box is cut out of it into 7 x 7 bins (RoIAlign), and the
    largest value of each channel goes through dropout to a linear classifier. The names of the parameters are those of
    `Hiera`, so that weights of a classifier fit.

    Args:
        num_classes: K.
        head_dropout: dropout before the classifier.
        head_init_scale: factor on the classifier's initial weights.
        **encoder: arguments of `HieraEncoder`, for videos.

    Raises:
        ValueError: arguments that do not fit together, or an encoder of images.

    Follows: Ryali et al. (arXiv 2306.00989), appendix on AVA; SlowFast's `ResNetRoIHead`: sampling_ratio 0, aligned.
    Differs: boxes are scaled by the map's own stride, 1/32; SlowFast's default is 1/16.
    """

    def __init__(
        self, *, num_classes: int = 80, head_dropout: float = 0.0, head_init_scale: float = 0.001, **encoder: Any
    ) -> None:
        super().__init__(**encoder)
        if len(self.input_size) != 3:
            raise ValueError(f"input_size must be (T, H, W) for actions, got {self.input_size}")
        self.norm = self.norm_layer(self.widths[-1])
        self.head = Head(self.widths[-1], num_classes, head_dropout)
        self.init_weights()
        with torch.no_grad():
            self.head.projection.weight.mul_(head_init_scale)
            self.head.projection.bias.mul_(head_init_scale)

    @property
    def map_stride_px(self) -> int:
        """Pixels from one cell of the last map to the next."""
        stride = self.patch_stride[-1] * self.q_stride[-1] ** self.q_pool
        if stride != self.patch_stride[-2] * self.q_stride[-2] ** self.q_pool:
            raise ValueError(
                f"patch_stride {self.patch_stride} and q_stride {self.q_stride} must be the same both ways"
            )
        return stride

    def norm_last(self, x: Tensor) -> Tensor:
        """The norm before the head: (..., D) -> (..., D)."""
        return self.norm(x)

    def forward(self, video: Tensor, boxes: Tensor) -> Tensor:
        """Classifies the boxes of clips.

        Args:
            video: (B, C, T, H, W) float, normalized.
            boxes: float (R, 5): the number of the clip in the batch, then x1, y1, x2, y2 in pixels of the clip. R may
                be 0. A box without area gets the same logits in every clip: those of features that are all zero.

        Returns:
            Logits (R, K); classes do not exclude each other.

        Raises:
            ValueError: a shape does not fit.
        """
        if boxes.ndim != 2 or boxes.shape[1] != 5:
            raise ValueError(f"boxes must be (R, 5): clip, x1, y1, x2, y2; got shape {tuple(boxes.shape)}")
        return self.head(self.pool_boxes(self._make_map(video), boxes))

    def _make_map(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, H', W', D), normed, the mean over time."""
        x, _ = self.run_blocks(video, None)  # (B, U, M, D)
        last = self._reroll(x, len(self.stage_ends) - 1, joined=True)  # (B, T', H', W', D)
        return self.norm(last).mean(dim=1)

    # Compiled code would be made anew for each number of boxes.
    @torch.compiler.disable
    def pool_boxes(self, maps: Tensor, boxes: Tensor) -> Tensor:
        """The largest value of each channel inside each box.

        RoIAlign runs in float32, or float64 where the map is: pixels do not fit into half precision, and the map and
        the boxes must be of one type.

        Args:
            maps: (B, H', W', D).
            boxes: as in `forward`.

        Returns:
            (R, D) of the map's type.
        """
        dtype = torch.promote_types(maps.dtype, torch.float32)
        channels_first = maps.to(dtype).permute(0, 3, 1, 2)  # (B, H', W', D) -> (B, D, H', W')
        boxes = boxes.to(maps.device, dtype)
        bins = roi_align(
            channels_first.contiguous(),
            boxes,
            output_size=_BINS,
            spatial_scale=1 / self.map_stride_px,
            sampling_ratio=0,
            aligned=True,
        )  # (R, D, 7, 7)
        has_area = (boxes[:, 3:] > boxes[:, 1:3]).all(dim=1, keepdim=True)  # (R, 1)
        return (bins.amax(dim=(2, 3)) * has_area).to(maps.dtype)

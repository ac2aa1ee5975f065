"""Mask R-CNN on a pyramid of feature maps: Hiera's, or those of any other backbone."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import MultiScaleRoIAlign, initLevelMapper

from hiera_video.models.encoder import HieraEncoder

LEVELS = ("0", "1", "2", "3")  # names of a pyramid's maps, which have strides 4, 8, 16, 32; "pool" follows
LOSSES = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask")
_FIRST_LEVEL, _LAST_LEVEL = 2, 5  # log2 of the strides
_BOX_POOL_SIDE, _MASK_POOL_SIDE = 7, 14
_ASPECT_RATIOS = (0.5, 1.0, 2.0)
_layer_norm = partial(LayerNorm2d, eps=1e-6)

Sizes = Sequence[tuple[int, int]]
Targets = Sequence[dict[str, Tensor]]


class DetectionHeads(nn.Module):
    """The parts of Mask R-CNN that look at a pyramid: region proposals, boxes with classes, and masks.

    Args:
        num_classes: K, the background not counted.
        channels: of the pyramid, and of the convolutions here.
        hidden_dim: width of the layer before boxes and classes.
        anchor_sizes: side of the anchors of each of the five levels, px of the picture.
        num_proposals: that training keeps of each picture; tests keep at most 1000.
        num_rois: of these, how many the box head learns from, a quarter of them on things.
        norm_layer: of the box and mask heads: number of channels -> module.

    Follows: ViTDet (arXiv 2203.16527; detectron2's `mask_rcnn_vitdet`): two convolutions before proposals, four before
        boxes and before masks, with norms over channels. It is torchvision's code.
    Differs: from detectron2 as torchvision does: RoIAlign has 2 x 2 samples a bin and is not shifted by half a pixel;
        boxes have a smooth L1 loss; and training keeps 2000 proposals, not 1000.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        channels: int = 256,
        hidden_dim: int = 1024,
        anchor_sizes: Sequence[int] = (32, 64, 128, 256, 512),
        num_proposals: int = 2000,
        num_rois: int = 512,
        norm_layer: Callable[[int], nn.Module] = _layer_norm,
    ) -> None:
        super().__init__()
        if len(anchor_sizes) != len(LEVELS) + 1:
            raise ValueError(f"anchor_sizes must be one for each of {len(LEVELS) + 1} levels, got {list(anchor_sizes)}")
        anchors = AnchorGenerator([(side,) for side in anchor_sizes], [_ASPECT_RATIOS] * len(anchor_sizes))
        layers = [channels] * 4
        shape = (channels, _BOX_POOL_SIDE, _BOX_POOL_SIDE)
        backbone = nn.Identity()
        backbone.out_channels = channels  # type: ignore[assignment]  # all that the parts below ask of a backbone
        whole = MaskRCNN(
            backbone,
            rpn_anchor_generator=anchors,
            rpn_head=RPNHead(channels, len(_ASPECT_RATIOS), conv_depth=2),
            rpn_pre_nms_top_n_train=num_proposals,  # of each level
            rpn_post_nms_top_n_train=num_proposals,
            box_roi_pool=_make_pool(_BOX_POOL_SIDE),
            box_head=FastRCNNConvFCHead(shape, layers, [hidden_dim], norm_layer=norm_layer),
            box_predictor=FastRCNNPredictor(hidden_dim, num_classes + 1),
            box_batch_size_per_image=num_rois,
            mask_roi_pool=_make_pool(_MASK_POOL_SIDE),
            mask_head=MaskRCNNHeads(channels, layers, 1, norm_layer=norm_layer),
            mask_predictor=MaskRCNNPredictor(channels, channels, num_classes + 1),
        )
        self.rpn, self.roi_heads = whole.rpn, whole.roi_heads
        for part in (self.rpn.head, self.roi_heads.box_predictor, self.roi_heads.mask_predictor):
            part.register_forward_hook(_to_float)

    def forward(
        self, maps: dict[str, Tensor], pictures: Tensor, sizes: Sizes, targets: Targets | None = None
    ) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """Losses in training, detections otherwise.

        Args:
            maps: of a pyramid, by `LEVELS` and "pool", each (B, channels, H', W').
            pictures: (B, 3, H, W), of which only the size matters.
            sizes: (height, width) of what is no padding in each picture, at its upper left.
            targets: in training, of each picture: ``boxes`` float32 (n, 4) as x1, y1, x2, y2 in px, ``labels`` int64
                (n,) in [1, K], ``masks`` uint8 (n, H, W).

        Returns:
            `LOSSES` by name, or an empty dict.
            An empty list, or of each picture ``boxes`` (m, 4), ``labels`` in [1, K], ``scores``, the best first, and
            ``masks`` float32 (m, 1, 28, 28): the probability of the thing on a grid over its box.
        """
        maps = {name: level.float() for name, level in maps.items()}  # anchors and boxes are computed in their type
        proposals, losses = self.rpn(ImageList(pictures, list(sizes)), maps, targets)
        detections, more = self.roi_heads(maps, proposals, list(sizes), targets)
        return {**losses, **more}, detections


class MaskRCNNDetector(nn.Module):
    """Mask R-CNN on any backbone: (B, 3, H, W) -> maps by `LEVELS` and "pool"; see `DetectionHeads` for the rest."""

    def __init__(self, backbone: nn.Module, heads: DetectionHeads) -> None:
        super().__init__()
        self.backbone, self.heads = backbone, heads

    def forward(
        self, pictures: Tensor, sizes: Sizes, targets: Targets | None = None
    ) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """Losses and detections of normalized pictures (B, 3, H, W), see `DetectionHeads`."""
        return self.heads(self.backbone(pictures), pictures, sizes, targets)


class HieraDetector(HieraEncoder):
    """Hiera, a feature pyramid on the outputs of its four stages, and the heads of Mask R-CNN.

    The encoder's parameters have the names that they have in the classifier, so that all its weights can be loaded;
    for layer-wise decay everything else is the last layer.

    Args:
        num_classes: K, the background not counted.
        heads: arguments of `DetectionHeads`.
        **encoder: arguments of `HieraEncoder`, for pictures.

    Raises:
        ValueError: arguments that do not fit together.

    Follows: the Hiera paper (arXiv 2306.00989), section 5, which puts ViTDet's Mask R-CNN on Hiera's stages.
    Differs: no code was released; that the maps go into the pyramid without a norm of their own follows SAM2 (MViT has
        one).
    """

    def __init__(self, *, num_classes: int, heads: dict[str, Any] | None = None, **encoder: Any) -> None:
        super().__init__(**encoder)
        if len(self.input_size) != 2 or len(self.widths) != len(LEVELS):
            raise ValueError(f"a detector needs a model of images with 4 stages, got input_size {self.input_size}")
        self.init_weights()
        arguments = heads or {}
        self.heads = DetectionHeads(num_classes, **arguments)
        channels = arguments.get("channels", 256)
        self.pyramid = FeaturePyramidNetwork(self.widths, channels, LastLevelMaxPool(), norm_layer=_layer_norm)

    def norm_last(self, x: Tensor) -> Tensor:
        """Raises ValueError: pooled features come after a norm that a detector does not have."""
        raise ValueError(
            "a detector has no norm after its last block, and so no pooled features and no logits to extract or "
            "export; EXTRACT.LAYER stage4 or map4 gives its encoder's features, and weights of a classifier have both"
        )

    def forward(
        self, pictures: Tensor, sizes: Sizes, targets: Targets | None = None
    ) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """Losses and detections.

        Args:
            pictures: (B, 3, H, W) float, normalized, padded with zeros at the lower right.
            sizes: see `DetectionHeads.forward`.
            targets: see there.

        Returns:
            See there.

        Raises:
            ValueError: the shape of the pictures does not fit the model.
        """
        maps = (stage.movedim(-1, 1) for stage in self.forward_maps(pictures))  # each (B, D, H', W')
        return self.heads(self.pyramid(OrderedDict(zip(LEVELS, maps, strict=True))), pictures, sizes, targets)


def _make_pool(side: int) -> MultiScaleRoIAlign:
    """RoIAlign on the pyramid, with its strides given.

    torchvision would infer them, once and for all, from the first pictures' sizes without their padding: wrongly where
    these are not near squares.
    """
    pool = MultiScaleRoIAlign(list(LEVELS), output_size=side, sampling_ratio=2)
    pool.scales = [0.5**level for level in range(_FIRST_LEVEL, _LAST_LEVEL + 1)]
    pool.map_levels = initLevelMapper(_FIRST_LEVEL, _LAST_LEVEL)
    return pool


def _to_float(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    """Numbers that autocast made are float32 from here on: losses and boxes need it."""
    if isinstance(outputs, Tensor):
        return outputs.float()
    return type(outputs)(_to_float(module, inputs, output) for output in outputs)

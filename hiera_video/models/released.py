"""The released weights by name: their addresses, their classes, their licence."""

from __future__ import annotations

import os

from hiera_video.models.variants import MODELS
from hiera_video.utils.logging import get_logger
from hiera_video.utils.pathmgr import is_cached

_logger = get_logger(__name__)

_ADDRESS = "https://dl.fbaipublicfiles.com/hiera"
_LICENCE = "CC BY-NC 4.0"
_VIDEO_SIZES = ("base", "base_plus", "large", "huge")
_IMAGE_SIZES = ("tiny", "small", *_VIDEO_SIZES)
# Name, as torch.hub has it -> how the file of a size is called, which sizes there are, whose classes its head knows.
WEIGHTS = {
    "mae_k400_ft_k400": ("hiera_{}_16x224", _VIDEO_SIZES, "kinetics400"),
    "mae_k400": ("mae_hiera_{}_16x224", _VIDEO_SIZES, ""),
    "mae_in1k_ft_in1k": ("hiera_{}_224", _IMAGE_SIZES, "imagenet1k"),
    "mae_in1k": ("mae_hiera_{}_224", _IMAGE_SIZES, ""),
}


def resolve_weights(model_name: str, weights: str) -> str:
    """The address of released weights for a model; a path or URL as it is.

    Weights of images fit a model of videos (they are inflated), and those of pre-training a classifier.

    Args:
        model_name: one of `build.model_names`.
        weights: a name in `WEIGHTS`, a path or a URL. A file of such a name comes first.

    Raises:
        ValueError: there are no such weights of this size.
    """
    if weights not in WEIGHTS or os.path.exists(weights):
        return weights
    pattern, sizes, _ = WEIGHTS[weights]
    size = model_name.removeprefix("mae_").removeprefix("hiera_").rsplit("_", 1)[0]
    if model_name not in MODELS or size not in sizes:
        raise ValueError(f"there are no released weights {weights} for {model_name}; there are for {', '.join(sizes)}")
    address = f"{get_address()}/{pattern.format(size)}.pth"
    if not is_cached(address):
        _logger.info("%s: downloading %s; the licence of the released weights is %s", weights, address, _LICENCE)
    return address


def get_address() -> str:
    """Where the released files lie; the environment variable HIERA_VIDEO_WEIGHTS_URL names a mirror."""
    return os.environ.get("HIERA_VIDEO_WEIGHTS_URL", _ADDRESS).rstrip("/")


def get_class_names(weights: str) -> tuple[str, ...]:
    """The classes of a released head, in its order: of Kinetics-400 or ImageNet-1K. Empty for anything else.

    Args:
        weights: a name in `WEIGHTS`, or the address of a released file.

    Source: torchvision, which has them with its own weights for these data sets.
    """
    name = weights
    if weights.startswith(get_address()):
        file = weights.rsplit("/", 1)[1].removesuffix(".pth")
        files = {pattern.format(size): name for name, (pattern, sizes, _) in WEIGHTS.items() for size in sizes}
        name = files.get(file, "")
    dataset = WEIGHTS[name][2] if name in WEIGHTS else ""
    if dataset == "kinetics400":
        from torchvision.models.video import R3D_18_Weights  # takes a second to import

        return tuple(R3D_18_Weights.KINETICS400_V1.meta["categories"])
    if dataset == "imagenet1k":
        from torchvision.models import ResNet50_Weights

        return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
    return ()

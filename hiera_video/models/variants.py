"""The named models: plain dicts of constructor arguments."""

from typing import Any

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 96, "num_heads": 1, "stages": (1, 2, 7, 2)},
    "small": {"embed_dim": 96, "num_heads": 1, "stages": (1, 2, 11, 2)},
    "base": {"embed_dim": 96, "num_heads": 1, "stages": (2, 3, 16, 3)},
    "base_plus": {"embed_dim": 112, "num_heads": 2, "stages": (2, 3, 16, 3)},
    "large": {"embed_dim": 144, "num_heads": 2, "stages": (2, 6, 36, 4)},
    "huge": {"embed_dim": 256, "num_heads": 4, "stages": (2, 6, 36, 4)},
}

_IMAGE: dict[str, Any] = {"input_size": (224, 224), "num_classes": 1000}
_VIDEO: dict[str, Any] = {
    "input_size": (16, 224, 224),
    "num_classes": 400,
    "q_stride": (1, 2, 2),
    "mask_unit_size": (1, 8, 8),
    "patch_kernel": (3, 7, 7),
    "patch_stride": (2, 4, 4),
    "patch_padding": (1, 3, 3),
    "sep_pos_embed": True,
}

MODELS = {f"hiera_{size}_224": _IMAGE | arguments for size, arguments in SIZES.items()} | {
    f"hiera_{size}_16x224": _VIDEO | arguments for size, arguments in SIZES.items()
}
MODELS |= {f"mae_{name}": arguments | {"q_pool": 2} for name, arguments in MODELS.items()}

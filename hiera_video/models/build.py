"""The named models: a plain dict of constructor arguments."""

import difflib
import inspect
from collections.abc import Iterable
from typing import Any

from fvcore.common.config import CfgNode

from hiera_video.models.encoder import HieraEncoder
from hiera_video.models.hiera import Hiera
from hiera_video.models.hiera_mae import HieraMAE

_SIZES: dict[str, dict[str, Any]] = {
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

_MODELS = {f"hiera_{size}_224": _IMAGE | arguments for size, arguments in _SIZES.items()} | {
    f"hiera_{size}_16x224": _VIDEO | arguments for size, arguments in _SIZES.items()
}
_MODELS |= {f"mae_{name}": arguments | {"q_pool": 2} for name, arguments in _MODELS.items()}


def model_names() -> list[str]:
    """The names that `build_model` knows."""
    return list(_MODELS)


def build_model(name: str, **overrides: Any) -> Hiera | HieraMAE:
    """Makes a model with random weights: a `HieraMAE` for mae_*, else a `Hiera`.

    Args:
        name: one of `model_names`.
        **overrides: arguments of `HieraEncoder` and of the model's own class that replace the variant's, e.g.
            num_classes=174, input_size=(32, 224, 224).

    Raises:
        ValueError: an unknown name or argument, or arguments that do not fit together.

    Follows: Ryali et al. (arXiv 2306.00989), table 2; the names are those of the released package, and
        [mae_]hiera_tiny_16x224 and [mae_]hiera_small_16x224 beside them.
    """
    if name not in _MODELS:
        raise ValueError(f"name must be a known model, got {name!r}; legal: {', '.join(_nearest_first(name, _MODELS))}")
    model_class = HieraMAE if name.startswith("mae_") else Hiera
    legal = [
        argument.name
        for takes in (HieraEncoder, model_class)
        for argument in inspect.signature(takes).parameters.values()
        if argument.kind is not argument.VAR_KEYWORD
    ]
    for key in overrides:
        if key not in legal:
            raise ValueError(f"{key!r} is not an argument of {name}; legal: {', '.join(_nearest_first(key, legal))}")
    return model_class(**(_MODELS[name] | overrides))


def _nearest_first(word: str, legal: Iterable[str]) -> list[str]:
    return sorted(legal, key=lambda other: -difflib.SequenceMatcher(None, str(word), other).ratio())


def build_model_from_cfg(cfg: CfgNode, *, crop_size: int) -> Hiera | HieraMAE:
    """The video model that MODEL, HIERA and MAE describe, for clips of DATA.NUM_FRAMES x crop_size x crop_size.

    Args:
        crop_size: height and width, px.

    Raises:
        ValueError: the name is not a video model's, or the size does not fit its mask units.
    """
    name = cfg.MODEL.MODEL_NAME
    if name in _MODELS and len(_MODELS[name]["input_size"]) != 3:
        videos = [other for other in _MODELS if other.endswith("_16x224") and other[:4] == name[:4]]
        raise ValueError(f"MODEL.MODEL_NAME = {name} is an image model; for videos: {', '.join(videos)}")
    variant = {"embed_dim": cfg.HIERA.EMBED_DIM, "num_heads": cfg.HIERA.NUM_HEADS, "stages": cfg.HIERA.STAGES}
    return build_model(
        name,
        input_size=(cfg.DATA.NUM_FRAMES, crop_size, crop_size),
        num_classes=cfg.MODEL.NUM_CLASSES,
        drop_path_rate=cfg.MODEL.DROP_PATH_RATE,
        activation_checkpointing=cfg.MODEL.ACT_CHECKPOINT,
        **{argument: value for argument, value in variant.items() if value},  # 0 and [] leave the variant's own
        **(_build_decoder_arguments(cfg) if name.startswith("mae_") else _build_head_arguments(cfg)),
    )


def _build_head_arguments(cfg: CfgNode) -> dict[str, Any]:
    return {"head_dropout": cfg.MODEL.DROPOUT_RATE, "head_init_scale": cfg.HIERA.HEAD_INIT_SCALE}


def _build_decoder_arguments(cfg: CfgNode) -> dict[str, Any]:
    mae = cfg.MAE
    return {
        "decoder_embed_dim": mae.DECODER_EMBED_DIM,
        "decoder_depth": mae.DECODER_DEPTH,
        "decoder_num_heads": mae.DECODER_NUM_HEADS,
        "target": mae.TARGET,
        "norm_target": mae.NORM_TARGET,
        "contrastive_weight": mae.CONTRASTIVE_WEIGHT,
        "decoder_keep_ratio": mae.DECODER_KEEP_RATIO,
    }


def build_mae_from_cfg(cfg: CfgNode, *, crop_size: int | None = None) -> HieraMAE:
    """The masked autoencoder of `build_model_from_cfg`, for clips of crop_size, by default DATA.TRAIN_CROP_SIZE.

    Raises:
        ValueError: MODEL.MODEL_NAME names another kind of model, or see there.
    """
    model = build_model_from_cfg(cfg, crop_size=crop_size or cfg.DATA.TRAIN_CROP_SIZE)
    if not isinstance(model, HieraMAE):
        raise ValueError(f"MODEL.MODEL_NAME = {cfg.MODEL.MODEL_NAME} is no model of pre-training; mae_* are")
    return model

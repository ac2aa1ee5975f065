"""Models by name, and as a config describes them."""

import difflib
import inspect
from collections.abc import Iterable
from typing import Any, TypeVar, cast

import torch
from fvcore.common.config import CfgNode
from torch import nn

from hiera_video.models.action_detector import HieraActionDetector
from hiera_video.models.encoder import HieraEncoder
from hiera_video.models.freeze import freeze_stages
from hiera_video.models.hiera import Hiera
from hiera_video.models.hiera_mae import HieraMAE
from hiera_video.models.mask_rcnn import HieraDetector
from hiera_video.models.released import resolve_weights
from hiera_video.models.variants import MODELS
from hiera_video.models.weights import load_weights
from hiera_video.utils.logging import get_logger

_logger = get_logger(__name__)
AnyModel = TypeVar("AnyModel", Hiera, HieraMAE, HieraActionDetector)


def model_names() -> list[str]:
    """The names that `build_model` knows."""
    return list(MODELS)


def build_model(name: str, *, weights: str | None = None, **overrides: Any) -> Hiera | HieraMAE:
    """Makes a model: a `HieraMAE` for mae_*, else a `Hiera`.

    Args:
        name: one of `model_names`.
        weights: the name of released weights, such as "mae_k400_ft_k400" or "mae_k400" (see `released.WEIGHTS`), a
            path or a URL, for `load_weights`; None for random ones.
        **overrides: arguments of `HieraEncoder` and of the model's own class that replace the variant's, e.g.
            num_classes=174, input_size=(32, 224, 224).

    Raises:
        ValueError: an unknown name or argument, arguments that do not fit together, or weights that do not fit.
        FileNotFoundError: no such weights.

    Follows: Ryali et al. (arXiv 2306.00989), table 2; the names are those of the released package, and
        [mae_]hiera_tiny_16x224 and [mae_]hiera_small_16x224 beside them.
    """
    model: Hiera | HieraMAE
    if str(name).startswith("mae_"):
        model = _make_model(HieraMAE, name, overrides)
    else:
        model = _make_model(Hiera, name, overrides)
    if weights is not None:
        report = load_weights(model, resolve_weights(name, weights))
        _logger.info("%s", report)
    return model


def _make_model(model_class: type[AnyModel], name: str, overrides: dict[str, Any]) -> AnyModel:
    """A model of a class, of a named variant, with random weights."""
    if name not in MODELS:
        raise ValueError(f"name must be a known model, got {name!r}; legal: {', '.join(_nearest_first(name, MODELS))}")
    legal = [
        argument.name
        for takes in (HieraEncoder, model_class)
        for argument in inspect.signature(takes).parameters.values()
        if argument.kind is not argument.VAR_KEYWORD
    ]
    for key in overrides:
        if key not in legal:
            raise ValueError(f"{key!r} is not an argument of {name}; legal: {', '.join(_nearest_first(key, legal))}")
    return model_class(**(MODELS[name] | overrides))


def _nearest_first(word: str, legal: Iterable[str]) -> list[str]:
    return sorted(legal, key=lambda other: -difflib.SequenceMatcher(None, str(word), other).ratio())


def build_model_from_cfg(cfg: CfgNode, *, crop_size: int) -> Hiera | HieraMAE | HieraActionDetector | HieraDetector:
    """The model that TASK, MODEL, HIERA and MAE describe, for clips of DATA.NUM_FRAMES x crop_size x crop_size.

    A model of images takes clips of one frame. With TASK detect_actions the head scores boxes; with TASK detect it is
    a detector of pictures, see `build_detector_from_cfg`.

    Args:
        crop_size: height and width, px.

    Raises:
        ValueError: an image model with more than one frame, a video model with one, or a size that does not fit the
            mask units.
    """
    if cfg.TASK == "detect":
        return build_detector_from_cfg(cfg, crop_size=crop_size)
    name = cfg.MODEL.MODEL_NAME
    is_image = name in MODELS and len(MODELS[name]["input_size"]) == 2
    if name in MODELS and is_image != (cfg.DATA.NUM_FRAMES == 1):
        others = [o for o in MODELS if (o[:4], "16x" in o) == (name[:4], is_image)]
        raise ValueError(
            f"MODEL.MODEL_NAME = {name} is {'an image' if is_image else 'a video'} model, which does not go with "
            f"DATA.NUM_FRAMES = {cfg.DATA.NUM_FRAMES}: images are clips of 1 frame. "
            f"For {'videos' if is_image else 'images'}: {', '.join(others)}"
        )
    arguments = dict(
        input_size=(crop_size, crop_size) if is_image else (cfg.DATA.NUM_FRAMES, crop_size, crop_size),
        num_classes=cfg.MODEL.NUM_CLASSES,
        **_build_encoder_arguments(cfg),
        **(_build_decoder_arguments(cfg) if name.startswith("mae_") else _build_head_arguments(cfg)),
    )
    is_boxes = cfg.TASK == "detect_actions"
    model = _make_model(HieraActionDetector, name, arguments) if is_boxes else build_model(name, **arguments)
    freeze_stages(model, cfg.MODEL.FREEZE_STAGES)
    return model


def build_detector_from_cfg(cfg: CfgNode, *, crop_size: int) -> HieraDetector:
    """The detector of MODEL, HIERA and DETECTOR, for pictures of crop_size x crop_size.

    Raises:
        ValueError: MODEL.MODEL_NAME is no classifier of images, or a size that does not fit the mask units.
    """
    name = cfg.MODEL.MODEL_NAME
    legal = [other for other in MODELS if other.startswith("hiera_") and len(MODELS[other]["input_size"]) == 2]
    if name not in legal:
        raise ValueError(f"MODEL.MODEL_NAME = {name}: TASK = detect takes a model of images: {', '.join(legal)}")
    detector = cfg.DETECTOR
    heads = {
        "channels": detector.CHANNELS,
        "hidden_dim": detector.HIDDEN_DIM,
        "anchor_sizes": detector.ANCHOR_SIZES,
        "num_proposals": detector.NUM_PROPOSALS,
        "num_rois": detector.NUM_ROIS,
    }
    own = {"num_classes": cfg.MODEL.NUM_CLASSES, "input_size": (crop_size, crop_size)}
    return HieraDetector(heads=heads, **(MODELS[name] | _build_encoder_arguments(cfg) | own))


def _build_encoder_arguments(cfg: CfgNode) -> dict[str, Any]:
    variant = {"embed_dim": cfg.HIERA.EMBED_DIM, "num_heads": cfg.HIERA.NUM_HEADS, "stages": cfg.HIERA.STAGES}
    return {
        "drop_path_rate": cfg.MODEL.DROP_PATH_RATE,
        "activation_checkpointing": cfg.MODEL.ACT_CHECKPOINT,
        "pos_embed_window": cfg.HIERA.POS_EMBED_WINDOW,
        "attn_window_units": cfg.HIERA.ATTN_WINDOW_UNITS,
        "global_blocks": cfg.HIERA.GLOBAL_BLOCKS,
        **{argument: value for argument, value in variant.items() if value},  # 0 and [] leave the variant's own
    }


def build_compiled(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """The model as jobs call it: with MODEL.COMPILE compiled by the first call, else as it is.

    Classifiers and autoencoders must be one graph; detectors, with shapes that depend on the boxes, may be several.
    """
    is_one_graph = cfg.TASK in ("classify", "pretrain")
    return cast(nn.Module, torch.compile(model, fullgraph=is_one_graph)) if cfg.MODEL.COMPILE else model


def _build_head_arguments(cfg: CfgNode) -> dict[str, Any]:
    head = {"head_type": "attentive"} if cfg.MODEL.HEAD == "attentive" else {}  # a head for boxes has no type
    return head | {"head_dropout": cfg.MODEL.DROPOUT_RATE, "head_init_scale": cfg.HIERA.HEAD_INIT_SCALE}


def _build_decoder_arguments(cfg: CfgNode) -> dict[str, Any]:
    mae = cfg.MAE
    return {
        "decoder_embed_dim": mae.DECODER_EMBED_DIM,
        "decoder_depth": mae.DECODER_DEPTH,
        "decoder_num_heads": mae.DECODER_NUM_HEADS,
        "target": mae.TARGET,
        "norm_target": mae.NORM_TARGET,
        "contrastive_weight": mae.CONTRASTIVE_WEIGHT,
        "contrastive_temperature": mae.CONTRASTIVE_TEMPERATURE,
        "multi_scale": mae.MULTI_SCALE,
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

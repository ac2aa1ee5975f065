"""What embeddings depend on, and the side-car that says so beside them."""

from __future__ import annotations

import datetime
from typing import Any

from fvcore.common.config import CfgNode

from hiera_video.config import compute_digest, dump_config
from hiera_video.embeddings.store import check_settings, load_side_car, write_side_car
from hiera_video.models.features import POOLED
from hiera_video.streams.windows import build_clip_planner
from hiera_video.utils.distributed import get_world_size
from hiera_video.utils.logging import get_logger
from hiera_video.utils.versions import get_versions
from hiera_video.video import describe_backend

logger = get_logger(__name__)

# What embeddings depend on, beside the weights and the videos. Batches and processes are not among them: they change
# the last bits at most.
_CONTENT_KEYS = (
    *("MODEL.MODEL_NAME", "HIERA.EMBED_DIM", "HIERA.NUM_HEADS", "HIERA.STAGES"),
    *("HIERA.ATTN_WINDOW_UNITS", "HIERA.GLOBAL_BLOCKS", "HIERA.POS_EMBED_WINDOW", "MODEL.POS_EMBED_RESIZE"),
    *("DATA.NUM_FRAMES", "DATA.SAMPLING_RATE", "DATA.TARGET_FPS", "DATA.SAMPLING", "DATA.USE_OFFSET_SAMPLING"),
    *("DATA.DECODING_BACKEND", "DATA.TEST_CROP_SIZE", "DATA.MAX_SHORT_SIDE", "DATA.INTERPOLATION", "DATA.TRANSFORMS"),
    *("DATA.TRAIN_JITTER_SCALES", "DATA.MEAN", "DATA.STD"),
    *("EXTRACT.CLIPS", "EXTRACT.WINDOW", "EXTRACT.STRIDE", "EXTRACT.UNIT", "EXTRACT.NUM_CLIPS", "EXTRACT.NUM_CROPS"),
    *("EXTRACT.LAYER", "EXTRACT.AVERAGE", "EXTRACT.L2_NORMALIZE", "EXTRACT.DTYPE", "EXTRACT.PRECISION"),
)


def get_unused_parameters(cfg: CfgNode) -> tuple[str, ...]:
    """Beginnings of the names of parameters that EXTRACT.LAYER does not need: a head, a decoder, the last norm."""
    beside_encoder = ("head.", "decoder_", "mask_token", "multi_scale_fusion_heads.")
    return beside_encoder if cfg.EXTRACT.LAYER == POOLED else (*beside_encoder, "norm.", "encoder_norm.")


def check_output(cfg: CfgNode, sha256: str) -> None:
    """Raises ValueError where OUTPUT_DIR has embeddings with other settings, or of other weights."""
    check_settings(cfg.OUTPUT_DIR, _get_settings(cfg, sha256))


def describe_extraction(cfg: CfgNode, *, checkpoint: str, sha256: str, shape: tuple[int, ...], num_videos: int) -> None:
    """Writes the side-car of OUTPUT_DIR: what its first run depends on, and a line for each run.

    Args:
        cfg: of this run; it passed `check_output`.
        checkpoint: where the weights are from.
        sha256: of the weights.
        shape: of an embedding.
        num_videos: of this run's list.
    """
    first = load_side_car(cfg.OUTPUT_DIR) or {
        "settings": _get_settings(cfg, sha256),
        "checkpoint": checkpoint,
        "shape": shape,
        "clips": build_clip_planner(cfg).describe(),
        "decoder": describe_backend(cfg.DATA.DECODING_BACKEND),
        "config_digest": compute_digest(cfg),
        "config": dump_config(cfg),
        "runs": [],
    }
    this_run = _describe_run(cfg, num_videos)
    if first["runs"]:
        _warn_of_other_versions(first["runs"][0]["versions"], this_run["versions"])
    write_side_car(cfg.OUTPUT_DIR, {**first, "runs": [*first["runs"], this_run]})


def _get_settings(cfg: CfgNode, sha256: str) -> dict[str, Any]:
    pairs = (key.split(".") for key in _CONTENT_KEYS)
    return {"weights_sha256": sha256, **{f"{section}.{leaf}": cfg[section][leaf] for section, leaf in pairs}}


def _describe_run(cfg: CfgNode, num_videos: int) -> dict[str, Any]:
    return {
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "num_videos": num_videos,
        "num_processes": get_world_size(),
        "config_digest": compute_digest(cfg),
        "versions": get_versions(),
    }


def _warn_of_other_versions(old: dict[str, str], new: dict[str, str]) -> None:
    changed = [f"{name} {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name]]
    if changed:
        logger.warning("earlier embeddings here were made with other versions: %s", ", ".join(changed))

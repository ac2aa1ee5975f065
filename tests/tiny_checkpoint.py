"""Writes the checkpoint of a tiny model with random weights, as training does."""

from pathlib import Path

import torch

from hiera_video.config import dump_config, load_config
from hiera_video.engine.checkpoint import save_checkpoint
from hiera_video.models.build import build_mae_from_cfg, build_model_from_cfg

CLASS_NAMES = ("jump", "游泳 <b>&", "Wäsche", "run", "sit")
OPTIONS = {
    "TRAIN.ENABLE": False,
    "DATA.NUM_FRAMES": 4,
    "DATA.SAMPLING_RATE": 2,
    "DATA.TARGET_FPS": 25,
    "DATA.TRAIN_JITTER_SCALES": [36, 40],
    "DATA.TRAIN_CROP_SIZE": 32,
    "DATA.TEST_CROP_SIZE": 32,
    "HIERA.EMBED_DIM": 8,
    "HIERA.STAGES": [1, 1, 1, 1],
    "HIERA.HEAD_INIT_SCALE": 20.0,  # otherwise all classes are equally likely
    "MODEL.MODEL_NAME": "hiera_tiny_16x224",
    "MODEL.NUM_CLASSES": len(CLASS_NAMES),
}


def write_tiny_checkpoint(path: Path, *, class_names: tuple[str, ...] = CLASS_NAMES, **changes: object) -> str:
    """Gives the path. Keys of ``changes`` are config keys with ``__`` for the dot."""
    pairs = OPTIONS | {key.replace("__", "."): value for key, value in changes.items()}
    cfg = load_config([], [str(word) for pair in pairs.items() for word in pair])
    torch.manual_seed(0)
    build = build_mae_from_cfg if cfg.MODEL.MODEL_NAME.startswith("mae_") else build_model_from_cfg
    model = build(cfg, crop_size=cfg.DATA.TEST_CROP_SIZE)
    content = {
        "model_state": model.state_dict(),
        "optimizer_state": {},
        "epoch": 1,
        "cfg": dump_config(cfg),
        "tokens_grid": list(model.tokens_grid),
        "class_names": list(class_names),
    }
    save_checkpoint(path, content)
    return str(path)

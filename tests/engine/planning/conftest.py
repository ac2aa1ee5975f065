"""Configs of small models, of which plans are made in a moment."""

import pytest
from command_words import to_words

from hiera_video.config import load_config
from hiera_video.engine.planning.plan import complete_config

SMALL = {
    "HIERA.EMBED_DIM": "32",
    "HIERA.STAGES": "[1, 1, 1, 1]",
    "DATA.NUM_FRAMES": "4",
    "DATA.TRAIN_CROP_SIZE": "64",
    "MODEL.NUM_CLASSES": "10",
    "TRAIN.BATCH_SIZE": "8",
}
MAE = {"TASK": "pretrain", "MODEL.MODEL_NAME": "mae_hiera_base_16x224", "MAE.DECODER_EMBED_DIM": "64"}
MAE |= {"MAE.DECODER_DEPTH": "2", "MAE.MASK_RATIO": "0.5"}


@pytest.fixture
def make_cfg():
    """``make_cfg(mae=True, **{"KEY": "value"})`` -> a config that a plan can be made of."""

    def make(*, mae=False, **options):
        pairs = {**SMALL, **(MAE if mae else {}), **options}
        return complete_config(load_config([], to_words(pairs), is_complete=False))

    return make

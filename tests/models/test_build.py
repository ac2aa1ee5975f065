import pytest
import torch

from hiera_video.config import load_config
from hiera_video.models import build_model, model_names
from hiera_video.models.build import build_model_from_cfg
from hiera_video.models.flops import compute_flops, count_parameters

# Multiply-adds in G and parameters in M: video with the digits that fvcore gives for the released code, images as the
# paper rounds them.
VIDEO_COSTS = {
    "base": (101.93, 51.09),
    "base_plus": (132.54, 69.39),
    "large": (412.67, 213.09),
    "huge": (1158.76, 671.63),
}
IMAGE_COSTS = {
    "tiny": (5, 28),
    "small": (6, 35),
    "base": (9, 52),
    "base_plus": (13, 70),
    "large": (40, 214),
    "huge": (125, 673),
}


def _compute_costs(name):
    with torch.device("meta"):
        model = build_model(name)
        return compute_flops(model, torch.empty(1, 3, *model.input_size)) / 1e9, count_parameters(model) / 1e6


@pytest.mark.parametrize("size", VIDEO_COSTS)
def test_costs_of_video_models_equal_the_papers(size):
    assert _compute_costs(f"hiera_{size}_16x224") == pytest.approx(VIDEO_COSTS[size], abs=0.005)


@pytest.mark.parametrize("size", IMAGE_COSTS)
def test_costs_of_image_models_equal_the_papers(size):
    assert _compute_costs(f"hiera_{size}_224") == pytest.approx(IMAGE_COSTS[size], abs=0.51)


@pytest.mark.parametrize("name", ["hiera_tiny_224", "hiera_tiny_16x224"])
def test_flops_are_the_same_on_the_meta_device_and_on_the_cpu(name):
    model = build_model(name).train()
    flops = compute_flops(model, torch.zeros(1, 3, *model.input_size))
    assert flops / 1e9 == pytest.approx(_compute_costs(name)[0], rel=1e-9)
    assert model.training


def test_there_are_twelve_names_with_the_class_counts_of_their_data_and_as_many_for_pre_training():
    names = [name for name in model_names() if not name.startswith("mae_")]
    assert len(names) == 12
    assert set(model_names()) == {*names, *(f"mae_{name}" for name in names)}
    for name in names:
        with torch.device("meta"):
            model = build_model(name)
        assert model.head.projection.out_features == (400 if len(model.input_size) == 3 else 1000)


def test_overrides_reach_the_constructor():
    model = build_model("hiera_tiny_16x224", num_classes=7, input_size=(8, 64, 64), head_dropout=0.3)
    assert model(torch.zeros(2, 3, 8, 64, 64)).shape == (2, 7)
    assert model.head.dropout.p == 0.3


def test_an_unknown_name_lists_the_nearest_first():
    with pytest.raises(ValueError, match=r"'hiera_bse_16x224'; legal: hiera_base_16x224, .*hiera_huge_224"):
        build_model("hiera_bse_16x224")


def test_an_unknown_argument_lists_the_nearest_first():
    with pytest.raises(ValueError, match="'num_clases' is not an argument of hiera_tiny_224; legal: num_classes, "):
        build_model("hiera_tiny_224", num_clases=3)


def test_the_keys_of_a_config_reach_the_model():
    keys = {"HIERA.POS_EMBED_WINDOW": True, "HIERA.ATTN_WINDOW_UNITS": [1, 1], "HIERA.GLOBAL_BLOCKS": [2]}
    keys |= {
        "DATA.NUM_FRAMES": 4,
        "HIERA.EMBED_DIM": 8,
        "HIERA.STAGES": [1, 1, 2, 1],
        "MODEL.MODEL_NAME": "hiera_tiny_16x224",
    }
    keys |= {"DATA.PATH_TO_DATA_DIR": "data", "DATA.TRAIN_JITTER_SCALES": [64, 72]}
    keys |= {"DATA.TRAIN_CROP_SIZE": 64, "DATA.TEST_CROP_SIZE": 64}
    model = build_model_from_cfg(load_config([], [str(word) for pair in keys.items() for word in pair]), crop_size=64)
    assert set(model.pos_embed_grids) == {"pos_embed_global", "pos_embed_window", "pos_embed_temporal"}
    windowed = [block.attn.unit_windows is not None for block in model.blocks]
    assert windowed == [False, False, False, True, True], (
        "block 2 is still of the windowed stage before; block 3 is not"
    )
    mae = {"MODEL.MODEL_NAME": "mae_hiera_tiny_16x224", "MAE.MULTI_SCALE": False, "MAE.CONTRASTIVE_TEMPERATURE": 0.3}
    mae |= {"MAE.CONTRASTIVE_WEIGHT": 0.1, "HIERA.EMBED_DIM": 8, "HIERA.STAGES": [1, 1, 1, 1], "DATA.NUM_FRAMES": 4}
    mae |= {"DATA.PATH_TO_DATA_DIR": "data", "TASK": "pretrain", "DATA.TRAIN_JITTER_SCALES": [64, 72]}
    mae |= {"DATA.TRAIN_CROP_SIZE": 64, "DATA.TEST_CROP_SIZE": 64}
    model = build_model_from_cfg(load_config([], [str(word) for pair in mae.items() for word in pair]), crop_size=64)
    assert not any("multi_scale" in name for name, _ in model.named_parameters())
    assert model.contrastive_temperature == 0.3

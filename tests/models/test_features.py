import pytest
import torch

from hiera_video.models.build import build_model
from hiera_video.models.features import compute_features, get_feature_shape

TINY = {"embed_dim": 8, "stages": (1, 1, 2, 1), "input_size": (4, 64, 64)}
LAYERS = ["pooled", *(f"{kind}{stage}" for kind in ("stage", "map") for stage in (1, 2, 3, 4))]


@pytest.fixture(params=["hiera_tiny_16x224", "mae_hiera_tiny_16x224"])
def model(request):
    torch.manual_seed(0)
    decoder = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
    return build_model(request.param, **TINY, **(decoder if request.param.startswith("mae_") else {})).eval()


@pytest.mark.parametrize("layer", LAYERS)
def test_shapes_are_as_announced(model, layer):
    assert compute_features(model, torch.randn(2, 3, 4, 64, 64), layer).shape == (2, *get_feature_shape(model, layer))


def test_features_are_those_that_the_model_computes():
    torch.manual_seed(0)
    model = build_model("hiera_tiny_16x224", **TINY, num_classes=3).eval()
    video = torch.randn(2, 3, 4, 64, 64)
    logits, maps = model(video, return_intermediates=True)
    for stage, expected in enumerate(maps):
        assert torch.equal(compute_features(model, video, f"map{stage + 1}"), expected)
        found = compute_features(model, video, f"stage{stage + 1}")
        torch.testing.assert_close(found, expected.mean(dim=(1, 2, 3)))
    torch.testing.assert_close(model.head(compute_features(model, video)), logits)


def test_an_unknown_layer_is_named(model):
    for ask in (lambda: compute_features(model, torch.zeros(1), "map5"), lambda: get_feature_shape(model, "map5")):
        with pytest.raises(ValueError, match="'map5'; legal are pooled, stage1"):
            ask()

"""What a file seems to be is read off its names and shapes."""

import pytest
import torch

from hiera_video.models import build_model, model_names
from hiera_video.models.recognize import describe_weights, find_input_size, recognize


@pytest.mark.parametrize("name", model_names())
def test_every_named_model_is_recognized(name):
    with torch.device("meta"):
        state = build_model(name, num_classes=7).state_dict()
    found = recognize(state)
    assert found.name == name
    assert found.num_classes == (None if name.startswith("mae_") else 7)
    assert find_input_size(state, found) == ((16, 224, 224) if name.endswith("_16x224") else (224, 224))


def test_another_size_is_described_by_its_numbers():
    state = build_model("hiera_tiny_16x224", input_size=(4, 32, 32), embed_dim=8, stages=(1, 1, 2, 1)).state_dict()
    assert describe_weights(state) == "a Hiera for videos with embed_dim 8, stages (1, 1, 2, 1) with 400 classes"
    assert describe_weights({"fc.weight": torch.zeros(1)}) == "no Hiera: it has fc.weight ..."

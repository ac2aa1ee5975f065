"""The head on boxes: against the map itself, plain loops, and SlowFast's head put together by hand."""

import math

import pytest
import torch
from torch import nn
from torchvision.ops import RoIAlign

from hiera_video.models.action_detector import HieraActionDetector
from hiera_video.models.build import build_model
from hiera_video.models.hiera import Hiera
from hiera_video.models.variants import MODELS
from hiera_video.models.weights import load_weights

TINY = MODELS["hiera_tiny_16x224"] | {"embed_dim": 8, "stages": (1, 1, 1, 1), "num_classes": 5, "head_init_scale": 1.0}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return HieraActionDetector(**TINY | {"input_size": (4, 224, 224)}).eval()


@pytest.fixture(scope="module")
def video():
    return torch.randn(2, 3, 4, 224, 224, generator=torch.Generator().manual_seed(1))


def make_map(model, video):
    """The last map, normed, mean over time: (B, H', W', D)."""
    return model.norm(model.forward_maps(video)[-1]).mean(dim=1)


@torch.no_grad()
def test_a_box_over_the_whole_frame_gets_the_map_exactly(model, video):
    maps = make_map(model, video)
    whole = torch.tensor([[1.0, 0, 0, 224, 224], [0.0, 0, 0, 224, 224]])
    torch.testing.assert_close(model.pool_boxes(maps, whole), maps[[1, 0]].amax(dim=(1, 2)), rtol=0, atol=0)
    expected = model.head(maps[[1, 0]].amax(dim=(1, 2)))
    torch.testing.assert_close(model(video, whole), expected, rtol=1e-5, atol=1e-6)


def interpolate(grid, y, x):
    """Bilinear at (y, x), where cell centers are whole numbers; zero more than one cell outside."""
    height, width = grid.shape[:2]
    if not (-1 <= y <= height and -1 <= x <= width):
        return torch.zeros(grid.shape[-1])
    y, x = max(y, 0.0), max(x, 0.0)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    below, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = min(y, height - 1) - top, min(x, width - 1) - left
    upper = grid[top, left] * (1 - dx) + grid[top, right] * dx
    return upper * (1 - dy) + (grid[below, left] * (1 - dx) + grid[below, right] * dx) * dy


def pool_naively(maps, box, stride):
    """RoIAlign by loops: in each of 7 x 7 bins as many points as it has cells, rounded up; mean, then the largest."""
    clip, x1, y1, x2, y2 = box.tolist()
    x1, y1, x2, y2 = (side / stride - 0.5 for side in (x1, y1, x2, y2))
    bin_w, bin_h = (x2 - x1) / 7, (y2 - y1) / 7
    across, down = math.ceil(bin_w), math.ceil(bin_h)
    bins = []
    for row in range(7):
        for column in range(7):
            points = [
                interpolate(
                    maps[int(clip)], y1 + (row + (i + 0.5) / down) * bin_h, x1 + (column + (j + 0.5) / across) * bin_w
                )
                for i in range(down)
                for j in range(across)
            ]
            bins.append(torch.stack(points).mean(dim=0))
    return torch.stack(bins).amax(dim=0)


@torch.no_grad()
def test_pooling_equals_loops(model):
    maps = torch.randn(2, 7, 7, 16, generator=torch.Generator().manual_seed(3))
    boxes = torch.tensor(
        [
            [0, 10.0, 20, 90, 200],
            [1, 100.5, 3.25, 140, 77],
            [1, 0, 0, 223, 5],
            [0, 50, 60, 52, 61],
            [0, -30, 180, 60, 250],
        ]
    )
    expected = torch.stack([pool_naively(maps, box, 32) for box in boxes])
    torch.testing.assert_close(model.pool_boxes(maps, boxes), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_it_is_slowfasts_head_on_hieras_map(model, video):
    """Average over time, RoIAlign, spatial max, linear, in SlowFast's order of axes."""
    boxes = torch.tensor([[0, 12.0, 20, 180, 200], [1, 100, 3, 140, 77], [1, 1, 2, 223, 50]])
    maps = model.norm(model.forward_maps(video)[-1]).permute(0, 4, 1, 2, 3)  # (B, D, T, H, W)
    x = nn.AvgPool3d((maps.shape[2], 1, 1), stride=1)(maps).squeeze(2)
    x = RoIAlign((7, 7), spatial_scale=1.0 / 32, sampling_ratio=0, aligned=True)(x, boxes)
    x = nn.MaxPool2d((7, 7), stride=1)(x).flatten(1)
    expected = nn.functional.linear(x, model.head.projection.weight, model.head.projection.bias)
    torch.testing.assert_close(model(video, boxes), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [64, 224, 256])
def test_the_scale_is_that_of_the_map(size):
    model = HieraActionDetector(**TINY | {"input_size": (4, size, size)})
    cells = model.forward_maps(torch.zeros(1, 3, 4, size, size))[-1].shape[2]
    assert model.map_stride_px == size / cells == 32


def test_a_clip_without_boxes_works_and_gives_gradients(model, video):
    logits = model(video, torch.zeros(0, 5))
    assert logits.shape == (0, 5)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.zero_grad(set_to_none=True)


@torch.no_grad()
def test_a_box_without_area_has_no_features(model, video):
    boxes = torch.tensor([[0, 0.0, 0, 0, 0], [1, 50, 60, 50, 90], [1, 60, 60, 50, 90], [0, 20, 20, 90, 90]])
    logits = model(video, boxes)
    torch.testing.assert_close(logits[:3], model.head.projection.bias.expand(3, -1), rtol=0, atol=0)
    assert (logits[3] - logits[0]).abs().max() > 1e-3


@torch.no_grad()
def test_half_precision_keeps_the_pixels_of_boxes(model, video):
    """Under autocast, and as a model of bfloat16, where 201 px would become 201 -> 200 or 202."""
    boxes = torch.tensor([[0, 101.0, 55, 201, 203], [1, 7, 11, 99, 101]])
    wanted = model(video, boxes)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(video, boxes)
    torch.testing.assert_close(logits.float(), wanted, rtol=0.05, atol=0.05)
    maps = torch.randn(2, 7, 7, 16).bfloat16()
    pooled = model.pool_boxes(maps, boxes)
    assert pooled.dtype == torch.bfloat16
    torch.testing.assert_close(pooled, model.pool_boxes(maps.float(), boxes).bfloat16(), rtol=0, atol=0)
    lower = HieraActionDetector(**TINY | {"input_size": (4, 224, 224)}).bfloat16()
    assert lower(video.bfloat16(), boxes).dtype == torch.bfloat16


@torch.no_grad()
def test_a_compiled_model_takes_any_number_of_boxes(model, video):
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    for count in (1, 3, 0, 2):
        boxes = torch.tensor([[i % 2, 10.0 * i, 20, 90 + 9 * i, 99] for i in range(count)]).reshape(-1, 5)
        torch.testing.assert_close(compiled(video, boxes), model(video, boxes))


def test_the_map_is_each_clips_own(model, video):
    box = torch.tensor([[0, 12.0, 20, 180, 200]])
    with torch.no_grad():
        first, second = model(video, box), model(video[[1, 0]], box + torch.tensor([1.0, 0, 0, 0, 0]))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (1, 3, 5)])
def test_boxes_of_another_shape_are_refused(model, video, shape):
    with pytest.raises(ValueError, match=r"boxes must be \(R, 5\)"):
        model(video, torch.zeros(shape))


def test_an_image_model_is_refused():
    with pytest.raises(ValueError, match=r"input_size must be \(T, H, W\)"):
        HieraActionDetector(**MODELS["hiera_tiny_224"])


def test_weights_of_a_classifier_load_but_for_its_head(tmp_path, caplog):
    classifier = Hiera(**TINY | {"input_size": (4, 64, 64), "num_classes": 400})
    nn.init.uniform_(classifier.norm.weight)
    torch.save({"model_state": classifier.state_dict()}, tmp_path / "k400.pth")
    detector = HieraActionDetector(**TINY | {"input_size": (4, 64, 64), "num_classes": 80})
    report = load_weights(detector, tmp_path / "k400.pth")
    assert report.missing == ["head.projection.weight", "head.projection.bias"] == report.dropped
    assert not report.unexpected and "head for 400 classes dropped, the model has 80" in caplog.text
    torch.testing.assert_close(detector.norm.weight, classifier.norm.weight, rtol=0, atol=0)
    video = torch.randn(1, 3, 4, 64, 64)
    torch.testing.assert_close(detector.forward_features(video), classifier.forward_features(video))


def test_decay_ids_are_those_of_a_classifier():
    detector, classifier = HieraActionDetector(**TINY), build_model("hiera_tiny_16x224", **{**TINY, "num_classes": 5})
    names = [name for name, _ in detector.named_parameters()]
    assert names == [name for name, _ in classifier.named_parameters()]
    assert [detector.get_layer_id(name) for name in names] == [classifier.get_layer_id(name) for name in names]
    assert detector.no_weight_decay() == {"pos_embed_spatial", "pos_embed_temporal"}

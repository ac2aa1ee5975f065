"""Mask R-CNN of ours against torchvision's, and on Hiera: what it costs, learns from, and loads."""

import copy

import pytest
import torch
from torch import nn
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

from hiera_video.models import build_model
from hiera_video.models.flops import compute_flops
from hiera_video.models.mask_rcnn import LOSSES, DetectionHeads, HieraDetector, MaskRCNNDetector
from hiera_video.models.variants import MODELS
from hiera_video.models.weights import load_weights

SIDE = 64
SMALL = {"embed_dim": 8, "stages": (1, 1, 2, 1), "heads": {"channels": 16, "hidden_dim": 16, "num_rois": 16}}


def make_targets(count):
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.uint8)
    masks[0, 4:40, 10:50], masks[1, 30:60, 5:25] = 1, 1
    boxes = torch.tensor([[10.0, 4, 50, 40], [5, 30, 25, 60]])
    return [{"boxes": boxes, "labels": torch.tensor([1, 3]), "masks": masks} for _ in range(count)]


def test_on_a_resnet_it_is_torchvisions():
    """The same weights give the same detections and, under the same seed, the same losses."""
    torch.manual_seed(0)
    options = {"weights": None, "weights_backbone": None, "num_classes": 4, "min_size": SIDE, "max_size": SIDE}
    few = {"rpn_pre_nms_top_n_train": 50, "rpn_post_nms_top_n_train": 50, "box_batch_size_per_image": 16}
    few |= {"rpn_post_nms_top_n_test": 30, "box_detections_per_img": 10, "box_score_thresh": 0.0}
    theirs = maskrcnn_resnet50_fpn_v2(**options, **few, _skip_resize=True)
    heads = DetectionHeads(3, norm_layer=nn.BatchNorm2d, num_proposals=50, num_rois=16)
    heads.roi_heads.score_thresh, heads.roi_heads.detections_per_img = 0.0, 10
    heads.rpn._post_nms_top_n["testing"] = 30
    ours = MaskRCNNDetector(copy.deepcopy(theirs.backbone), heads)
    state = theirs.state_dict().items()
    ours.load_state_dict({name if name.startswith("backbone.") else f"heads.{name}": value for name, value in state})
    pictures, sizes = torch.rand(2, 3, SIDE, SIDE), [(SIDE, SIDE)] * 2
    mean, std = (torch.tensor(x)[:, None, None] for x in (theirs.transform.image_mean, theirs.transform.image_std))
    normalized = (pictures - mean) / std
    torch.manual_seed(1)
    wanted = theirs(list(pictures), make_targets(2))
    torch.manual_seed(1)
    losses, _ = ours(normalized, sizes, make_targets(2))
    assert losses.keys() == wanted.keys() == set(LOSSES)
    for name in LOSSES:
        torch.testing.assert_close(losses[name], wanted[name])
    theirs.eval(), ours.eval()
    with torch.no_grad():
        expected, (_, found) = theirs(list(pictures)), ours(normalized, sizes)
    for one, other in zip(found, expected, strict=True):
        assert len(one["boxes"]) == 10
        for name in ("boxes", "scores", "labels"):
            torch.testing.assert_close(one[name], other[name])


def test_padding_does_not_change_where_features_are_taken_from():
    """torchvision takes strides from the first picture's size without its padding, here 16 for 64."""
    heads = DetectionHeads(3, channels=4)
    maps = {str(i): torch.randn(1, 4, SIDE // s, SIDE // s) for i, s in enumerate((4, 8, 16, 32))}
    boxes, pool = [torch.tensor([[2.0, 3, 60, 14]])], heads.roi_heads.box_roi_pool
    narrow, whole = pool(maps, boxes, [(16, 64)]), pool(maps, boxes, [(64, 64)])
    torch.testing.assert_close(narrow, whole)
    theirs = type(pool)(list("0123"), output_size=7, sampling_ratio=2)
    torch.testing.assert_close(theirs(maps, boxes, [(64, 64)]), whole)
    wrong = type(pool)(list("0123"), output_size=7, sampling_ratio=2)(maps, boxes, [(16, 64)])
    assert not torch.allclose(wrong, whole), "if torchvision has mended this, `_make_pool` may go"


@pytest.mark.parametrize(
    ("name", "gmac"), [("hiera_base_224", 389.7), ("hiera_base_plus_224", 490.2), ("hiera_large_224", 1503.2)]
)
def test_multiply_adds_of_the_encoder_at_1024_px(name, gmac):
    class Maps(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, pictures):
            return self.model.forward_maps(pictures)

    with torch.device("meta"):
        model = HieraDetector(**(MODELS[name] | {"num_classes": 80, "input_size": (1024, 1024)}))
    flops = compute_flops(Maps(model), torch.empty(1, 3, 1024, 1024, device="meta"))
    assert flops / 1e9 == pytest.approx(gmac, abs=0.05)


def test_every_parameter_learns_and_layers_are_known():
    model = HieraDetector(num_classes=3, input_size=(SIDE, SIDE), **SMALL)
    losses, found = model(torch.randn(2, 3, SIDE, SIDE), [(SIDE, SIDE)] * 2, make_targets(2))
    assert found == [] and losses.keys() == set(LOSSES)
    torch.stack([*losses.values()]).sum().backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    layers = {name: model.get_layer_id(name) for name, _ in model.named_parameters()}
    assert {layers[name] for name in layers if name.startswith(("pyramid.", "heads."))} == {model.num_layers - 1}
    assert layers["pos_embed"] == layers["patch_embed.proj.weight"] == 0 and layers["blocks.2.norm1.weight"] == 3
    assert model.no_weight_decay() == {"pos_embed"}
    one_d = [n for n, p in model.named_parameters() if n.startswith(("pyramid.", "heads.")) and p.ndim == 1]
    assert len([name for name in one_d if name.endswith("weight")]) == 8 + 4 + 4, "norms: pyramid, box and mask head"


def test_pictures_without_things_and_bf16_give_finite_losses():
    model = HieraDetector(num_classes=3, input_size=(SIDE, SIDE), **SMALL)
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    empty["masks"] = torch.zeros(0, SIDE, SIDE, dtype=torch.uint8)
    pictures = torch.randn(2, 3, SIDE, SIDE)
    for targets in ([empty, empty], [*make_targets(1), empty]):
        torch.manual_seed(0)
        plain, _ = model(pictures, [(SIDE, SIDE)] * 2, targets)
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            lower, _ = model(pictures, [(SIDE, SIDE)] * 2, targets)
        for name in LOSSES:
            assert plain[name].isfinite() and lower[name].dtype == torch.float32
        # From objectness on, rounding changes which proposals are drawn.
        torch.testing.assert_close(lower["loss_objectness"], plain["loss_objectness"], rtol=0.02, atol=0.01)


@pytest.mark.parametrize("kind", ["hiera_tiny_224", "mae_hiera_tiny_224"])
def test_weights_of_classifiers_and_autoencoders_fill_the_encoder(kind, tmp_path):
    sizes = {name: value for name, value in SMALL.items() if name != "heads"}
    source = build_model(kind, **sizes, input_size=(64, 64))
    torch.save({"model_state": source.state_dict()}, tmp_path / "weights.pth")
    model = HieraDetector(num_classes=3, input_size=(128, 128), **SMALL)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_weights(model, tmp_path / "weights.pth", pos_embed_resize="absolute_win")
    own = {name for name in before if name.startswith(("pyramid.", "heads."))}
    assert set(report.missing) == own and report.resized == ["pos_embed"]
    assert set(report.loaded) == before.keys() - own
    others = {"norm.weight", "norm.bias", "head.projection.weight", "head.projection.bias"}
    assert set(report.unexpected) == (others if kind == "hiera_tiny_224" else set())
    for name, value in model.state_dict().items():
        if name != "pos_embed":
            torch.testing.assert_close(value, before[name] if name in own else source.state_dict()[name])


def test_windows_of_attention_with_global_blocks():
    windows = {"attn_window_units": (2, 2), "global_blocks": (3,), "input_size": (128, 128)}
    model = HieraDetector(num_classes=3, **SMALL, **windows).eval()
    shapes = [tuple(level.shape) for level in model.forward_maps(torch.randn(1, 3, 128, 128))]
    assert shapes == [(1, 32, 32, 8), (1, 16, 16, 16), (1, 8, 8, 32), (1, 4, 4, 64)]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="model of images with 4 stages"):
        HieraDetector(**(MODELS["hiera_tiny_16x224"] | {"num_classes": 3}))
    with pytest.raises(ValueError, match="one for each of 5 levels"):
        DetectionHeads(3, anchor_sizes=(32, 64))
    model = HieraDetector(num_classes=3, input_size=(SIDE, SIDE), **SMALL)
    with pytest.raises(ValueError, match="EXTRACT.LAYER stage4"):
        model.forward_features(torch.randn(1, 3, SIDE, SIDE))

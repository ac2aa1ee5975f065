"""Detectors of persons: which one weights are of, and that it gives torchvision's own numbers."""

import pytest
import torch
from torch import nn
from torchvision.models import detection
from torchvision.ops import misc

from hiera_video.models import person_detector
from hiera_video.models.person_detector import PERSON, PersonDetector, load_person_detector

NAME = "fasterrcnn_mobilenet_v3_large_fpn"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return getattr(detection, NAME)(weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=96).eval()


def test_weights_tell_which_detector_they_are_of_and_give_its_boxes(model, tmp_path):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
    nn.init.constant_(model.roi_heads.box_predictor.cls_score.bias[PERSON : PERSON + 1].detach(), 0.5)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    detector = load_person_detector(tmp_path / "weights.pth")
    assert detector.name == NAME and not detector.model.training
    detector.model.transform = model.transform  # of a small picture, to be quick
    pictures = torch.randint(0, 255, (2, 60, 90, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = model([picture.permute(2, 0, 1) / 255 for picture in pictures])
    found = detector.find(pictures, min_score=0.4)
    assert sum(len(scores) for _, scores in found) > 0
    for (boxes, scores), result in zip(found, expected, strict=True):
        kept = (result["labels"] == PERSON) & (result["scores"] >= 0.4)
        torch.testing.assert_close(boxes * torch.tensor([90.0, 60, 90, 60]), result["boxes"][kept])
        torch.testing.assert_close(scores, result["scores"][kept])


def test_released_weights_with_frozen_norms_have_their_epsilon(tmp_path, monkeypatch):
    """They lack counters, and torchvision sets the epsilon of such norms to 0."""
    frozen = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2)
    state = {name: value for name, value in frozen.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "weights.pth")
    detector = load_person_detector(tmp_path / "weights.pth")
    assert detector.name == "fasterrcnn_resnet50_fpn"
    norm = next(module for module in detector.model.modules() if isinstance(module, nn.BatchNorm2d))
    theirs = misc.FrozenBatchNorm2d(norm.num_features, eps=0.0)
    theirs.load_state_dict({key: value for key, value in norm.state_dict().items() if key != "num_batches_tracked"})
    x = torch.randn(1, norm.num_features, 4, 4)
    torch.testing.assert_close(norm(x), theirs(x))


class _Fixed(nn.Module):
    """Finds the same in any picture."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, pictures):
        assert all(picture.min() >= 0 and picture.max() <= 1 for picture in pictures)
        boxes = torch.tensor([[10.0, 20, 30, 40], [0, 0, 50, 100], [5, 5, 9, 9]])
        return [{"boxes": boxes, "labels": torch.tensor([1, 2, 1]), "scores": torch.tensor([0.9, 0.8, 0.2])}] * len(
            pictures
        )


def test_only_certain_persons_are_kept_as_shares_of_the_picture():
    ((boxes, scores),) = PersonDetector(_Fixed(), "fixed").find(torch.zeros(1, 100, 50, 3).byte(), min_score=0.5)
    assert boxes.tolist() == [pytest.approx([0.2, 0.2, 0.6, 0.4])] and scores.tolist() == [pytest.approx(0.9)]


@pytest.mark.parametrize(
    "content", [{"a": torch.zeros(1)}, {_: torch.zeros(4) for _ in person_detector._CLASS_WEIGHTS}]
)
def test_other_weights_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(
        ValueError, match="weights of none of the known detectors, which are fasterrcnn_resnet50_fpn_v2"
    ):
        load_person_detector(tmp_path / "weights.pth")


def test_what_is_no_file_of_weights_is_refused(tmp_path):
    (tmp_path / "weights.pth").write_text("hello")
    with pytest.raises(ValueError, match=r"weights.pth holds no weights of a detector"):
        load_person_detector(tmp_path / "weights.pth")
    with pytest.raises(FileNotFoundError):
        load_person_detector(tmp_path / "missing.pth")

"""Boxes scored once: their rows must be those of the list, and what lies outside is empty."""

import pytest
import torch

from hiera_video.data.box_dataset import BoxDataset
from hiera_video.data.box_loaders import build_box_eval_loader
from hiera_video.engine.box_predictions import empty_outside, predict_boxes
from hiera_video.engine.training.detect_actions import build_action_detection


def test_boxes_outside_of_the_view_become_empty_and_keep_their_clip():
    boxes = torch.tensor([[0, 1.0, 2, 3, 4], [1, 32, 0, 40, 9]])
    emptied = empty_outside(boxes, torch.tensor([False, True]))
    assert emptied.tolist() == [[0, 1, 2, 3, 4], [1, 0, 0, 0, 0]] and boxes[1, 1] == 32


def test_a_loader_that_gives_other_rows_than_the_list_has_stops_the_test(make_action_cfg, monkeypatch):
    cfg = make_action_cfg()
    model, _ = build_action_detection(cfg)
    loader = build_box_eval_loader(cfg, "val")
    predictions = predict_boxes(cfg, model, loader, title="test")
    assert predictions.make_boxes()["video"].tolist() == ["e"] * 12 + ["f"] * 12 + ["g"] * 12
    describe = BoxDataset._describe
    monkeypatch.setattr(BoxDataset, "_describe", lambda self, rows, *rest: describe(self, rows.flip(0), *rest))
    with pytest.raises(RuntimeError, match=r"key frame 0 has the boxes \[0 1 2\], but \[2 1 0\] were scored"):
        predict_boxes(cfg, model, loader, title="test")

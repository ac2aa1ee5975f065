"""Made clips have the form of a training set's batches."""

import pytest
import torch

from hiera_video.data.loader import build_epoch_loader, build_train_loader
from hiera_video.data.made_clips import MadeClips, build_made_clips


def test_batches_are_of_the_same_form_as_those_of_videos(make_cfg):
    cfg = make_cfg({"AUG.NUM_SAMPLE": 2})
    made, real = (
        next(iter(loader)) for loader in (build_epoch_loader(cfg, build_made_clips(cfg)), build_train_loader(cfg))
    )
    assert made.keys() == real.keys()
    for name in ("video", "label", "index"):
        assert (made[name].shape, made[name].dtype) == (real[name].shape, real[name].dtype), name
    assert made["bad"] == [] and set(made["label"].tolist()) <= set(range(8))
    assert made["video"].float().std() > 50, "noise, which no kernel can make short work of"


def test_samples_have_a_mask_for_each_view_and_depend_on_their_key_alone():
    clips = MadeClips(5, view_shape=(3, 2, 8, 8), num_classes=3, make_mask=lambda: torch.rand(4) > 0.5, num_samples=2)
    sample = clips[1, 3]
    assert sample["video"].shape == (2, 3, 2, 8, 8) and sample["mask"].shape == (2, 4)
    assert sample["video"].equal(clips[1, 3]["video"]) and not sample["video"].equal(clips[2, 3]["video"])
    assert clips.make_bad(3)["video"].shape == sample["video"].shape


def test_boxes_are_not_made(make_detection_cfg):
    with pytest.raises(ValueError, match="TASK = detect learns from boxes: clips are made only for classify and pretr"):
        build_made_clips(make_detection_cfg())

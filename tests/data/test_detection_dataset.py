"""Samples of pictures with boxes and masks: the same in every run, whole, and honest about what does not decode."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as oracle

from hiera_video.data.coco_lists import build_detection_list
from hiera_video.data.detection_dataset import (
    DetectionDataset,
    build_detection_eval_loader,
    build_detection_train_loader,
    decode_mask,
)
from hiera_video.data.detection_transforms import build_detection_transform
from hiera_video.data.loader import get_epoch_sampler

POLYGONS = [[5.0, 5, 40, 8, 30, 44], [50.5, 20.2, 60, 20, 60, 30]]


def make_annotation(kind):
    height, width = 48, 64
    codes = oracle.frPyObjects(POLYGONS, height, width)
    whole = oracle.merge(codes)
    plain = oracle.decode(whole)
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[2], plain.flatten(order="F"), [2]]))))
    forms = {
        "polygons": POLYGONS,
        "compressed": {"size": [height, width], "counts": whole["counts"].decode()},
        "uncompressed": {"size": [height, width], "counts": [0] * int(plain[0, 0]) + runs.tolist()},
    }
    return {"id": 7, "segmentation": forms[kind]}, plain


@pytest.mark.parametrize("kind", ["polygons", "compressed", "uncompressed"])
def test_masks_of_all_forms_are_pycocotools(kind):
    annotation, wanted = make_annotation(kind)
    mask = decode_mask(annotation, (48, 64), "a.json")
    assert mask.dtype == np.uint8 and 0 < mask.sum() < mask.size
    np.testing.assert_array_equal(mask, wanted)


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [(None, "it is missing"), ([], "it is missing"), ([[1.0, 2]], ""), ({"size": [9, 9], "counts": "abc"}, "")],
)
def test_bad_masks_are_named(segmentation, reason):
    with pytest.raises(ValueError, match=rf"a\.json: annotation 7: segmentation: .*{reason}"):
        decode_mask({"id": 7, "segmentation": segmentation}, (48, 64), "a.json")


def test_a_sample_depends_on_seed_epoch_and_index_alone(make_detection_cfg):
    def read(cfg, key):
        videos = build_detection_list(cfg, "train").select_for_training()
        transform = build_detection_transform(cfg, size_px=64, is_training=True)
        return DetectionDataset(videos, transform=transform, is_training=True, seed=cfg.RNG_SEED)[key]

    cfg = make_detection_cfg()
    first, again, epoch, seed = (
        read(cfg, (3, 2)),
        read(cfg, (3, 2)),
        read(cfg, (4, 2)),
        read(make_detection_cfg({"RNG_SEED": 1}), (3, 2)),
    )
    assert torch.equal(first["picture"], again["picture"]) and first["placement"] == again["placement"]
    assert torch.equal(first["target"]["masks"], again["target"]["masks"])
    assert first["placement"] != epoch["placement"] and first["placement"] != seed["placement"]
    assert first["target"]["labels"].min() >= 1 and first["target"]["labels"].max() <= 4


def test_masks_lie_on_the_shapes_that_are_drawn(make_detection_cfg):
    """Shapes are bright and backgrounds dark, so that the truth can be read from the picture itself."""
    cfg = make_detection_cfg({"DETECTOR.JITTER_SCALES": [1.0, 1.0]})
    loader = build_detection_train_loader(cfg)
    for batch in loader:
        for picture, target in zip(batch["picture"], batch["target"], strict=True):
            bright = picture.amax(dim=0) > 125
            masked = target["masks"].any(dim=0)
            assert (bright != masked).float().mean() < 0.02
    assert batch["picture"].shape == (4, 3, 64, 64) and batch["size"] == [(64, 64)] * 4


@pytest.fixture
def broken_scenes(scenes_dir, tmp_path):
    """The data set with a broken picture, and one of another size than its list says, in each split."""
    folder = tmp_path / "broken"
    shutil.copytree(scenes_dir, folder)
    for split in ("train", "val"):
        (folder / f"{split}2017/000001.png").write_bytes(b"no picture")
        Image.fromarray(np.zeros((64, 32, 3), np.uint8)).save(folder / f"{split}2017/000003.png")
    return folder


def test_broken_pictures_are_replaced_in_training_and_counted_in_tests(make_detection_cfg, broken_scenes):
    cfg = make_detection_cfg({"DATA.PATH_TO_DATA_DIR": broken_scenes})
    loader = build_detection_train_loader(cfg)
    get_epoch_sampler(loader).set_epoch(0)
    batches = list(loader)
    assert {entry.position for batch in batches for entry in batch["bad"]} == {1, 3}
    assert not {1, 3} & set(torch.cat([batch["index"] for batch in batches]).tolist())
    reasons = {entry.position: entry.reason for batch in batches for entry in batch["bad"]}
    assert "000001.png" in reasons[1] and "the picture is 32 x 64 px" in reasons[3]
    videos = build_detection_list(cfg, "val")
    batches = list(build_detection_eval_loader(cfg, videos, size_px=64))
    assert torch.cat([batch["index"] for batch in batches]).tolist() == [0, 1, 2, 3, 4]
    assert [entry.position for batch in batches for entry in batch["bad"]] == [1, 3]
    assert "target" not in batches[0]


def test_a_batch_that_cannot_be_divided_is_refused(make_detection_cfg):
    cfg = make_detection_cfg({"TRAIN.BATCH_SIZE": 4, "TRAIN.GRAD_ACCUM_STEPS": 4})
    assert len(next(iter(build_detection_train_loader(cfg)))["target"]) == 1
    with pytest.raises(ValueError, match="TRAIN.BATCH_SIZE"):
        make_detection_cfg({"TRAIN.BATCH_SIZE": 4, "TRAIN.GRAD_ACCUM_STEPS": 3})

"""Pictures of several shapes: the layout is COCO's, and masks are where the shapes are."""

import json

import numpy as np
from PIL import Image
from pycocotools import mask as oracle

from hiera_video.cli.make_shape_dataset import FORMS, main, make_dataset
from hiera_video.cli.shape_scenes import SceneSettings


def test_boxes_and_areas_are_those_of_the_masks_which_lie_on_the_shapes(tmp_path):
    assert make_dataset(tmp_path / "a", SceneSettings(train=12, val=3, size_px=128))
    assert not make_dataset(tmp_path / "a", SceneSettings(train=12, val=3, size_px=128)), "a complete one is kept"
    content = json.loads((tmp_path / "a/annotations/instances_train2017.json").read_text())
    assert [row["name"] for row in content["categories"]] == list(FORMS) and len(content["images"]) == 12
    masks = {image["id"]: np.zeros((128, 128), bool) for image in content["images"]}
    for row in content["annotations"]:
        code = oracle.frPyObjects(row["segmentation"], 128, 128)
        mask = oracle.decode(code).astype(bool)
        assert not (masks[row["image_id"]] & mask).any(), "shapes do not overlap"
        masks[row["image_id"]] |= mask
        assert row["bbox"] == oracle.toBbox(code).tolist() and row["area"] == mask.sum() > 0
    for image in content["images"]:
        pixels = np.asarray(Image.open(tmp_path / "a/train2017" / image["file_name"]))
        bright = pixels.max(axis=2) > 125  # shapes have 140 and more in each channel, backgrounds less than 110
        assert (bright != masks[image["id"]]).mean() < 0.01


def test_other_settings_are_refused_and_a_seed_gives_the_same_pictures(tmp_path, capsys):
    words = ["--task", "coco", "--train", "2", "--val", "1", "--size", "64", "--output-dir"]
    assert main([*words, str(tmp_path / "a")]) == main([*words, str(tmp_path / "b")]) == 0
    read = [(tmp_path / name / "train2017/000001.png").read_bytes() for name in "ab"]
    assert read[0] == read[1] and "3 pictures, made" in capsys.readouterr().out
    assert main(["--train", "2", "--output-dir", str(tmp_path / "a")]) == 2
    assert "holds pictures made with" in capsys.readouterr().err

"""Lists in COCO's form: what is read, and how wrong ones are refused."""

import json

import numpy as np
import pytest
from PIL import Image

from hiera_video.config import load_config
from hiera_video.data.coco_lists import build_detection_list, load_coco_json

POLYGON = [[10.0, 10, 30, 10, 30, 30, 10, 30]]


def make_content():
    """Four pictures: two things, one thing, a crowd alone, nothing; ids of classes with gaps, out of order."""
    things = [(5, 18, 0), (5, 1, 0), (7, 90, 0), (9, 1, 1)]
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 48, "width": 64} for i in (5, 7, 9, 11)],
        "annotations": [
            {"id": 100 + number, "image_id": image, "category_id": category, "bbox": [10, 10, 20, 20], "area": 400}
            | {"segmentation": POLYGON, "iscrowd": crowd}
            for number, (image, category, crowd) in enumerate(things)
        ],
        "categories": [{"id": 90, "name": "brush"}, {"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    }


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


def test_a_list_holds_what_its_file_says(tmp_path):
    videos = load_coco_json(write(tmp_path / "a.json", make_content()), image_dir="/pictures")
    assert videos.paths.tolist() == [f"/pictures/{i}.png" for i in (5, 7, 9, 11)]
    assert videos.class_names == ("person", "dog", "brush") and videos.category_ids == (1, 18, 90)
    assert videos.sizes.tolist() == [[48, 64]] * 4 and videos.labels.tolist() == [-1] * 4 and videos.has_truth
    assert [[a["id"] for a in videos.get_annotations(i)] for i in range(4)] == [[100, 101], [102], [103], []]
    train = videos.select_for_training()
    assert train.image_ids.tolist() == [5, 7]
    assert [[a["id"] for a in train.get_annotations(i)] for i in range(2)] == [[100, 101], [102]]
    truth, wanted = videos.make_truth(), make_content()
    assert [image["id"] for image in truth["images"]] == [5, 7, 9, 11]
    assert truth["annotations"] == wanted["annotations"]
    assert truth["categories"] == sorted(wanted["categories"], key=lambda category: category["id"])


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ([50, 10, 20, 20], r"lies outside its picture of 64 x 48 px"),
        ([-9, 10, 20, 20], r"lies outside"),
        ([10, 10, 0, 20], r"which is empty"),
        ([30, 30, -20, -20], r"is negative; legal is x, y, width, height"),
        ([10, float("nan"), 20, 20], r"four finite numbers are legal"),
        ([10, 10, 20], r"four finite numbers are legal"),
    ],
)
def test_bad_boxes_are_named_by_file_and_annotation(box, reason, tmp_path):
    content = make_content()
    content["annotations"][2]["bbox"] = box
    with pytest.raises(ValueError, match=rf"a\.json: annotation 102 .*{reason}"):
        load_coco_json(write(tmp_path / "a.json", content))


def test_a_rare_empty_box_is_only_named_as_cocos_own_file_has_some(tmp_path, caplog):
    content = make_content()
    content["annotations"] += [content["annotations"][0] | {"id": 1000 + i} for i in range(2000)]
    content["annotations"][2]["bbox"] = [10, 10, 20, 0]
    assert len(load_coco_json(write(tmp_path / "a.json", content))) == 4
    assert "annotation 102 has bbox [10, 10, 20, 0], which is empty" in caplog.text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.pop("images"), "no list 'images'"),
        (lambda c: c["images"][1].pop("width"), r"images\[1\] has no width"),
        (lambda c: c["images"][1].update(id=5), "ids of images are there more than once, such as 5"),
        (lambda c: c["annotations"][1].update(image_id=6), "annotation 101 is of image_id 6, which"),
        (lambda c: c["annotations"][1].update(category_id=2), "annotation 101 has category_id 2"),
        (lambda c: c["annotations"][1].update(id=100), "ids of annotations are there more than once"),
    ],
)
def test_other_forms_are_refused(change, reason, tmp_path):
    content = make_content()
    change(content)
    with pytest.raises(ValueError, match=reason):
        load_coco_json(write(tmp_path / "a.json", content))


def test_files_that_are_missing_or_no_json(tmp_path):
    with pytest.raises(FileNotFoundError, match="COCO.ANNOTATIONS"):
        load_coco_json(str(tmp_path / "no.json"))
    (tmp_path / "a.json").write_text('{"images": [')
    with pytest.raises(ValueError, match="a.json is not a json file"):
        load_coco_json(str(tmp_path / "a.json"))


def test_a_config_finds_the_published_layout_and_others_by_keys(tmp_path):
    content = make_content()
    write(tmp_path / "annotations/instances_train2017.json", content)
    write(tmp_path / "mine/val.json", {name: rows for name, rows in content.items() if name != "annotations"})
    for folder in ("train2017", "photos"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / folder / "5.png")
    base = ["TASK", "detect", "DATA.FORMAT", "coco", "DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA.NUM_FRAMES", "1"]
    base += ["MODEL.MODEL_NAME", "hiera_tiny_224", "MODEL.NUM_CLASSES", "3"]
    assert len(build_detection_list(load_config([], base), "train")) == 4
    with pytest.raises(ValueError, match="3 categories, MODEL.NUM_CLASSES is 80"):
        build_detection_list(load_config([], [*base[:-1], "80"]), "train")
    mine = load_config([], [*base, "COCO.ANNOTATIONS", "mine/{split}.json", "COCO.IMAGES", "photos"])
    with pytest.raises(ValueError, match="has no annotations, which the split val needs"):
        build_detection_list(mine, "val")
    (tmp_path / "photos/5.png").unlink()
    write(tmp_path / "mine/test.json", {name: rows for name, rows in content.items() if name != "annotations"})
    with pytest.raises(FileNotFoundError, match="none of 4 pictures looked for exists"):
        build_detection_list(mine, "test")

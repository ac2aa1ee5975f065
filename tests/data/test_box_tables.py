"""Boxes of one's own: both forms give the same table, and what cannot be read is named."""

import json
import logging

import numpy as np
import pytest
from ava_factory import write_lines

from hiera_video.data.action_lists import COLUMNS
from hiera_video.data.box_tables import Facts, load_box_csv, load_box_json, load_box_table, load_table_classes

SIZES = {"a.mp4": (200, 100), "b.mp4": (64, 48)}
FACTS = Facts(SIZES.__getitem__, lambda video, frame: frame / 20)
PIXELS = [
    "video,time_sec,x1,y1,x2,y2,label,person",
    "a.mp4,1.5,20,10,100,90,run,4",
    "a.mp4,1.5,20,10,100,90,jump,4",
    "b.mp4,2,32,12,64,48,run,",
    "b.mp4,3.25,0,0,64,48,,5",
]
CORNERS = [[0.1, 0.1, 0.5, 0.9], [0.1, 0.1, 0.5, 0.9], [0.5, 0.25, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]
COCO = {
    "videos": [{"id": 7, "name": "b.mp4"}],
    "images": [
        {"id": 1, "video": "a.mp4", "time_sec": 1.5, "width": 200, "height": 100},
        {"id": 2, "video_id": 7, "frame_index": 40},
        {"id": 3, "video_id": 7, "frame_id": 13, "fps": 4, "width": 64, "height": 48},
    ],
    "annotations": [
        {"id": 10, "image_id": 1, "bbox": [20, 10, 80, 80], "category_id": 30, "person": 4},
        {"id": 11, "image_id": 1, "bbox": [20, 10, 80, 80], "category_id": 20, "track_id": 4},
        {"id": 12, "image_id": 2, "bbox": [32, 12, 32, 36], "category_id": 30},
        {"id": 13, "image_id": 3, "bbox": [0, 0, 64, 48], "person": 5},
        {"id": 14, "image_id": 3, "bbox": [0, 0, 9, 9], "category_id": 20, "iscrowd": 1},
    ],
    "categories": [{"id": 30, "name": "run"}, {"id": 20, "name": "jump"}],
}


def write_json(path, **changes):
    path.write_text(json.dumps(COCO | changes))
    return str(path)


def check_table(table, names):
    assert tuple(table.columns) == COLUMNS and names == ("jump", "run")
    assert table["video"].tolist() == ["a.mp4", "a.mp4", "b.mp4", "b.mp4"]
    assert table["time_sec"].tolist() == [1.5, 1.5, 2.0, 3.25]
    np.testing.assert_allclose(table[["x1", "y1", "x2", "y2"]], CORNERS, atol=1e-12)
    assert table["label"].tolist() == [1, 0, 1, -1] and table["person"].tolist() == [4, 4, -1, 5]
    assert table["score"].tolist() == [1] * 4


def test_a_csv_file_in_pixels(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="hiera_video"):
        table, names = load_box_csv(str(write_lines(tmp_path / "t.csv", PIXELS)), FACTS)
    check_table(table, names)
    assert table.index.tolist() == [2, 3, 4, 5] and "taken for pixels, as the largest is 100" in caplog.text


def test_a_csv_file_in_shares_with_columns_in_another_order(tmp_path, caplog):
    lines = ["score,label,x1,y1,x2,y2,time_sec,video", "0.5,1,0.1,0.1,0.5,0.9,1.5,a.mp4", ",0,0,0,1.04,1,2,b.mp4"]
    with caplog.at_level(logging.INFO, logger="hiera_video"):
        table, names = load_box_csv(str(write_lines(tmp_path / "t.csv", lines)), Facts(None, None))
    assert names is None and table["label"].tolist() == [1, 0] and table["score"].tolist() == [0.5, 1]
    assert table["x2"].tolist() == [0.5, 1.04]
    assert "taken for shares of the frame, as the largest is 1.04" in caplog.text


def test_a_json_file(tmp_path):
    table, names = load_box_json(write_json(tmp_path / "t.json"), FACTS)
    check_table(table, names)
    assert table.index.tolist() == [10, 11, 12, 13], "the index holds the annotations' ids"


def test_labels_mean_the_same_in_every_split(tmp_path):
    names = ("walk", "run", "jump")
    for path in (write_json(tmp_path / "t.json"), str(write_lines(tmp_path / "t.csv", PIXELS))):
        table, found = load_box_table(path, FACTS, class_names=names)
        assert found == names and table["label"].tolist() == [1, 2, 1, -1]
        assert load_table_classes(path) == ("jump", "run")


def test_names_and_numbers_together(tmp_path):
    lines = [PIXELS[0], "a.mp4,1,0,0,1,1,run,", "a.mp4,1,0,0,1,1,2,", "a.mp4,1,0,0,1,1,007,"]
    path = str(write_lines(tmp_path / "t.csv", lines))
    assert load_box_csv(path, FACTS, class_names=("walk", "run", "jump", "007"))[0]["label"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], r"t.csv: the first line has no column video"),
        (["video,time,x1,y1,x2,y2"], r"t.csv: the first line has no column time_sec"),
        ([PIXELS[0].replace("person", "persn")], r"has a column 'persn' too many"),
        ([PIXELS[0], "a.mp4,-1,0,0,1,1,run,"], r"t.csv:2: time_sec is -1; it must be a number >= 0"),
        ([PIXELS[0], "a.mp4,nan,0,0,1,1,run,"], r"t.csv:2: time_sec is nan"),
        ([PIXELS[0], "a.mp4,1,0,zero,1,1,run,"], r"t.csv:2: y1 is 'zero'"),
        ([PIXELS[0], ",1,0,0,1,1,run,"], r"t.csv:2: the name of the video is empty"),
        ([PIXELS[0], "a.mp4,1,0,0,1,1,rum,"], r"t.csv:2: the label 'rum' is none of 2 classes; did you mean 'run'"),
        ([PIXELS[0], "a.mp4,1,0,0,1,1,run,Ann"], r"t.csv:2: person is 'Ann'"),
        (["video,time_sec,x1,y1,x2,y2,score", "a.mp4,1,0,0,1,1,2"], r"t.csv:2: score is 2; it must be in \[0, 1\]"),
    ],
)
def test_csv_files_that_cannot_be_read(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        load_box_csv(str(write_lines(tmp_path / "t.csv", lines)), FACTS, class_names=("jump", "run"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "lists images, annotations and categories"),
        ({"images": [{"id": 1, "time_sec": 2}]}, "image 1 must have 'video'"),
        ({"images": [{"id": 1, "video": "a.mp4"}]}, "'time_sec' or 'frame_index'"),
        ({"annotations": [{"id": 5, "image_id": 9, "bbox": [0, 0, 1, 1]}]}, "annotation 5 has the image_id 9"),
        ({"annotations": [{"id": 5, "image_id": 1, "bbox": [0, 0, 1]}]}, r"annotation 5 has the bbox \[0, 0, 1\]"),
        (
            {"annotations": [{"id": 5, "image_id": 1, "bbox": [0, 0, 1, 1], "category_id": 3}]},
            "annotation 5 has the category_id 3, which is none of categories",
        ),
        ({"categories": [{"name": "run"}]}, "must have 'id' and 'name'"),
    ],
)
def test_json_files_that_cannot_be_read(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load_box_json(write_json(tmp_path / "t.json", **changes), FACTS)


def test_files_that_are_none(tmp_path):
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(ValueError, match=r"t.json is not a json file"):
        load_box_json(str(tmp_path / "t.json"), FACTS)
    for name in ("none.json", "none.csv"):
        with pytest.raises(FileNotFoundError, match=name):
            load_box_table(str(tmp_path / name), FACTS)

"""Readers of annotation files, on files as users have them."""

import json
import logging

import numpy as np
import pytest

from hiera_video.data.lists import (
    VideoList,
    check_video_list,
    load_class_folders,
    load_class_names,
    load_kinetics_csv,
    load_ssv2_json,
)


def write(path, text):
    path.write_bytes(text.encode())
    return str(path)


def make_list(paths, labels):
    return VideoList(np.array(paths), np.array(labels))


def test_kinetics_csv(tmp_path):
    text = '\ufeffa.mp4 3\r\nwith a space/b c.mp4 0\r\n\r\n/abs/d.mp4 12\r\ns3://bucket/e.mp4 1\r\n"f g.mp4" 2'
    videos = load_kinetics_csv(write(tmp_path / "train.csv", text), path_prefix="/root/videos")
    assert videos.paths.tolist() == [
        "/root/videos/a.mp4",
        "/root/videos/with a space/b c.mp4",
        "/abs/d.mp4",
        "s3://bucket/e.mp4",
        "/root/videos/f g.mp4",
    ]
    assert videos.labels.tolist() == [3, 0, 12, 1, 2]
    assert videos.labels.dtype == np.int64
    assert videos.paths.dtype.kind == "U"  # no Python objects
    assert len(videos) == 5


def test_kinetics_csv_with_another_separator(tmp_path):
    path = write(tmp_path / "train.csv", "a, b.mp4,3\nc.mp4 , 4\n")
    videos = load_kinetics_csv(path, separator=",", path_prefix="s3://bucket/k400")
    assert videos.paths.tolist() == ["s3://bucket/k400/a, b.mp4", "s3://bucket/k400/c.mp4"]
    assert videos.labels.tolist() == [3, 4]


@pytest.mark.parametrize("line", ["b c.mp4", "b.mp4,3", "b.mp4 three", "7", " 7", "label,youtube_id"])
def test_a_line_that_is_no_path_and_label_is_named(tmp_path, line):
    path = write(tmp_path / "val.csv", f"a.mp4 1\n\n{line}\n")
    with pytest.raises(ValueError, match=r"val\.csv:3: ") as caught:
        load_kinetics_csv(path)
    assert repr(line.strip()) in str(caught.value)


def test_unlabeled_lines_where_labels_are_not_needed(tmp_path):
    path = write(tmp_path / "test.csv", "a.mp4 1\nb c.mp4\n")
    videos = load_kinetics_csv(path, require_labels=False)
    assert videos.paths.tolist() == ["a.mp4", "b c.mp4"]
    assert videos.labels.tolist() == [1, -1]


def test_kinetics_csv_keeps_class_names(tmp_path):
    path = write(tmp_path / "val.csv", "a.mp4 1\n")
    assert load_kinetics_csv(path).class_names is None
    assert load_kinetics_csv(path, class_names=["x", "y"]).class_names == ("x", "y")
    names = write(tmp_path / "names.txt", "x y\nz\n")
    assert load_kinetics_csv(path, class_names=names).class_names == ("x y", "z")


def test_a_missing_list_is_named_with_the_formats(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv.*class folders"):
        load_kinetics_csv(str(tmp_path / "nowhere.csv"))


LABELS = {"Moving something up": "1", "Pretending to put something similar to other things down": "2", "Holding a": "0"}


def write_ssv2(tmp_path, entries):
    labels = write(tmp_path / "labels.json", json.dumps(LABELS))
    return write(tmp_path / "train.json", json.dumps(entries)), labels


def test_ssv2_json(tmp_path):
    split, labels = write_ssv2(
        tmp_path,
        [
            {"id": "78687", "label": "moving cup up", "template": "Moving [something] up", "placeholders": ["cup"]},
            {"id": "42", "template": "Pretending to put [something similar to other things] down"},
            {"id": "7"},
        ],
    )
    videos = load_ssv2_json(split, labels, path_prefix="/data/ssv2")
    assert videos.paths.tolist() == ["/data/ssv2/78687.webm", "/data/ssv2/42.webm", "/data/ssv2/7.webm"]
    assert videos.labels.tolist() == [1, 2, -1]
    assert videos.class_names == ("Holding a", "Moving something up", list(LABELS)[1])
    assert load_ssv2_json(split, labels, suffix=".mp4").paths[1] == "42.mp4"


def test_ssv2_template_without_label_is_named(tmp_path):
    split, labels = write_ssv2(tmp_path, [{"id": "5", "template": "Moving [something] upp"}])
    with pytest.raises(
        ValueError, match=r"Moving \[something\] upp.*video 5.*labels\.json.*mean 'Moving something up'"
    ):
        load_ssv2_json(split, labels)


@pytest.mark.parametrize("content", [{"a": 1}, ["5"], [{"template": "x"}]])
def test_ssv2_wrong_form(tmp_path, content):
    split, labels = write_ssv2(tmp_path, content)
    with pytest.raises(ValueError, match=r"train\.json.*'template'"):
        load_ssv2_json(split, labels)


def test_ssv2_broken_json(tmp_path):
    _, labels = write_ssv2(tmp_path, [])
    with pytest.raises(ValueError, match=r"broken\.json is not a json file"):
        load_ssv2_json(write(tmp_path / "broken.json", "[{"), labels)


def make_folders(root, names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return str(root)


def test_class_folders(tmp_path):
    train = make_folders(tmp_path / "train", ["run/b.mp4", "run/a.MKV", "run/notes.txt", "jump/c.webm", ".git/d.mp4"])
    videos = load_class_folders(train)
    assert videos.class_names == ("jump", "run")
    assert videos.paths.tolist() == [f"{train}/jump/c.webm", f"{train}/run/a.MKV", f"{train}/run/b.mp4"]
    assert videos.labels.tolist() == [0, 1, 1]


def test_the_val_folders_get_the_train_labels(tmp_path):
    val = make_folders(tmp_path / "val", ["run/z.mp4"])
    assert load_class_folders(val, class_names=("jump", "run")).labels.tolist() == [1]
    with pytest.raises(ValueError, match=r"'run' is none of the 2 classes; did you mean 'runs'"):
        load_class_folders(val, class_names=("jump", "runs"))


def test_class_folders_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*none"):
        load_class_folders(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="no class folders"):
        load_class_folders(str(tmp_path))


def test_class_names(tmp_path):
    assert load_class_names(write(tmp_path / "a.txt", "b\r\n\r\n a c \n")) == ("b", "a c")
    assert load_class_names(write(tmp_path / "a.json", '{"\\"air drumming\\"": 1, "abseiling": 0}')) == (
        "abseiling",
        "air drumming",
    )
    assert load_class_names(write(tmp_path / "b.json", '["x", "y"]')) == ("x", "y")


@pytest.mark.parametrize("content", ['{"a": 1, "b": 2}', '{"a": 0, "b": 0}', '{"a": "x"}', "3"])
def test_class_names_with_wrong_labels(tmp_path, content):
    with pytest.raises(ValueError, match=r"names\.json"):
        load_class_names(write(tmp_path / "names.json", content))


def test_labels_out_of_range(tmp_path):
    videos = make_list(["a.mp4", "b.mp4", "c.mp4"], [0, 5, -1])
    with pytest.raises(ValueError, match=r"train\.csv: b\.mp4 has label 5.*\[0, 5\); 2 of 3") as caught:
        check_video_list(videos, num_classes=5, source="train.csv")
    assert "count from 1" not in str(caught.value)
    with pytest.raises(ValueError, match="count from 1"):
        check_video_list(make_list(["a", "b"], [1, 5]), num_classes=5, source="train.csv")


def test_unknown_labels_pass_only_where_allowed(tmp_path):
    (tmp_path / "a.mp4").touch()
    videos = make_list([str(tmp_path / "a.mp4")], [-1])
    check_video_list(videos, num_classes=None, source="test.json")
    with pytest.raises(ValueError, match="label -1"):
        check_video_list(videos, num_classes=5, source="test.json")


def test_an_empty_list(tmp_path):
    videos = load_kinetics_csv(write(tmp_path / "train.csv", "\n"))
    with pytest.raises(ValueError, match=r"train\.csv lists no videos"):
        check_video_list(videos, num_classes=5, source="train.csv")


def test_missing_files(tmp_path, caplog):
    there, gone = str(tmp_path / "there.mp4"), str(tmp_path / "gone.mp4")
    (tmp_path / "there.mp4").touch()
    with pytest.raises(FileNotFoundError, match=r"none of 2 .*gone\.mp4.*DATA\.PATH_PREFIX"):
        check_video_list(make_list([gone, gone], [0, 0]), num_classes=1, source="x.csv")
    with caplog.at_level(logging.WARNING, logger="hiera_video"):
        check_video_list(make_list([there, gone, there], [0, 0, 0]), num_classes=1, source="x.csv")
    assert "1 of 3" in caplog.text and "gone.mp4" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="hiera_video"):
        check_video_list(make_list([there, "https://host/a.mp4"], [0, 0]), num_classes=1, source="x.csv")
    assert not caplog.text


def test_only_a_thousand_files_are_looked_for(monkeypatch):
    asked = []
    monkeypatch.setattr("os.path.exists", lambda path: asked.append(path) or True)
    names = [f"{i}.mp4" for i in range(5000)]
    check_video_list(make_list(names, [0] * 5000), num_classes=1, source="x.csv")
    assert len(asked) == 1000
    assert {"0.mp4", "4999.mp4"} <= set(asked)

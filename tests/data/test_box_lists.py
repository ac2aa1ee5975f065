"""Truth, predicted persons and key frames of a config, by the rules of SlowFast and of the published files."""

import logging

import numpy as np
import pytest
from ava_factory import PERSONS, TRAIN, VAL, make_config, write_ava, write_lines

from hiera_video.data.box_lists import build_key_frames, build_truth
from hiera_video.data.build_lists import build_video_list


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_ava(tmp_path_factory.mktemp("ava") / "data")


@pytest.fixture
def copy(folder, tmp_path):
    """A folder with the same videos whose lists a test may change."""
    (tmp_path / "videos").symlink_to(folder / "videos")
    for path in folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def describe(key_frames):
    """(video, second) -> boxes as (x1, labels)."""
    result = {}
    for i, key in enumerate(zip(key_frames.videos.tolist(), key_frames.times_sec.tolist(), strict=True)):
        rows = range(*key_frames.box_starts[i : i + 2])
        labels = [np.flatnonzero(key_frames.actions[row]).tolist() for row in rows]
        result[key] = list(zip(key_frames.boxes[rows, 0].round(3).astype(float).round(3).tolist(), labels, strict=True))
    return result


def test_truth(folder):
    boxes, excluded, names = build_truth(make_config(folder), "test")
    assert boxes["video"].tolist() == ["a", "b"] and boxes["label"].tolist() == [2, 0]
    assert excluded == {("a", 903.0)} and names == {0: "sit", 2: "run"}
    train = build_truth(make_config(folder), "train")
    assert len(train.boxes) == len(TRAIN) and train.excluded == set()
    assert build_truth(make_config(folder, "AVA.EXCLUSION_FILE", ""), "test").excluded == set()


def test_training_takes_all_truth(folder):
    found = build_key_frames(make_config(folder), "train")
    assert describe(found) == {
        ("a", 901): [(0.0, [1])],
        ("a", 902): [(0.1, [2, 3]), (0.6, [0])],
        ("b", 901): [(0.2, [0])],
    }
    assert found.paths.tolist() == [str(folder / "videos" / name) for name in ("a.mp4", "a.mp4", "b.mkv")]
    assert set(found.start_secs) == {900.0}, "videos of 5 s that have boxes at 902 s are cut at 900 s"
    assert found.class_names == ("sit", "class 1", "run", "class 3", "class 4")


def test_predicted_persons_of_training_bring_their_own_actions(copy):
    """As in SlowFast: from the threshold on, with the labels of their list; equal corners are one box."""
    lines = ["a,902,0.1,0.1,0.5,0.5,5,0.95", "b,904,0.3,0.3,0.5,0.5,,0.80", "b,904,0.4,0.3,0.5,0.5,1,0.79"]
    write_lines(copy / "extra.csv", lines)
    found = describe(build_key_frames(make_config(copy, "AVA.TRAIN_PREDICT_BOX_LISTS", "['extra.csv']"), "train"))
    assert found[("a", 902)] == [(0.1, [2, 3, 4]), (0.6, [0])] and found[("b", 904)] == [(0.3, [])]


def test_tests_go_through_predicted_persons(folder):
    """Also where the truth has nobody, and not where nobody is predicted well enough."""
    found = build_key_frames(make_config(folder), "test")
    assert describe(found) == {("b", 901): [(0.1, []), (0.9, [])], ("a", 902): [(0.3, [])]}
    assert found.scores.tolist() == [np.float32(x) for x in (0.85, 0.9, 0.8)]
    few = build_key_frames(make_config(folder, "AVA.DETECTION_SCORE_THRESH", "0.9"), "test")
    assert describe(few) == {("b", 901): [(0.9, [])]}


def test_without_predicted_persons_the_truth_stands_in(folder, caplog):
    with caplog.at_level(logging.WARNING, logger="hiera_video"):
        found = build_key_frames(make_config(folder, "AVA.TEST_PREDICT_BOX_LISTS", "[]"), "test")
    assert describe(found) == {("a", 902): [(0.1, [2])], ("b", 904): [(0.2, [0])]}
    assert "results are higher than with a detector" in caplog.text


def test_a_quarter_of_the_seconds_in_validation(folder):
    cfg = make_config(folder, "AVA.FULL_TEST_ON_VAL", "False", "AVA.TEST_PREDICT_BOX_LISTS", "[]")
    assert list(describe(build_key_frames(cfg, "val"))) == [("b", 904)]
    assert build_truth(cfg, "val").boxes["time_sec"].tolist() == [904]
    assert len(build_truth(cfg, "test").boxes) == len(build_truth(make_config(folder), "val").boxes) == 2


def test_bad_boxes_stop_training_and_are_left_out_of_tests(copy, caplog):
    write_lines(copy / "ava_train_v2.2.csv", [*TRAIN, "a,903,0.5,0.1,0.2,0.5,1,1"])
    with pytest.raises(ValueError, match=r"ava_train_v2.2.csv:6: box .* of video a at 903 s is reversed"):
        build_key_frames(make_config(copy), "train")
    write_lines(copy / "persons.csv", [*PERSONS, "a,902,0.1,0.1,nan,0.5,,0.9"])
    with caplog.at_level(logging.WARNING, logger="hiera_video"):
        assert describe(build_key_frames(make_config(copy), "test"))[("a", 902)] == [(0.3, [])]
    assert "line 5: box" in caplog.text and "not a number" in caplog.text


def test_labels_and_classes_that_the_model_does_not_have(copy):
    with pytest.raises(ValueError, match=r"ava_train_v2.2.csv:2: label 4 is none of 3 classes .*1 to 3"):
        build_truth(make_config(copy, "MODEL.NUM_CLASSES", "3"), "train")
    with pytest.raises(ValueError, match=r"has ids 1 to 3; with MODEL.NUM_CLASSES = 2"):
        write_lines(copy / "ava_val_v2.2.csv", VAL[1:])
        build_truth(make_config(copy, "MODEL.NUM_CLASSES", "2"), "test")


def test_no_boxes_at_all(folder):
    with pytest.raises(ValueError, match=r"the split test has no boxes.*AVA.DETECTION_SCORE_THRESH = 0.99"):
        build_key_frames(make_config(folder, "AVA.DETECTION_SCORE_THRESH", "0.99"), "test")


def test_other_jobs_are_told_apart(folder):
    with pytest.raises(ValueError, match=r"DATA.FORMAT = ava lists boxes"):
        build_video_list(make_config(folder), "train")


def test_files_that_are_missing(copy):
    with pytest.raises(FileNotFoundError, match="gone.csv"):
        build_key_frames(make_config(copy, "AVA.TEST_PREDICT_BOX_LISTS", "['gone.csv']"), "test")
    (copy / "ava_action_list_v2.2_for_activitynet_2019.pbtxt").unlink()
    with pytest.raises(FileNotFoundError, match="pbtxt"):
        build_truth(make_config(copy), "test")


def write_own(folder):
    header = "video,time_sec,x1,y1,x2,y2,label"
    write_lines(folder / "train.csv", [header, "videos/a,1,8,8,32,32,run", "videos/b,2.5,16,0,64,64,jump"])
    write_lines(folder / "val.csv", [header, "videos/a.mp4,0.5,0.25,0.25,0.5,0.5,run"])
    return folder


def own_config(folder, *pairs):
    return make_config(folder, "MODEL.NUM_CLASSES", "2", *pairs, data_format="boxes")


def test_boxes_of_ones_own(copy, caplog):
    """Pixels in one file and shares in the other; times since the first frame; labels as in training."""
    cfg = own_config(write_own(copy))
    train = build_key_frames(cfg, "train")
    assert describe(train) == {("videos/a", 1): [(0.125, [1])], ("videos/b", 2.5): [(0.25, [0])]}
    assert train.class_names == ("jump", "run") and set(train.start_secs) == {0.0}
    assert train.paths.tolist() == [str(copy / "videos" / name) for name in ("a.mp4", "b.mkv")]
    with caplog.at_level(logging.WARNING, logger="hiera_video"):
        assert describe(build_key_frames(cfg, "val")) == {("videos/a.mp4", 0.5): [(0.25, [1])]}
    assert "val_persons.csv" in caplog.text
    assert build_truth(cfg, "val").class_names == {0: "jump", 1: "run"}
    write_lines(copy / "val_persons.csv", ["video,time_sec,x1,y1,x2,y2,score", "videos/a.mp4,1,0.1,0.1,0.2,0.2,0.9"])
    assert describe(build_key_frames(cfg, "val")) == {("videos/a.mp4", 1): [(0.1, [])]}


def test_ones_own_lists_that_do_not_fit(copy):
    cfg = own_config(write_own(copy))
    with pytest.raises(FileNotFoundError, match=r"test.csv or .*test.json; there is neither"):
        build_truth(cfg, "test")
    with pytest.raises(ValueError, match="has 2 classes, MODEL.NUM_CLASSES is 5"):
        build_truth(make_config(copy, data_format="boxes"), "train")
    write_lines(copy / "val.csv", ["video,time_sec,x1,y1,x2,y2,label", "videos/a,1,0,0,1,1,rum"])
    with pytest.raises(ValueError, match=r"val.csv:2: the label 'rum'.*did you mean 'run'"):
        build_truth(cfg, "val")

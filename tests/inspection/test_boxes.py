"""What is wrong with lists of boxes is found, each fault as its own kind."""

import pytest
from ava_factory import PERSONS, TRAIN, VAL, make_config, write_ava, write_lines

from hiera_video.inspection.boxes import build_box_survey, build_length_sec, find_absent_moments
from hiera_video.inspection.inspect_video import inspect_video

ALL_CLASSES = "".join(f'item {{ name: "{number}" id: {number} }}' for number in range(1, 6))
WHOLE_TRAIN = [*TRAIN, "b,902,0.1,0.1,0.2,0.2,5,1"]
GOOD_PERSONS = [*PERSONS, "b,904,0.1,0.1,0.5,0.5,,0.9"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_ava(tmp_path_factory.mktemp("ava") / "data") / "videos"


@pytest.fixture
def folder(videos, tmp_path):
    """A data set with which nothing is wrong."""
    (tmp_path / "videos").symlink_to(videos)
    write_lines(tmp_path / "ava_train_v2.2.csv", WHOLE_TRAIN)
    write_lines(tmp_path / "ava_val_v2.2.csv", VAL)
    write_lines(tmp_path / "persons.csv", GOOD_PERSONS)
    write_lines(tmp_path / "ava_val_excluded_timestamps_v2.2.csv", ["a,903"])
    (tmp_path / "ava_action_list_v2.2_for_activitynet_2019.pbtxt").write_text(ALL_CLASSES)
    return tmp_path


def survey_of(folder, *pairs, splits=()):
    return build_box_survey(make_config(folder, *pairs), splits)


def describe(findings):
    return [(finding.kind, finding.subject.rsplit("/", 1)[-1], finding.splits) for finding in findings]


def find_absent(folder, *pairs):
    cfg = make_config(folder, *pairs)
    survey = build_box_survey(cfg, ())
    records = {path: inspect_video(path) for path in survey.moments_sec}
    splits = dict.fromkeys(records, ("train",))
    return list(find_absent_moments(survey, records, splits, get_length_sec=build_length_sec(cfg)))


def test_nothing_is_wrong(folder):
    survey = survey_of(folder)
    assert survey.findings == [] and find_absent(folder) == []
    assert survey.counts == {
        "train": {"key_frames": 4, "boxes": 5, "labels": 6, "persons": 0},
        "val": {"key_frames": 2, "boxes": 2, "labels": 2, "persons": 4},
    }
    assert {split: len(videos) for split, videos in survey.lists.items()} == {"train": 2, "val": 2}
    assert {path[-5:]: times.tolist() for path, times in survey.moments_sec.items()} == {
        "a.mp4": [1, 2],
        "b.mkv": [1, 2, 4],
    }


def test_boxes_and_labels_with_file_and_line(folder):
    write_lines(folder / "ava_train_v2.2.csv", [*WHOLE_TRAIN, "a,902,0.9,0.1,0.5,0.5,1,1", "a,902,0.1,0.1,0.5,0.5,6,1"])
    write_lines(folder / "persons.csv", ["a,902,1.1,0.1,1.5,0.5,,0.9", *GOOD_PERSONS])
    survey = survey_of(folder)
    assert describe(survey.findings) == [
        ("bad_box", "ava_train_v2.2.csv:7", ("train",)),
        ("label_out_of_range", "ava_train_v2.2.csv:8", ("train",)),
        ("bad_box", "persons.csv:1", ("val",)),
    ]
    assert "reversed" in survey.findings[0].reason and "label 6; legal are 1 to 5" in survey.findings[1].reason


def test_truth_among_predicted_persons(folder):
    survey = survey_of(folder, "AVA.TRAIN_PREDICT_BOX_LISTS", "['ava_train_v2.2.csv']")
    assert describe(survey.findings) == [("unreadable_list", "train", ("train",))]
    assert "looks like truth" in survey.findings[0].reason
    assert set(survey.lists) == {"train", "val"}, "the rest is checked all the same"


def test_moments_that_videos_do_not_have(folder):
    write_lines(folder / "ava_val_v2.2.csv", [*VAL, "b,930,0.1,0.1,0.5,0.5,1,1"])
    (finding,) = find_absent(folder, "AVA.START_SEC", "900")
    assert finding.kind == "absent_moment" and finding.subject.endswith("b.mkv")
    assert finding.reason == "1 of 4 moments, such as 30 s after the first frame; it lasts 5.0 s"
    survey = survey_of(folder)
    assert describe(survey.findings)[0] == ("missed_moment", "val", ("val",))
    assert "1 of 3 moments, such as 930 s of b" in survey.findings[0].reason


def test_a_start_that_cannot_be_found(folder):
    write_lines(folder / "ava_train_v2.2.csv", [*WHOLE_TRAIN, "a,990,0.1,0.1,0.5,0.5,1,1"])
    survey = survey_of(folder)
    assert describe(survey.findings) == [("unreadable_list", "train", ("train",))]
    assert "neither a whole film" in survey.findings[0].reason


def test_classes(folder):
    write_lines(folder / "ava_train_v2.2.csv", TRAIN)
    (folder / "ava_action_list_v2.2_for_activitynet_2019.pbtxt").write_text('item { name: "1" id: 1 }')
    findings = survey_of(folder).findings
    assert [(finding.kind, finding.reason) for finding in findings] == [
        ("untrained_class", "1 of 5: 5"),
        ("unscored_label", "3 of 5 labels: ids 2, 3, 4"),
        ("unscored_label", "1 of 2 labels: ids 3"),
    ]


def test_lists_that_are_not_there(folder):
    assert describe(survey_of(folder, "AVA.TEST_PREDICT_BOX_LISTS", "[]").findings) == [("no_persons", "val", ("val",))]
    (folder / "persons.csv").unlink()
    assert [finding.kind for finding in survey_of(folder).findings] == ["unreadable_list", "no_persons"]
    (folder / "ava_val_v2.2.csv").unlink()
    assert describe(survey_of(folder).findings) == [("unreadable_list", "val", ("val",))]
    (folder / "ava_train_v2.2.csv").unlink()
    with pytest.raises(FileNotFoundError, match="ava_train_v2.2.csv"):
        survey_of(folder)


def test_boxes_of_ones_own(folder):
    lines = ["video,time_sec,x1,y1,x2,y2,label", "videos/a,1,0.5,0,0.5,1,0", "videos/a,9,0,0,1,1,4"]
    write_lines(folder / "train.csv", lines)
    cfg = make_config(folder, data_format="boxes")
    survey = build_box_survey(cfg, ())
    assert describe(survey.findings) == [
        ("bad_box", "train.csv:2", ("train",)),
        ("untrained_class", "train", ("train",)),
    ]
    assert [times.tolist() for times in survey.moments_sec.values()] == [[1, 9]]

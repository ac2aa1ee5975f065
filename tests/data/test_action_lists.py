"""AVA's published forms, read as they stand, and moments with boxes made of them."""

import numpy as np
import pandas as pd
import pytest
from ava_factory import CLASSES, PERSONS, TRAIN, write_lines

from hiera_video.data.action_lists import (
    COLUMNS,
    load_ava_persons,
    load_ava_truth,
    load_exclusions,
    load_frame_lists,
    load_label_map,
    make_key_frames,
)

HEADER = "original_vido_id video_id frame_id path labels"


def test_truth(tmp_path):
    lines = [*TRAIN, "", "c,1000", "-5KQ66BBWC4,0903,0.077,0.151,0.283,0.811,80,1", "d,904,0,0,1,1,,"]
    table = load_ava_truth(str(write_lines(tmp_path / "truth.csv", lines)))
    assert tuple(table.columns) == COLUMNS and len(table) == 7
    assert table["video"].tolist() == ["a", "a", "a", "b", "a", "-5KQ66BBWC4", "d"]
    assert table["label"].tolist() == [2, 3, 0, 0, 1, 79, -1], "action ids count from 1"
    assert table["person"].tolist() == [1, 1, 2, 7, 1, 1, -1] and (table["score"] == 1).all()
    assert table.loc[8, ["time_sec", "x1", "y1", "x2", "y2"]].tolist() == [903, 0.077, 0.151, 0.283, 0.811]
    assert table.index.tolist() == [1, 2, 3, 4, 5, 8, 9], "the index holds the lines"


def test_persons(tmp_path):
    lines = [*PERSONS, "c,905,0.1,0.2,0.3,0.4,12,0.9876543"]
    table = load_ava_persons(str(write_lines(tmp_path / "persons.csv", lines)))
    assert table["score"].tolist() == [0.85, 0.9, 0.5, 0.8, 0.9876543]
    assert table["label"].tolist() == [-1, -1, -1, -1, 11] and set(table["person"]) == {-1}


def test_truth_among_predicted_persons_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"truth.csv.*looks like truth.*1 in line 1.*AVA.TRAIN_PREDICT_BOX_LISTS"):
        load_ava_persons(str(write_lines(tmp_path / "truth.csv", TRAIN)))
    zeros = [line.rpartition(",")[0] + ",0" for line in TRAIN]
    with pytest.raises(ValueError, match="looks like truth"):
        load_ava_persons(str(write_lines(tmp_path / "zeros.csv", zeros)))
    sure = [line.rpartition(",")[0] + ",1.0" for line in TRAIN]
    assert (load_ava_persons(str(write_lines(tmp_path / "sure.csv", sure)))["score"] == 1).all()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,902,0.1,0.1,0.5,0.5,3,1,9", r"bad.csv:2: .*is not of the form video,second,x1"),
        ("a,902,0.1,x,0.5,0.5,3,1", r"bad.csv:2: y1 is 'x'; it must be a number"),
        ("a,902,0.1,0.1,0.5,0.5,3.5,1", r"bad.csv:2: action_id is '3.5'; it must be an integer"),
        ("a,902,0.1,0.1,0.5,0.5,0,1", r"bad.csv:2: action_id is 0; ids count from 1"),
        ("a,902,0.1,0.1,0.5", r"bad.csv:2: y2 is ''; it must be a number"),
        ("a,nan,0.1,0.1,0.5,0.5,3,1", r"bad.csv:2: the second is 'nan'"),
        (",902,0.1,0.1,0.5,0.5,3,1", r"bad.csv:2: .*is not of the form"),
    ],
)
def test_lines_that_cannot_be_read(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        load_ava_truth(str(write_lines(tmp_path / "bad.csv", [TRAIN[0], line])))


@pytest.mark.parametrize("score", ["1.5", "-0.1", "nan", "", "high"])
def test_scores_that_are_none(tmp_path, score):
    path = write_lines(tmp_path / "bad.csv", [PERSONS[0], f"a,902,0.1,0.1,0.5,0.5,,{score}"])
    with pytest.raises(ValueError, match=f"bad.csv:2: score is '{score}'"):
        load_ava_persons(str(path))


def test_files_that_are_not_there_or_empty(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no list of boxes .*none.csv"):
        load_ava_truth(str(tmp_path / "none.csv"))
    (tmp_path / "empty.csv").touch()
    assert len(load_ava_truth(str(tmp_path / "empty.csv"))) == len(load_ava_persons(str(tmp_path / "empty.csv"))) == 0


def test_exclusions(tmp_path):
    path = write_lines(tmp_path / "excluded.csv", ["a,0903", "", "b,1798"])
    assert load_exclusions(str(path)) == {("a", 903.0), ("b", 1798.0)}


def test_label_map_in_both_forms(tmp_path):
    (tmp_path / "map.pbtxt").write_text(CLASSES + "item { id: 80 name: 'work on a \"computer\"' }")
    assert load_label_map(str(tmp_path / "map.pbtxt")) == {1: "sit", 3: "run", 80: 'work on a "computer"'}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no class"),
        ('item { name: "sit" }', "class number 1 must have"),
        ('item { name: "sit" id: 1 } item { name: "run" id: 1 }', "id 1 is given twice"),
    ],
)
def test_label_maps_that_cannot_be_read(tmp_path, text, message):
    (tmp_path / "map.pbtxt").write_text(text)
    with pytest.raises(ValueError, match=f"map.pbtxt.*{message}"):
        load_label_map(str(tmp_path / "map.pbtxt"))


def test_frame_lists(tmp_path):
    first = [HEADER, *(f'a 0 {i} a/a_{i + 1:06d}.jpg ""' for i in range(3)), 'b 1 0 b/b_000001.jpg ""']
    second = [HEADER, 'c 0 0 c/c_000001.jpg ""']
    paths = [write_lines(tmp_path / "1.csv", first), write_lines(tmp_path / "2.csv", second)]
    expected = {"a": "a/a_%06d.jpg#1-3", "b": "b/b_%06d.jpg#1-1", "c": "c/c_%06d.jpg#1-1"}
    assert load_frame_lists(map(str, paths)) == expected
    other = write_lines(tmp_path / "3.csv", [HEADER, 'c 0 0 c/c_000002.jpg ""'])
    with pytest.raises(ValueError, match=r"3.csv: .*of video c is .*in another list"):
        load_frame_lists(map(str, [*paths, other]))


def group(tmp_path, lines, **changes):
    table = load_ava_truth(str(write_lines(tmp_path / "t.csv", lines)))
    names = table["video"].unique()
    options = {"paths": {name: f"/v/{name}.mp4" for name in names}, "start_secs": dict.fromkeys(names, 900.0)}
    return table, make_key_frames(table, **(options | {"num_classes": 5} | changes))


def test_moments_by_hand(tmp_path):
    _, found = group(tmp_path, TRAIN)
    assert found.paths.tolist() == ["/v/a.mp4", "/v/a.mp4", "/v/b.mp4"] and found.videos.tolist() == ["a", "a", "b"]
    assert found.times_sec.tolist() == [901, 902, 901] and found.start_secs.tolist() == [900] * 3
    assert found.box_starts.tolist() == [0, 1, 3, 4] and len(found) == 3 and found.labels.tolist() == [-1] * 3
    corners = [[0.0, 0.0, 1.0, 1.0], [0.1, 0.1, 0.5, 0.5], [0.6, 0.2, 0.9, 0.8], [0.2, 0.2, 0.9, 0.9]]
    assert np.array_equal(found.boxes, np.array(corners, np.float32)) and found.boxes.dtype == np.float32
    assert [np.flatnonzero(row).tolist() for row in found.actions] == [[1], [2, 3], [0], [0]]
    assert found.persons.tolist() == [1, 1, 2, 7] and found.scores.tolist() == [1] * 4


def test_moments_against_a_plain_loop(tmp_path):
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(400):
        box = f"0.{rng.integers(1, 4)},0.1,0.{rng.integers(5, 8)},0.9"
        lines.append(f"v{rng.integers(3)},{900 + rng.integers(4)},{box},{rng.integers(1, 6)},{rng.integers(9)}")
    table, found = group(tmp_path, lines)
    plain: dict = {}
    for row in table.itertuples(index=False):
        boxes = plain.setdefault((row.video, row.time_sec), {})
        boxes.setdefault(row[2:6], (row.person, set()))[1].add(row.label)
    order = list(dict.fromkeys(table["video"]))
    expected = sorted(plain, key=lambda key: (order.index(key[0]), key[1]))
    assert list(zip(found.videos, found.times_sec, strict=True)) == expected
    for i, key in enumerate(expected):
        rows = range(*found.box_starts[i : i + 2])
        assert [tuple(found.boxes[row]) for row in rows] == [tuple(np.float32(box)) for box in plain[key]]
        labels = [(found.persons[row], set(np.flatnonzero(found.actions[row]))) for row in rows]
        assert labels == list(plain[key].values())
    assert found.box_starts[-1] == len(found.boxes) == len(found.actions)


def test_no_boxes_make_no_moments():
    empty = pd.DataFrame({name: [] for name in COLUMNS}).astype({"label": int, "person": int})
    assert len(make_key_frames(empty, paths={}, start_secs={}, num_classes=3)) == 0

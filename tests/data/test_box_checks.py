"""Boxes that cannot be meant are named with file and line."""

import pandas as pd
import pytest

from hiera_video.data.action_lists import load_ava_truth
from hiera_video.data.box_checks import check_boxes, check_labels, find_bad_boxes, read_cells, to_numbers

BOXES = {
    "0.1,0.2,0.3,0.4": "",
    "-0.1,-0.2,1.3,1.4": "",  # reaches beyond all borders
    "0.999,0,1.5,1": "",
    "0.3,0.2,0.1,0.4": "reversed",
    "0.1,0.4,0.3,0.2": "reversed",
    "0.1,0.2,0.1,0.4": "empty",
    "0.1,0.2,0.3,0.2": "empty",
    "1.0,0.2,1.3,0.4": "outside",
    "-0.5,0.2,0,0.4": "outside",
    "0.1,-0.3,0.2,-0.1": "outside",
    "0.1,1.2,0.2,1.4": "outside",
    "nan,0.2,0.3,0.4": "not a number",
    "0.1,0.2,inf,0.4": "not a number",
}


@pytest.fixture
def path(tmp_path):
    lines = [f"v,902,{box},1,{number}\n" for number, box in enumerate(BOXES)]
    (tmp_path / "list.csv").write_text("".join(lines))
    return str(tmp_path / "list.csv")


def test_each_fault_is_found(path):
    bad = find_bad_boxes(load_ava_truth(path))
    expected = {line: fault for line, fault in enumerate(BOXES.values(), start=1) if fault}
    assert bad.index.tolist() == list(expected)
    assert all(fault in reason for fault, reason in zip(expected.values(), bad, strict=True))


def test_the_first_bad_box_stops(path):
    table = load_ava_truth(path)
    message = r"list.csv:4: box \[0.3, 0.2, 0.1, 0.4\] of video v at 902 s is reversed.*10 of 13 rows"
    with pytest.raises(ValueError, match=message):
        check_boxes(table, path)
    check_boxes(table[:3], path)


def test_labels_out_of_range(path):
    table = load_ava_truth(path)
    check_labels(table, path, num_classes=1)
    table.loc[7, "label"] = 80
    with pytest.raises(ValueError, match=r"list.csv:7: label 81 is none of 80 classes .*1 to 80"):
        check_labels(table, path, num_classes=80, first=1)


def test_numbers_are_those_that_python_reads():
    texts = ["0.1", "1e-3", "0.30000000000000004", " 5", "1798"]
    assert to_numbers(pd.Series(texts), "f", "x").tolist() == [float(text) for text in texts]


def test_lines_count_from_one_and_blank_ones_are_dropped(tmp_path):
    (tmp_path / "f.csv").write_bytes("\ufeffa,1\r\n\r\nb,2\r\nc\r\n".encode())
    cells = read_cells(str(tmp_path / "f.csv"), ["name", "number"], needed=1, form="name,number")
    assert cells.to_dict("index") == {
        1: {"name": "a", "number": "1"},
        3: {"name": "b", "number": "2"},
        4: {"name": "c", "number": ""},
    }

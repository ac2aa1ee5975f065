"""The command that writes pages about runs."""

import pytest
from run_folders import make_predictions, write_metrics, write_run

from hiera_video.cli import report as tool


@pytest.fixture
def folders(tmp_path):
    for number, name in enumerate("ab"):
        predictions = make_predictions([0, 0, 1, 1], [0, number, 1, 1], num_classes=2)
        write_run(tmp_path / name, [f"{i}.mp4" for i in range(4)], predictions)
    return [str(tmp_path / name) for name in "ab"]


def test_one_folder_gets_its_page(folders, capsys):
    assert tool.main([folders[0]]) == 0
    assert capsys.readouterr().out.startswith(f"written: {folders[0]}/report.html, ")
    with open(f"{folders[0]}/report.html", encoding="utf-8") as file:
        page = file.read()
    assert "<title>Report of a</title>" in page and page.count("This video no longer exists.") == 4


def test_several_folders_are_compared(folders, capsys, tmp_path):
    assert tool.main(folders) == 0
    assert capsys.readouterr().out.startswith(f"written: {folders[0]}/comparison.html, ")
    assert "<title>a against b</title>" in (tmp_path / "a" / "comparison.html").read_text()
    assert tool.main([*folders, "--html", str(tmp_path / "new" / "c.html"), "--num-clips", "0"]) == 0
    assert "This video no longer exists." not in (tmp_path / "new" / "c.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num-clips", "-1"], "--num-clips is -1; it must be 0 or more"),
        (["{0}/../a"], "a folder is named twice"),
        (["{0}/missing"], "/a/missing is not a folder; name the OUTPUT_DIR of a job"),
        (["{0}/.."], "there is nothing to report"),
    ],
)
def test_what_cannot_be_reported_is_said_in_a_line(folders, words, message, capsys):
    assert tool.main([folders[0], *(word.format(folders[0]) for word in words)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_a_run_of_boxes_is_reported_by_its_numbers(tmp_path):
    write_metrics(tmp_path / "metrics.jsonl", num_epochs=1)
    (tmp_path / "test_results.json").write_text('{"map": 12.5, "map_interval": [10.0, 15.0], "num_videos": 3}')
    assert tool.main([str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "12.50 %" in page and "95 %: 10.00 to 15.00" in page

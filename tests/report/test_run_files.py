"""What jobs leave is read as they write it; what is damaged is named."""

import json

import pandas as pd
import pytest
from run_folders import make_predictions, write_metrics, write_run

from hiera_video.report.run_files import name_runs, read_run


@pytest.fixture
def folder(tmp_path):
    predictions = make_predictions([0, 1, 1], [0, 1, 0], num_classes=2, failed=[2])
    return write_run(tmp_path / "run", ["a.mp4", "b.mp4", "c.mp4"], predictions, class_names=("x,y", 'z"'))


def test_all_of_a_run_is_read(folder):
    (folder / "stdout.log").write_text(
        "[01-01 00:00:00 W] bad video 1: d.mp4: moov atom not found\n[01-01 00:00:00 I] bad video? no\n"
        "[01-01 00:00:01 W] unreachable video 2: e.mp4: timed out\n"
        "[01-01 00:00:02 W] bad video 1: d.mp4: moov atom not found\n"
    )
    pd.DataFrame({"path": ["f.mp4"], "reason": ["empty"]}).to_parquet(folder / "failures.parquet")
    run = read_run(folder)
    assert run.name == "run" and run.config == {"TASK": "classify", "MODEL.MODEL_NAME": "tiny", "SOLVER.MAX_EPOCH": "3"}
    assert run.train["epoch"].tolist()[:5] == [0.25, 0.5, 0.75, 1.0, 1.25] and len(run.train) == 12
    assert run.train["loss"].iloc[0] == pytest.approx(3 / 1.25) and "eta" not in run.train
    assert run.validation["epoch"].tolist() == [1, 2, 3] and run.validation["top1"].tolist() == [12, 24, 36]
    assert run.clips.class_names == ["x,y", 'z"'] and run.clips.predictions.tolist() == [0, 1, -1]
    assert run.failures == [
        ("c.mp4", "video 2 is <b>broken</b>", "test"),
        ("", "d.mp4: moov atom not found", "training"),
        ("", "e.mp4: timed out", "training"),
        ("f.mp4", "empty", "extraction"),
    ]


def test_a_test_that_came_later_says_how_it_tested(folder):
    (folder / "config.yaml").write_text("SOLVER: {BASE_LR: 0.5}\nTEST: {SPLIT: val}\n")
    (folder / "test_config.yaml").write_text("SOLVER: {BASE_LR: 0.1}\nTEST: {SPLIT: test}\n")
    assert read_run(folder).config == {"SOLVER.BASE_LR": "0.5", "TEST.SPLIT": "test"}
    (folder / "config.yaml").unlink()
    assert read_run(folder).config == {"SOLVER.BASE_LR": "0.1", "TEST.SPLIT": "test"}


def test_a_run_that_still_writes_is_read(tmp_path):
    write_metrics(tmp_path / "metrics.jsonl", num_epochs=1)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"_type": "train_iter", "epo')
    run = read_run(tmp_path)
    assert len(run.train) == 4 and run.results == {} and run.clips is None and run.config == {}


def test_numbers_that_were_none_are_gaps(tmp_path):
    line = {"_type": "train_iter", "epoch": "1/1", "iter": "1/2"}
    lines = [{**line, "loss": 1.0}, {**line, "iter": "2/2", "loss": None}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    assert read_run(tmp_path).train["loss"].isna().tolist() == [False, True]


def test_folders_without_a_run_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nothing to report"):
        read_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"_type": "extract", "videos": 3}\n')
    with pytest.raises(FileNotFoundError, match="nothing to report"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("metrics.jsonl", "{\n", "metrics.jsonl:1: '{' is no line"),
        ("metrics.jsonl", '{"_type": "train_iter"}\n', "metrics.jsonl:1: "),
        ("test_results.json", "[", "test_results.json is no JSON"),
        ("test_results.json", "[]", "test_results.json holds no object"),
        ("config.yaml", "a: [", "config.yaml is no yaml"),
        ("config.yaml", "a", "config.yaml holds no keys"),
        ("test_predictions.parquet", "PAR1", "test_predictions.parquet is no table"),
    ],
)
def test_damaged_files_are_named(folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_run(folder)


def test_names_tell_runs_apart(tmp_path):
    assert name_runs([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert name_runs([tmp_path / "a" / "out", tmp_path / "b" / "out"]) == ["a/out", "b/out"]
    assert name_runs([tmp_path / "a"]) == ["a"]


def test_some_of_many_reconstructions_are_taken(folder):
    place = folder / "reconstructions" / "00_clip"
    place.mkdir(parents=True)
    for name in ("original", "masked", *(f"epoch_{epoch:05d}" for epoch in range(10, 210, 10))):
        (place / f"{name}.jpg").write_bytes(name.encode())
    ((name, pictures),) = read_run(folder).reconstructions
    assert name == "00_clip" and [text for text, _ in pictures] == [
        *("original", "masked"),
        *(f"after epoch {epoch}" for epoch in (10, 50, 90, 120, 160, 200)),
    ]
    assert pictures[-1][1] == b"epoch_00200"

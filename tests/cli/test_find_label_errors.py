"""The command that ranks labels: what it finds among made clusters, writes and refuses."""

import json

import numpy as np
import pandas as pd
import pytest

from hiera_video.cli import find_label_errors as tool
from hiera_video.embeddings.label_errors import CROSSVAL
from hiera_video.embeddings.store import ShardWriter, VideoInfo, prepare_folder, write_side_car

WRONG = {4: 2, 17: 0}  # video -> label that it gets instead of number % 3


def write_folder(folder, labels):
    """Two windows of each video; that of number i lie along axis i % 3."""
    prepare_folder(folder)
    writer, draw = ShardWriter(folder, dim=5), np.random.default_rng(0)
    for i, label in enumerate(labels):
        rows = draw.normal(0, 0.2, (2, 5))
        rows[:, i % 3] += 3
        writer.add(VideoInfo(f"/data/{i}.mp4", str(i), label), first_view=0, spans_sec=rows[:, :2], embeddings=rows)
        writer.complete(f"/data/{i}.mp4")
    writer.flush()
    write_side_car(folder, {"settings": {}, "shape": [5]})
    return str(folder)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "e", [WRONG.get(i, i % 3) for i in range(30)] + [7, None])


def test_wrong_labels_are_listed_everywhere(folder, capsys, tmp_path):
    (tmp_path / "names.txt").write_text("up\ndown\nleft\n")
    files = {kind: str(tmp_path / f"found.{kind}") for kind in ("json", "csv", "html")}
    words = [word for kind, path in files.items() for word in (f"--{kind}", path)]
    assert tool.main([folder, "--class-names", str(tmp_path / "names.txt"), "--neighbors", "5", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"30 videos of 3 classes in {folder}; left out: 1 unlabeled, 1 alone in their class"
    assert lines[1].startswith("2 videos (6.7 %) are more like another class to their 5 neighbors and a logistic")
    assert {line.split()[-1] for line in lines[4:6]} == {"/data/4.mp4", "/data/17.mp4"}
    found = json.loads((tmp_path / "found.json").read_text())["suspects"]
    by_path = {record["path"]: record for record in found}
    first = by_path["/data/4.mp4"]
    assert (first["label"], first["suggested"], first["label_name"], first["suggested_name"]) == (2, 1, "left", "down")
    assert [record["rank"] for record in found] == [1, 2] and found[0]["margin"] <= found[1]["margin"] < 0
    combined = [(first[f"neighbors_for_{of}"] + first[f"classifier_for_{of}"]) / 2 for of in ("label", "suggested")]
    assert first["margin"] == pytest.approx(combined[0] - combined[1], abs=1e-5)
    assert len(first["neighbors"]) == 5 and {near["label"] for near in first["neighbors"]} <= {0, 1}
    table = pd.read_csv(tmp_path / "found.csv")
    assert table["path"].tolist() == [record["path"] for record in found] and "neighbors" not in table
    page = (tmp_path / "found.html").read_text()
    assert page.count("<article") == 2 and "<s>left</s>" in page


@pytest.mark.parametrize("ranking", ["neighbors", "classifier"])
def test_either_evidence_ranks_alone(folder, capsys, ranking):
    assert tool.main([folder, "--rank-by", ranking, "--neighbors", "5", "--json", "-", "--top-k", "0"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)["suspects"]
    assert {record["path"] for record in found[:2]} == {"/data/4.mp4", "/data/17.mp4"}
    margins = [record[f"{ranking}_for_label"] - record[f"{ranking}_for_suggested"] for record in found]
    assert margins == pytest.approx([record["margin"] for record in found], abs=1e-5)
    assert captured.err == f"written: {folder}/label_errors.html\n"


def test_the_predictions_of_a_cross_validation_take_the_place_of_the_classifier(folder, capsys, tmp_path):
    labels = [WRONG.get(i, i % 3) for i in range(30)]
    probs = np.eye(3)[labels] * 0.7 + 0.1
    probs[8] = [0.9, 0.05, 0.05]  # labeled 2
    table = {"path": [f"/data/{i}.mp4" for i in range(30)], "label": labels, "probs": probs.tolist()}
    pd.DataFrame(table).to_parquet(tmp_path / CROSSVAL)
    words = ["--crossval", str(tmp_path), "--rank-by", "classifier", "--json", "-"]
    assert tool.main([folder, *words]) == 0
    content = json.loads(capsys.readouterr().out)
    (record,) = content["suspects"]
    assert record["path"] == "/data/8.mp4" and record["suggested"] == 0 and record["margin"] == pytest.approx(-0.85)
    assert f"the predictions in {tmp_path}" in content["facts"][1]


@pytest.mark.parametrize(
    ("labels", "words", "message"),
    [
        ([0] * 9, [], "the column label has 1 classes, 1 of them with two videos or more; there must be two such"),
        ([0, 1] * 4, ["--label-column", "who"], "there is no column 'who'"),
        ([0, 1] * 4, ["--folds", "1"], "--folds is 1; it must be at least 2"),
        ([0, 1] * 4, ["--crossval", "/nowhere"], "/nowhere is missing; `hiera-video crossval` writes it"),
    ],
)
def test_what_cannot_be_ranked_is_said_in_a_line(tmp_path, labels, words, message, capsys):
    assert tool.main([write_folder(tmp_path / "e", labels), *words]) == 1
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_nothing_wrong_is_said(tmp_path, capsys):
    folder = write_folder(tmp_path / "e", [i % 3 for i in range(12)])
    assert tool.main([folder, "--neighbors", "3", "--csv", str(tmp_path / "a.csv")]) == 0
    assert "No label looks wrong." in capsys.readouterr().out
    assert (tmp_path / "a.csv").read_text() == "path\n"

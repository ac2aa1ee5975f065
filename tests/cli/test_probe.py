"""The command on folders of synthetic embeddings: which videos it trains and tests with, what it prints and refuses."""

import json

import numpy as np
import pandas as pd
import pytest

from hiera_video.cli import probe as tool
from hiera_video.embeddings.probes.run import PROBES
from hiera_video.embeddings.store import ShardWriter, VideoInfo, prepare_folder, write_failures, write_side_car


def write_folder(folder, videos, *, dim=6, **info):
    """Embeddings of (path, label, split): axis `label % dim` is long, so that classes are easily told apart."""
    prepare_folder(folder)
    writer, draw = ShardWriter(folder, dim=dim), np.random.default_rng(len(videos))
    for i, (path, label, split) in enumerate(videos):
        windows = draw.normal(0, 0.1, (1 + i % 2, dim))
        windows[:, (label or 0) % dim] += 3
        writer.add(VideoInfo(path, path, label, split), first_view=0, spans_sec=windows[:, :2], embeddings=windows)
        writer.complete(path)
    writer.flush()
    write_side_car(folder, {"settings": {}, "shape": [dim], **info})
    return str(folder)


def list_videos(num_train=12, num_test=6, *, test_split="test", root="/data"):
    videos = [(f"{root}/class{i % 3}/train{i}.mp4", i % 3, "train") for i in range(num_train)]
    return videos + [(f"{root}/class{i % 3}/test{i}.mp4", i % 3, test_split) for i in range(num_test)]


def run(capsys, *words, probes=("knn", "retrieval")):
    assert tool.main([*map(str, words), "--probes", *probes, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def fail(capsys):
    """Runs the command; returns the message that it ends with."""

    def fail(*words):
        assert tool.main([*map(str, words), "--probes", "knn"]) == 1
        return capsys.readouterr().err.splitlines()[-1]

    return fail


@pytest.mark.slow
def test_the_table_and_the_json_of_the_default_split(tmp_path, capsys):
    extra = [("/data/x.mp4", None, "test"), ("/data/y.mp4", 5, "test"), ("/data/z.mp4", 0, "val")]
    folder = write_folder(tmp_path / "e", list_videos() + extra)
    tool.main([folder, "--json", str(tmp_path / "out" / "report.json"), "--neighbors", "3"])
    lines = capsys.readouterr().out.splitlines()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["unit"] == "percent" and report["seed"] == 0 and "torch" in report["versions"]
    assert report["data"]["train"] == {
        "folder": folder,
        "videos": 12,
        "windows": 18,
        "classes": 3,
        "videos_of_unseen_classes": 0,
        "left_out": {"unlabeled": 0},
    }
    expected = {"videos": 7, "windows": 11, "classes": 4, "videos_of_unseen_classes": 1, "left_out": {"unlabeled": 1}}
    assert report["data"]["test"] == {"folder": folder, **expected}
    scores = {(score["probe"], score["metric"]): score for score in report["scores"]}
    assert list(scores) == [
        ("knn", "top-1"),
        ("linear", "top-1"),
        ("attentive", "top-1"),
        *(("retrieval", metric) for metric in ("recall@1", "recall@5", "recall@10", "mAP")),
    ]
    assert scores["knn", "top-1"]["value"] == pytest.approx(600 / 7) and scores["knn", "top-1"]["high"] == 100
    assert scores["linear", "top-1"]["baseline"] == pytest.approx(200 / 7)
    assert lines[0].split() == ["probe", "metric", "value", "95", "%", "interval", "baseline"]
    low = scores["knn", "top-1"]["low"]
    assert lines[1].split() == ["knn", "top-1", "85.7", f"[{low:.1f},", "100.0]", "28.6"]
    assert len({len(line) for line in lines[:8]}) == 1, "aligned"
    assert "train: 12 videos (18 windows) of 3 classes" in lines
    line = "1 of classes without training videos, counted as wrong; left out: 1 unlabeled"
    assert f"test: 7 videos (11 windows) of 4 classes; {line}" in lines
    assert "knn: num_neighbors 3" in lines and any(line.startswith("linear: C ") for line in lines)


def test_val_stands_in_where_there_is_no_test(tmp_path, capsys):
    report = run(capsys, write_folder(tmp_path, list_videos(test_split="val")))
    assert report["data"]["test"]["videos"] == 6 and report["scores"][0]["value"] == 100
    assert list(report["settings"]) == ["knn"]


def test_lists_with_relative_paths(tmp_path, capsys, fail):
    folder = write_folder(tmp_path / "e", [(path, None, None) for path, _, _ in list_videos()])
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text("".join(f"class{i % 3}/train{i}.mp4,{i % 2}\n" for i in range(10)) + "train0.mp4,0\n")
    test.write_text("/data/class0/test0.mp4,0\n./test1.mp4,-1\nclass2/test2.mp4,0\nbroken.mp4,1\n")
    write_failures(tmp_path / "e", {"/data/broken.mp4": "moov atom not found"})
    words = [folder, "--train-list", train, "--test-list", test, "--separator", ","]
    data = run(capsys, *words)["data"]
    assert (data["train"]["videos"], data["train"]["classes"]) == (10, 2), "listed twice, there once"
    assert data["test"]["videos"] == 2
    assert data["test"]["left_out"] == {"without embeddings (see failures.parquet)": 1, "unlabeled": 1}
    test.write_text("a/test0.mp4,0\nb.mp4,0\nc.mp4,0\nd.mp4,0\ntest1.mp4,1\n")
    assert fail(*words) == f"error: {test}: 4 of 5 videos are not among the embeddings: a/test0.mp4, b.mp4, c.mp4 ..."
    test.write_text("test0.mp4,0\ntrain1.mp4,1\n")
    assert fail(*words) == "error: training and test videos overlap in 1: /data/class1/train1.mp4"
    test.write_text("test0.mp4,0\nclass0/test0.mp4,1\n")
    assert fail(*words).endswith("test.csv lists /data/class0/test0.mp4 with the labels 0 and 1")
    test.write_text("test0.mp4,-1\n")
    assert fail(*words) == "error: there is no labeled test video (1 unlabeled)"
    test.write_text("test0.mp4,running\n")
    assert "test.csv:1: 'test0.mp4,running' is not a path and an integer label" in fail(*words)
    assert "There is no annotation file" in fail(*words[:4], tmp_path / "none.csv", *words[5:])


def write_metadata(path, videos, **columns):
    rows = pd.DataFrame({"path": [video for video, _, _ in videos]} | columns)
    rows.to_parquet(path) if path.suffix == ".parquet" else rows.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_group_column_of_the_metadata(tmp_path, capsys, suffix):
    videos = list_videos()
    folder = write_folder(tmp_path / "e", videos)
    subjects, moods = [*[1, 2, 3] * 5, 4, None, None], [*["calm", "angry", "calm", None] * 4, "calm", None]
    listed = [(path.removeprefix("/data/"), None, None) for path, _, _ in videos] + [("other.mp4", None, None)]
    metadata = write_metadata(tmp_path / f"m{suffix}", listed, subject=[*subjects, 9], mood=[*moods, "calm"])
    words = [folder, "--metadata", metadata, "--group-column", "subject"]
    data = run(capsys, *words, "--test-groups", "2", "4")["data"]
    assert (data["train"]["videos"], data["test"]["videos"]) == (10, 6)
    data = run(capsys, *words, "--train-groups", "1", "2", "--test-groups", "4")["data"]
    assert (data["train"]["videos"], data["test"]["videos"]) == (10, 1)
    report = run(capsys, *words, "--test-groups", "2", "--label-column", "mood")
    assert report["data"]["train"]["left_out"] == {"unlabeled": 3} and report["data"]["test"]["videos"] == 4


def test_another_folder_for_the_test_videos(tmp_path, capsys, fail):
    videos = list_videos()
    train = write_folder(tmp_path / "a", videos[:12], settings={"stride_sec": 1.0, "model": "m"})
    test = write_folder(tmp_path / "b", videos[12:], settings={"stride_sec": 2.0, "model": "m"})
    report = run(capsys, train, "--test-folder", test)
    assert report["data"]["train"]["videos"] == 12 and report["data"]["test"]["folder"] == test
    assert report["scores"][0]["value"] == 100 and report["different_settings"] == {"stride_sec": [1.0, 2.0]}
    line = "warning: train and test were extracted with different settings (stride_sec: 1.0, 2.0)"
    assert line in tool.format_report(report).splitlines()
    assert "training and test videos overlap in 12" in fail(train, "--test-folder", train)
    narrow = write_folder(tmp_path / "c", videos[12:], dim=5)
    assert "training embeddings have 6 values and test embeddings 5" in fail(train, "--test-folder", narrow)


def test_labels_may_be_names(tmp_path, capsys, fail):
    videos = list_videos()
    folder = write_folder(tmp_path / "e", [(path, None, split) for path, _, split in videos])
    metadata = write_metadata(tmp_path / "m.csv", videos, action=[f"do {label}" for _, label, _ in videos])
    assert "there is no labeled training video (12 unlabeled)" in fail(folder)
    report = run(capsys, folder, "--metadata", metadata, "--label-column", "action")
    assert report["data"]["train"]["classes"] == 3 and report["data"]["test"]["videos_of_unseen_classes"] == 0


def test_what_is_refused(tmp_path, capsys, fail):
    videos = list_videos()
    folder = write_folder(tmp_path / "e", videos)
    maps = write_folder(tmp_path / "maps", videos, dim=12, shape=[1, 2, 2, 3])
    assert "maps holds maps of shape (1, 2, 2, 3); one vector for each row is needed here" in fail(maps)
    assert "has no split test or val; give --train-list" in fail(
        write_folder(tmp_path / "n", [(p, i, None) for p, i, _ in videos])
    )
    assert "the column split has no dev; it has test, train" in fail(folder, "--test-groups", "dev")
    assert "there is no column 'sex'; the embeddings have path, video_id" in fail(folder, "--group-column", "sex")
    overlapping = ["--train-groups", "train", "test", "--test-groups", "test"]
    assert "training and test videos overlap in 6" in fail(folder, *overlapping)
    one_class = write_folder(tmp_path / "one", [(path, 0, split) for path, _, split in videos])
    assert "the training videos are of 1 class" in fail(one_class)
    assert "holds no embeddings" in fail(tmp_path / "none")
    metadata = tmp_path / "m.csv"
    metadata.write_text("video,subject\na.mp4,1\n")
    assert "has no column path; it has video, subject" in fail(folder, "--metadata", metadata)
    metadata.write_text("path,subject\na.mp4,1\n")
    assert f"none of 1 paths is in {folder}: a.mp4" in fail(folder, "--metadata", metadata)
    metadata.write_text("path,subject\ntest0.mp4,1\nclass0/test0.mp4,1\n")
    assert "has several rows of 1 videos: /data/class0/test0.mp4" in fail(folder, "--metadata", metadata)
    for words in (
        ["--train-list", "a"],
        ["--train-list", "a", "--test-list", "b", "--test-groups", "c"],
        ["--neighbors", "0"],
    ):
        with pytest.raises(SystemExit) as stop:
            tool.main([folder, *words])
        assert stop.value.code == 2
    assert "need each other" in capsys.readouterr().err


def test_the_choices_are_those_of_the_embeddings():
    assert tool.PROBES == PROBES


def test_several_classes_for_each_video(tmp_path, capsys):
    """Class 3 is that of even videos; class 4 has a training video alone, class 5 none at all."""
    videos = list_videos(30, 12)
    folder = write_folder(tmp_path / "e", videos)
    for split, rows in (("train", videos[:30]), ("test", videos[30:])):
        lines = [f"{path} {label}{',3' if label != 1 else ''}" for path, label, _ in rows]
        lines[0] += ",4" if split == "train" else ""
        lines[1] = f"{rows[1][0]} -"
        (tmp_path / f"{split}.csv").write_text("\n".join(lines))
    lists = ["--train-list", tmp_path / "train.csv", "--test-list", tmp_path / "test.csv"]
    report = run(capsys, folder, *lists, "--multilabel", 6, probes=("knn", "linear"))
    assert report["data"]["train"]["videos"] == 30 and report["data"]["test"]["classes"] == 6
    for score in report["scores"]:
        assert score["metric"] == "mAP" and score["low"] <= score["value"] <= score["high"]
        assert score["value"] > 95, "the embeddings tell the classes apart, but for the video that has none"
        assert score["baseline"] == pytest.approx(100 * (4 + 3 + 4 + 8) / 4 / 12)
    assert tool.main([folder, *map(str, lists), "--multilabel", "6", "--probes", "attentive"]) == 1
    assert "with several classes legal are knn, linear" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tool.main([folder, "--multilabel", "6"])
    assert "--multilabel needs --train-list and --test-list" in capsys.readouterr().err

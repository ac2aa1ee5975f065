"""The command that draws embeddings: what it writes, says and refuses."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from hiera_video.cli import map as tool
from hiera_video.embeddings.projection import METHODS
from hiera_video.embeddings.store import ShardWriter, VideoInfo, prepare_folder, write_side_car


def write_folder(folder, *, num_videos=12, labeled=True):
    """Two windows of each video; class i % 3 lies along axis i % 3."""
    prepare_folder(folder)
    writer, draw = ShardWriter(folder, dim=6), np.random.default_rng(0)
    for i in range(num_videos):
        rows = draw.normal(0, 0.1, (2, 6))
        rows[:, i % 3] += 3
        info = VideoInfo(f"/data/{i:02d}.mp4", f"{i:02d}", i % 3 if labeled else None, "train" if labeled else None)
        writer.add(info, first_view=0, spans_sec=np.array([[0.0, 1.0], [1.0, 2.0]]), embeddings=rows)
        writer.complete(info.path)
    writer.flush()
    write_side_car(folder, {"settings": {}, "shape": [6]})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("embeddings"))


def read_titles(path):
    data = json.loads(re.search(r'id="map-data">(.*?)</script>', path.read_text())[1])
    return [coloring["title"] for coloring in data["colorings"]], len(data["paths"])


def test_the_page_the_table_and_the_points(folder, capsys, tmp_path):
    (tmp_path / "names.json").write_text('{"up": 0, "down": 1, "left": 2}')
    assert (
        tool.main([str(folder), "--class-names", str(tmp_path / "names.json"), "--csv", str(tmp_path / "a.csv")]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"24 rows of 12 videos in {folder}" and lines[1].startswith("PCA: the two axes hold ")
    rows = [line.split() for line in lines[4:7]]  # clusters of one size
    assert [row[:4] for row in rows] == [[str(number), "8", "100", "%"] for number in (1, 2, 3)]
    assert {row[4] for row in rows} == {"up", "down", "left"}
    assert lines[-2].startswith(f"written: {folder}/map.html, ")
    assert read_titles(folder / "map.html") == (["label", "cluster", "split"], 12)
    points = pd.read_csv(tmp_path / "a.csv")
    assert len(points) == 24 and points.groupby("label")["cluster"].nunique().tolist() == [1, 1, 1]
    assert points.loc[0, ["path", "start_sec", "end_sec"]].tolist() == ["/data/00.mp4", 0.0, 1.0]


def test_videos_colors_and_a_part_of_the_points(folder, capsys, tmp_path):
    pd.DataFrame({"path": [f"{i:02d}.mp4" for i in range(12)], "who": list("xy") * 6}).to_csv(tmp_path / "m.csv")
    page = tmp_path / "new" / "m.html"
    words = ["--metadata", tmp_path / "m.csv", "--color", "who", "--per-video", "--max-points", "9", "--clusters", "2"]
    assert tool.main([str(folder), *map(str, words), "--html", str(page), "--method", "tsne"]) == 0
    out = capsys.readouterr().out
    assert f"9 videos in {folder}, drawn at random from 12 (--max-points)" in out and "t-SNE" in out
    assert read_titles(page) == (["who", "label", "cluster", "split"], 9)


def test_without_labels_clusters_are_shown_first(tmp_path, capsys):
    write_folder(tmp_path, labeled=False)
    assert tool.main([str(tmp_path)]) == 0
    assert read_titles(tmp_path / "map.html")[0] == ["cluster"] and "no labels" in capsys.readouterr().out
    assert tool.main([str(tmp_path), "--color", "split"]) == 1
    assert (
        capsys.readouterr().err == "error: --color split: the column has no values here; --color cluster needs none\n"
    )


def test_more_classes_than_can_be_told_apart_leave_the_other_colors(folder, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("hiera_video.report.map_page.MAX_COLORS", 2)
    words = [str(folder), "--html", str(tmp_path / "a.html")]
    assert tool.main(words) == 0
    assert read_titles(tmp_path / "a.html")[0] == ["cluster", "split"]
    assert "no colors for label: it has 3 values, more than 2" in "".join(capsys.readouterr())
    assert tool.main([*words, "--color", "label"]) == 1
    assert "the column label has 3 values; a map can color up to 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--color", "who"], "--color who: there is no such column; there are label, cluster, split, path"),
        (["--clusters", "99"], "the number of clusters is 99; it must be 1 to 24"),
        (["--clusters", "0"], "--clusters is 0; it must be at least 1"),
        (["--max-points", "2"], "--max-points is 2; it must be at least 3"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_a_line(folder, words, message, capsys):
    assert tool.main([str(folder), *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1


def test_the_methods_are_those_of_the_projection():
    assert METHODS == tool.METHODS and set(tool.MAX_POINTS) == set(METHODS)

"""The command on known embeddings of small videos: what it finds, how it shows it, and what it refuses."""

import json
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch

from hiera_video.cli import search as tool
from hiera_video.embeddings.reading import read_embeddings
from hiera_video.embeddings.store import ShardWriter, VideoInfo, prepare_folder, write_side_car
from hiera_video.engine.output_lock import lock_output

EVIL = '"><img src=x onerror=alert(1)>.mp4'


# Angles in degrees of four windows of a second each, one a second; the cosine of two is that of their difference.
ANGLES = {"a.mp4": [0, 11, 20, 30], "b.mp4": [2, 50, 60, 70], EVIL: [8, 100, 110, 200]}
LABELS = {"a.mp4": 0, "b.mp4": 1, EVIL: None}


def write_folder(folder, videos, *, shape=(2,), angles=ANGLES, spans=None):
    prepare_folder(folder)
    writer = ShardWriter(folder, dim=int(np.prod(shape)))
    for number, (name, degrees) in enumerate(angles.items()):
        info = VideoInfo(str(videos / name), name.removesuffix(".mp4"), LABELS[name], "val")
        times = np.stack([np.arange(len(degrees)), np.arange(len(degrees)) + 1], axis=1).astype(float)
        radians = np.deg2rad(degrees)
        points = np.stack([np.cos(radians), np.sin(radians)], axis=1) * (1 + number)
        values = np.resize(points, (len(degrees), int(np.prod(shape))))
        writer.add(info, first_view=0, spans_sec=times if spans is None else spans, embeddings=values)
        writer.complete(info.path)
    writer.flush()
    write_side_car(folder, {"settings": {}, "shape": list(shape)})
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory, painted_video):
    folder = tmp_path_factory.mktemp("videos")
    for name in ANGLES:
        (folder / name).write_bytes(painted_video("100.mp4", num_frames=100).read_bytes())
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory, videos):
    return write_folder(tmp_path_factory.mktemp("embeddings"), videos)


@pytest.fixture
def run(folder, capsys):
    """Runs the command; returns its JSON."""

    def run(*words, where=folder):
        assert tool.main([str(where), *map(str, words), "--json", "-"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def fail(folder, capsys):
    """Runs the command; returns the message that it ends with."""

    def fail(*words, where=folder):
        assert tool.main([str(where), *map(str, words)]) == 1
        captured = capsys.readouterr()
        message = captured.err.splitlines()[-1]
        assert message.startswith("error: ") and captured.out == ""
        return message

    return fail


def list_found(found):
    """(name, second) of each result."""
    return [(Path(r["path"]).name, int(r["start_sec"])) for r in found["results"]]


def test_the_folder_is_in_the_order_that_the_tests_rely_on(folder):
    table = read_embeddings(folder).table
    assert [Path(path).name for path in table["path"][::4]] == [EVIL, "a.mp4", "b.mp4"]


def test_a_row_finds_the_nearest_others(run):
    found = run("--row", 4, "--top-k", 4)
    assert found["query"]["path"].endswith("/a.mp4") and found["query"]["rows"] == [4]
    assert list_found(found) == [("b.mp4", 0), (EVIL, 0), ("a.mp4", 1), ("a.mp4", 2)]
    assert [r["score"] for r in found["results"]] == pytest.approx(np.cos(np.deg2rad([2, 8, 11, 20])), abs=1e-6)
    assert [r["row"] for r in found["results"]] == [8, 0, 5, 6] and [r["rank"] for r in found["results"]] == [
        1,
        2,
        3,
        4,
    ]
    assert found["index"] == "exact"


def test_results_hold_all_that_is_known(run, videos, tmp_path):
    (tmp_path / "names.txt").write_text("run\njump\n")
    first, second = run("--row", 4, "--top-k", 2, "--class-names", tmp_path / "names.txt")["results"]
    del first["score"]
    expected = {"rank": 1, "row": 8, "path": str(videos / "b.mp4"), "video_id": "b", "label": 1, "class_name": "jump"}
    assert first == expected | {"split": "val", "view": 0, "start_sec": 0.0, "end_sec": 1.0}
    assert second["label"] is None and second["class_name"] is None
    assert run("--row", 4, "--top-k", 1)["results"][0]["class_name"] is None


def test_the_query_s_own_video_can_be_left_out(run):
    found = run("--row", 4, "--exclude-same-video")
    assert len(found["results"]) == 8 and "a.mp4" not in dict(list_found(found))


def test_only_the_best_row_of_each_video(run):
    assert list_found(run("--row", 4, "--group-by-video")) == [("b.mp4", 0), (EVIL, 0), ("a.mp4", 1)]
    both = run("--row", 4, "--group-by-video", "--exclude-same-video", "--top-k", 1)
    assert list_found(both) == [("b.mp4", 0)]


@pytest.mark.parametrize("name", ["{videos}/b.mp4", "b", "{videos}/../{videos.name}/b.mp4"])
def test_a_video_of_the_folder_is_the_mean_of_its_rows(run, videos, name):
    found = run("--path", name.format(videos=videos), "--top-k", 2)
    assert found["query"] == {"path": str(videos / "b.mp4"), "start_sec": 0, "end_sec": 4, "rows": [8, 9, 10, 11]}
    # the mean of unit vectors at 2, 50, 60 and 70 degrees is at 46.4 degrees
    assert list_found(found) == [("a.mp4", 3), ("a.mp4", 2)]
    assert found["results"][0]["score"] == pytest.approx(np.cos(np.deg2rad(46.4 - 30)), abs=1e-3)


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (["--start-sec", 1], [9, 10, 11]),
        (["--end-sec", 2], [8, 9]),
        (["--start-sec", 1, "--end-sec", 3], [9, 10]),
        (["--start-sec", 0.5, "--end-sec", 3.9], [9, 10]),
        (["--start-sec", 1.001, "--end-sec", 1.999], [9]),
        (["--start-sec", 0.6, "--end-sec", 1.2], [8]),
        (["--start-sec", 3.5], [11]),
        (["--start-sec", 1.6, "--end-sec", 1.9], [9]),
    ],
)
def test_a_time_range_of_a_video_of_the_folder(run, words, rows):
    assert run("--path", "b", *words)["query"]["rows"] == rows


def test_an_example_file_is_embedded_as_the_folder_was(run, folder, videos, monkeypatch):
    asked = []

    def embed(info, path, **options):
        asked.append((info, path, options))
        return torch.tensor([0.0, 3.0])

    monkeypatch.setattr(tool, "embed_example", embed)
    found = run("--video", "new.mp4", "--start-sec", 1.5, "--top-k", 3)
    assert list_found(found) == [(EVIL, 1), (EVIL, 2), ("b.mp4", 3)]
    assert found["query"] == {"path": "new.mp4", "start_sec": 1.5, "end_sec": None, "rows": []}
    run("--video", videos / "a.mp4", "--checkpoint", "mine.pth", "--end-sec", 2)
    info = read_embeddings(folder).info
    assert asked == [
        (info, "new.mp4", {"start_sec": 1.5, "end_sec": None, "checkpoint": ""}),
        (info, str(videos / "a.mp4"), {"start_sec": None, "end_sec": 2.0, "checkpoint": "mine.pth"}),
    ]


def test_an_example_file_may_be_one_of_the_folder(run, videos, monkeypatch):
    monkeypatch.setattr(tool, "embed_example", lambda *_, **__: torch.tensor([1.0, 0.0]))
    monkeypatch.chdir(videos)
    assert list_found(run("--video", "a.mp4", "--top-k", 1)) == [("a.mp4", 0)]
    assert list_found(run("--video", "a.mp4", "--top-k", 1, "--exclude-same-video")) == [("b.mp4", 0)]


def test_near_duplicates_are_of_different_videos(run):
    found = run("--near-duplicates", "--threshold", 0.987)  # 9.2 degrees
    pairs = [
        (Path(p["first"]["path"]).name, Path(p["second"]["path"]).name, p["second"]["row"]) for p in found["pairs"]
    ]
    assert pairs == [
        ("a.mp4", "b.mp4", 8),
        (EVIL, "a.mp4", 5),
        (EVIL, "b.mp4", 8),
        (EVIL, "a.mp4", 4),
        ("a.mp4", "b.mp4", 8),
    ]
    assert found["num_found"] == 5
    assert [p["score"] for p in found["pairs"]] == pytest.approx(np.cos(np.deg2rad([2, 3, 6, 8, 9])), abs=1e-6)


def test_near_duplicates_within_a_video_and_one_for_two_videos(run):
    within = run("--near-duplicates", "--threshold", 0.98, "--include-same-video")["pairs"]  # 11.5 degrees
    assert sum(p["first"]["path"] == p["second"]["path"] for p in within) == 6
    grouped = run("--near-duplicates", "--threshold", 0.98, "--group-by-video")
    names = [{Path(p[side]["path"]).name for side in ("first", "second")} for p in grouped["pairs"]]
    assert names == [{"a.mp4", "b.mp4"}, {EVIL, "a.mp4"}, {EVIL, "b.mp4"}]


def test_a_limit_on_pairs_is_named(folder, capsys):
    tool.main([str(folder), "--near-duplicates", "--threshold", "0.987", "--top-k", "2"])
    first, *table = capsys.readouterr().out.splitlines()
    assert first == (
        "5 pairs of rows with a cosine of 0.987 or more, pairs within a video left out; the 2 most similar are listed "
        "(--top-k)"
    )
    assert len(table) == 6
    tool.main([str(folder), "--near-duplicates", "--threshold", "0.987", "--group-by-video"])
    assert "; of 3 pairs of videos\n" in capsys.readouterr().out
    tool.main([str(folder), "--near-duplicates", "--threshold", "1"])
    assert capsys.readouterr().out == "0 pairs of rows with a cosine of 1 or more, pairs within a video left out\n"


def test_the_table_is_aligned(folder, videos, capsys):
    tool.main([str(folder), "--row", "4", "--top-k", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"similar to {videos}/a.mp4, 0:00.00-0:01.00"
    assert lines[1:4] == [f"among 12 rows of 3 videos in {folder}", "exact search", ""]
    assert lines[4].split() == ["score", "row", "time", "label", "path"]
    assert lines[5] == f"1  0.9994    8  0:00.00-0:01.00  class 1  {videos}/b.mp4"
    assert lines[6] == f"2  0.9903    0  0:00.00-0:01.00  -        {videos}/{EVIL}"


def test_written_files_and_pages(folder, videos, tmp_path, capsys):
    page, data = tmp_path / "new" / "page.html", tmp_path / "other" / "found.json"
    tool.main([str(folder), "--row", "4", "--html", str(page), "--json", str(data)])
    assert capsys.readouterr().out.endswith(f"written: {data}\nwritten: {page}\n")
    assert len(json.loads(data.read_text())["results"]) == 10
    text = page.read_text()
    assert text.count("<video") == 11 and "<img" not in text and "exact search" in text
    sources = [unquote(part.partition('"')[0]) for part in text.split(' src="')[1:]]
    assert all((page.parent / source.partition("#")[0]).is_file() for source in sources)
    assert sources[1].endswith("b.mp4#t=0.00,1.00")
    tool.main([str(folder), "--near-duplicates", "--html", str(page)])
    assert "<section" in page.read_text()


def test_a_page_leaves_the_standard_output_to_json(folder, tmp_path, capsys):
    tool.main([str(folder), "--row", "0", "--json", "-", "--html", str(tmp_path / "page.html")])
    captured = capsys.readouterr()
    assert json.loads(captured.out) and "written" in captured.err


def test_faiss_finds_the_same_here_and_shows_its_recall(run, folder, capsys):
    pytest.importorskip("faiss")
    approximate, exact = run("--row", 4, "--index", "faiss"), run("--row", 4, "--index", "exact")
    assert list_found(approximate) == list_found(exact)
    assert approximate["index"] == "hnsw" and approximate["recall"] == 1 and approximate["recall_queries"] == 12
    tool.main([str(folder), "--row", "4", "--index", "faiss", "--group-by-video"])
    line = "approximate search, FAISS HNSW: recall@10 1.000 against exact search, of 12 rows as queries"
    assert line in capsys.readouterr().out


def test_without_faiss_the_message_says_what_to_install(fail, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert "pip install" in fail("--row", 4, "--index", "faiss")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--row", 12], "there is no row 12; legal values: 0 to 11"),
        (["--row", -1], "there is no row -1; legal values: 0 to 11"),
        (["--row", 1, "--top-k", 0], "--top-k is 0; it must be at least 1"),
        (["--path", "b", "--start-sec", 2, "--end-sec", 2], "the time range is 2 to 2 s"),
        (["--path", "b", "--start-sec", -1], "the time range is -1 to inf s"),
        (["--path", "b", "--start-sec", 9], "no row of this video is within 9 to inf s; its rows are of 0 to 4 s"),
        (["--path", "/x/b.mp"], "none of the 3 videos there; similar: '{videos}/b.mp4'"),
        (["--path", "/x/b.mp4"], "none of the 3 videos there; similar: '{videos}/b.mp4'"),
        (["--path", "zzzzzzz"], "none of the 3 videos there; there are: '{videos}/\"><img"),
        (["--near-duplicates", "--threshold", 0], "threshold is 0.0; legal values: above 0, up to 1"),
        (["--row", 1, "--threshold", 0.5], "--threshold belongs to --near-duplicates"),
        (["--row", 1, "--end-sec", 5], "--start-sec and --end-sec belong to --video or --path"),
        (["--row", 1, "--checkpoint", "x"], "--checkpoint belongs to --video"),
        (["--row", 1, "--include-same-video"], "--include-same-video belongs to --near-duplicates"),
        (["--near-duplicates", "--exclude-same-video"], "--exclude-same-video belongs to a search"),
        (["--near-duplicates", "--index", "faiss"], "near-duplicates are always exact"),
        (["--row", 1, "--class-names", "/x/names.txt"], "/x/names.txt"),
    ],
)
def test_wrong_input_is_named(fail, videos, words, message):
    assert message.format(videos=videos) in fail(*words)


def test_an_example_of_another_length_is_refused(fail, monkeypatch):
    monkeypatch.setattr(tool, "embed_example", lambda *_, **__: torch.zeros(3))
    assert "queries (1, 3) do not fit vectors (12, 2)" in fail("--video", "x.mp4")


def test_maps_are_refused(fail, videos, tmp_path):
    where = write_folder(tmp_path, videos, shape=(2, 1, 1, 2))
    assert "holds maps of shape (2, 1, 1, 2)" in fail("--row", 0, where=where)


def test_a_folder_without_embeddings_is_refused(fail, tmp_path):
    assert "holds no embeddings" in fail("--row", 0, where=tmp_path)


def test_rows_without_times(fail, run, videos, tmp_path):
    where = write_folder(tmp_path, videos, spans=np.full((4, 2), np.nan))
    assert run("--path", "b", "--top-k", 1, where=where)["query"]["start_sec"] is None
    assert "no times are known" in fail("--path", "b", "--start-sec", 1, where=where)
    tool.main([str(where), "--row", "0", "--html", str(tmp_path / "page.html")])
    assert ".mp4#t=" not in (tmp_path / "page.html").read_text()


def test_a_single_row_finds_nothing(videos, tmp_path, capsys):
    where = write_folder(tmp_path, videos, angles={"a.mp4": [1]})
    tool.main([str(where), "--row", "0", "--html", str(tmp_path / "page.html")])
    assert capsys.readouterr().out.splitlines()[4] == "Nothing was found."
    assert "Nothing was found." in (tmp_path / "page.html").read_text()


def test_within_a_limit_of_memory_the_rows_stay_on_disk(run, fail, folder, capsys, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr("hiera_video.embeddings.reading.read_vectors", lambda _: pytest.fail("all rows are loaded"))
    found = run("--path", "a", "--top-k", 3, "--memory-gb", 8)
    assert list_found(found) == [(EVIL, 0), ("b.mp4", 0), ("b.mp4", 1)] and found["index"] == "ivf, float16 codes"
    assert (folder / "search_index" / "index.json").is_file()
    row = found["results"][1]["row"]
    assert run("--row", row, "--memory-gb", 8)["query"]["path"].endswith("/b.mp4")
    tool.main([str(folder), "--row", "0", "--memory-gb", "8"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"among 12 rows of 3 videos in {folder}"
    assert lines[2].startswith("approximate search, FAISS IVF, float16 codes: recall@10 1.000 against exact search")
    assert "raise --memory-gb" in fail("--row", 0, "--memory-gb", 0.1)
    assert "leave out --index" in fail("--row", 0, "--memory-gb", 8, "--index", "faiss")


def test_one_process_writes_the_index_and_others_may_read_it(run, fail, videos, tmp_path):
    pytest.importorskip("faiss")
    where = write_folder(tmp_path, videos)
    with lock_output(where / "search_index"):
        message = fail("--row", 0, "--memory-gb", 8, where=where)
        assert f"{where / 'search_index'} is in use by process" in message and "Wait for it" in message
    run("--row", 0, "--memory-gb", 8, where=where)
    with lock_output(where / "search_index"):
        assert len(run("--row", 0, "--memory-gb", 8, "--top-k", 3, where=where)["results"]) == 3


def test_an_example_file_is_searched_for_on_disk(run, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(tool, "embed_example", lambda *_, **__: torch.tensor([0.0, 3.0]))
    assert list_found(run("--video", "new.mp4", "--top-k", 3, "--memory-gb", 8)) == [(EVIL, 1), (EVIL, 2), ("b.mp4", 3)]

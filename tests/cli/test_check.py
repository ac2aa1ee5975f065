"""Every planted fault is found and named, and a data set without faults passes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import ava_factory
import faulty_inspection
import numpy as np
import pandas as pd
import pytest
from video_factory import cut_file, write_video

from hiera_video.cli import check as tool
from hiera_video.config import load_config
from hiera_video.data.lists import VideoList
from hiera_video.inspection import run as inspection
from hiera_video.inspection.inspect_video import inspect_video
from hiera_video.inspection.report import format_summary
from hiera_video.inspection.survey import compare_with_known, find_ambiguous, find_repeats
from hiera_video.video.manifest import VideoRecord, load_manifest

ROOT = Path(__file__).resolve().parents[2]


class DataSet:
    """A folder with lists; each video differs from all others."""

    def __init__(self, folder):
        self.folder = folder
        self.lines = {"train": [], "val": [], "test": []}
        self.count = 0

    def add(self, split, name, label, *, make=True, **options):
        self.lines[split].append(f"{name} {label}")
        path = self.folder / name
        if make and not path.exists():
            self.count += 1
            write_video(path, num_frames=options.pop("num_frames", 30 + self.count), **options)
        return path

    def write(self):
        for split, lines in self.lines.items():
            (self.folder / f"{split}.csv").write_text("".join(f"{line}\n" for line in lines))
        return self.folder


def fill(folder):
    data = DataSet(folder)
    for split, count in (("train", 6), ("val", 3), ("test", 3)):
        for i in range(count):
            data.add(split, f"{split}{i}.mp4", i % 3)
    data.add("train", "exactly_a_clip.mp4", 0, num_frames=8)
    return data


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("clean")).write()


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    data = fill(folder)
    data.add("train", "missing.mp4", 0, make=False)
    data.add("train", "empty.mp4", 0, make=False).touch()
    data.add("val", "page.mp4", 1, make=False).write_text("<html>404 not found</html>" * 20)
    whole = write_video(folder / "whole.mkv", num_frames=90)
    cut_file(whole, data.add("train", "cut.mkv", 0, make=False), num_bytes=whole.stat().st_size // 2)
    damaged = data.add("train", "damaged.mkv", 0, num_frames=90)
    content = bytearray(damaged.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 256] = bytes(range(256))
    damaged.write_bytes(content)
    data.add("train", "segfault.mp4", 0)
    data.add("train", "endless.mp4", 0)
    data.add("train", "short.mp4", 1, num_frames=5)
    data.add("train", "label.mp4", 5)
    data.add("train", "negative.mp4", -3)
    data.lines["train"].append("nolabel.mp4")
    write_video(folder / "nolabel.mp4", num_frames=70)
    shutil.copy(folder / "train1.mp4", data.add("train", "copy.mp4", 2, make=False))
    data.add("train", "train2.mp4", 2)
    shutil.copy(folder / "train3.mp4", data.add("val", "leak.mp4", 0, make=False))
    data.add("test", "train4.mp4", 1)
    data.add("test", "val0.mp4", 0)
    return data.write()


def run(folder, output, *words, capsys):
    pairs = ["DATA.PATH_TO_DATA_DIR", str(folder), "OUTPUT_DIR", str(output), "MODEL.NUM_CLASSES", "3"]
    pairs += ["DATA.NUM_FRAMES", "4", "DATA.SAMPLING_RATE", "2", "DATA.TARGET_FPS", "25"]
    pairs += ["DATA.TRAIN_CROP_SIZE", "32", "DATA.TRAIN_JITTER_SCALES", "[32, 40]"]
    status = tool.main([*pairs, "--workers", "2", "--forecast-sec", "0.01", *words])
    report = json.loads((Path(output) / "dataset_report.json").read_text())
    return status, report, capsys.readouterr().out


def list_found(report, folder):
    """Kind -> what was found, without the folder."""
    return {
        kind: [(f["subject"].replace(f"{folder}/", ""), f["reason"].replace(f"{folder}/", "")) for f in group["found"]]
        for kind, group in report["findings"].items()
    }


def test_nothing_is_found_in_a_clean_data_set(clean, tmp_path, capsys):
    status, report, text = run(clean, tmp_path, "--full-decode", capsys=capsys)
    assert status == 0 and report["findings"] == {} and report["status"] == {"ok": 13}
    assert text.rstrip().endswith("Result: nothing is wrong") and "Errors" not in text and "Warnings" not in text
    assert report["splits"]["train"] == {"source": f"{clean}/train.csv", "listed": 7, "usable": 7, "classes": 3}


@pytest.fixture(scope="module")
def found(planted, tmp_path_factory):
    """Exit status, report and text for the planted faults; runs once."""
    output = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspection, "inspect_video", faulty_inspection.inspect)
        words = ["DATA.PATH_TO_DATA_DIR", str(planted), "OUTPUT_DIR", str(output), "MODEL.NUM_CLASSES", "4"]
        words += ["DATA.NUM_FRAMES", "4", "DATA.SAMPLING_RATE", "2", "DATA.TARGET_FPS", "25"]
        words += ["DATA.TRAIN_CROP_SIZE", "32", "DATA.TRAIN_JITTER_SCALES", "[32, 40]"]
        args = tool.parse_args([*words, "--full-decode", "--timeout-sec", "5", "--forecast-sec", "0.01"])
        report = tool.check(load_config(args.cfg_files, args.opts), args)
    return json.loads((output / "dataset_report.json").read_text()), format_summary(report)


def test_every_planted_fault_is_found(planted, found):
    kinds = list_found(found[0], planted)
    listings = {kind: [subject for subject, _ in group] for kind, group in kinds.items()}
    assert listings == {
        "missing": ["missing.mp4"],
        "empty": ["empty.mp4"],
        "unreadable": ["page.mp4"],
        "crashed": ["segfault.mp4"],
        "stuck": ["endless.mp4"],
        "truncated": ["cut.mkv"],
        "damaged": ["damaged.mkv"],
        "label_out_of_range": ["label.mp4", "negative.mp4"],
        "no_label": ["nolabel.mp4"],
        "untrained_class": ["train"],
        "leak": ["train3.mp4", "train4.mp4"],
        "unseen_class": ["val", "test"],
        "overlap": ["val0.mp4"],
        "listed_twice": ["train2.mp4"],
        "duplicate": ["train1.mp4"],
        "short": ["short.mp4"],
    }
    reasons = {subject: reason for group in kinds.values() for subject, reason in group}
    assert reasons["train1.mp4"] == "same content as copy.mp4, with different labels: 1, 2"
    assert reasons["train3.mp4"] == "in val as leak.mp4" and reasons["train4.mp4"] == "in test too"
    assert reasons["short.mp4"] == "5 frames at 25 fps; a clip has 8"
    assert reasons["label.mp4"] == "label 5; legal are 0 to 3" and reasons["train"] == "1 of 4: 3"
    assert reasons["segfault.mp4"] == "its process was ended by SIGSEGV"


def test_the_report_has_numbers(found):
    report, _ = found
    assert report["num_videos"] == 26 and report["splits"]["train"]["listed"] == 19
    assert report["splits"]["train"]["usable"] == 15 and report["splits"]["val"]["usable"] == 4
    assert report["distributions"]["frames"]["min"] == 5 and report["distributions"]["fps"]["median"] == 25
    points = dict.fromkeys(("min", "p5", "median", "p95", "max"), 64)
    assert report["distributions"]["short_side_px"] == {"count": 21, **points}
    assert 5 <= report["distributions"]["key_frame_distance_frames"]["median"] <= 20
    assert set(report["codecs"]) == {"h264"} and set(report["sizes"]) == {"96x64"}
    forecast = report["forecast"]
    assert forecast["clips_per_sec"] > 0 and forecast["cores_per_gpu"] >= 300 / forecast["clips_per_sec"]
    severities = {kind: group["severity"] for kind, group in report["findings"].items()}
    assert severities["missing"] == severities["leak"] == "error"
    assert severities["short"] == severities["duplicate"] == severities["overlap"] == "warning"


def test_the_summary_names_the_first_of_each_kind(planted, found):
    report, text = found
    lines = [line.strip() for line in text.splitlines()]
    assert "- cut.mkv [train]: " in text and "bytes too early" in text
    assert "1  crashed: the decoder took its process down" in lines
    assert "- segfault.mp4 [train]: its process was ended by SIGSEGV" in lines
    assert "- val: 1 of 4: 3" in lines
    assert lines[-1] == "Result: 13 errors and 6 warnings"
    finding = {"subject": "x", "splits": ["train"], "reason": "r"}
    report["findings"]["missing"]["found"] = [finding] * 15
    assert f"... and 12 more: see {report['written']['report']}" in format_summary(report)


def test_the_manifest_holds_every_video(planted, found):
    report, _ = found
    table = pd.read_parquet(report["written"]["manifest"]).set_index("path")
    assert len(table) == 26 and table.index.is_unique
    row = table.loc[f"{planted}/train4.mp4"]
    assert row["status"] == "ok" and row["splits"].tolist() == ["train", "test"] and row["label"] == 1
    assert (row["frames"], row["fps"], row["codec"], row["width"]) == (35, 25, "h264", 96)
    assert row["duration_sec"] == pytest.approx(35 / 25) and row["key_positions"].tolist() == [0, 20]
    assert row["size_bytes"] == (planted / "train4.mp4").stat().st_size
    assert table.loc[f"{planted}/copy.mp4", "content_hash"] == table.loc[f"{planted}/train1.mp4", "content_hash"]
    assert table.loc[f"{planted}/segfault.mp4", "status"] == "crashed"
    assert table.loc[f"{planted}/endless.mp4", "reason"] == "not done after 5 s"
    entry = load_manifest(report["written"]["manifest"]).get_entry(f"{planted}/train4.mp4")
    assert entry == inspect_video(f"{planted}/train4.mp4")


def test_as_a_command(clean, planted, tmp_path):
    """Piped, with options between the pairs, and only some splits."""
    config = tmp_path / "c.yaml"
    config.write_text(f"DATA:\n  PATH_TO_DATA_DIR: {planted}\n  NUM_FRAMES: 4\nMODEL:\n  NUM_CLASSES: 3\n")
    command = [sys.executable, str(ROOT / "tools/check_dataset.py"), "--cfg", str(config), "DATA.SAMPLING_RATE", "2"]
    command += ["--output", str(tmp_path / "m.parquet"), "--json", str(tmp_path / "r.json"), "--workers", "1"]
    command += ["--forecast-sec", "0", "--splits", "test", "val", "DATA.TARGET_FPS", "25"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "- page.mp4 [val]: cannot be opened as a video" in done.stdout and "missing.mp4" not in done.stdout
    assert "9/9" in done.stderr and "1 unreadable" in done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert list(report["splits"]) == ["test", "val"] and report["forecast"] is None
    assert len(load_manifest(str(tmp_path / "m.parquet"))) == 9 and not (tmp_path / "output").exists()


def test_lists_that_are_not_there(clean, tmp_path, capsys):
    shutil.copytree(clean, tmp_path / "data")
    (tmp_path / "data" / "test.csv").unlink()
    status, report, _ = run(tmp_path / "data", tmp_path, capsys=capsys)
    assert status == 0 and list(report["splits"]) == ["train", "val"], "nobody asked for a test list"
    (tmp_path / "data" / "val.csv").write_text("")
    status, report, text = run(tmp_path / "data", tmp_path, "--splits", "train", "val", "test", capsys=capsys)
    assert status == 1 and [f["subject"] for f in report["findings"]["unreadable_list"]["found"]] == ["val", "test"]
    assert "val.csv lists no videos" in text
    assert tool.main(["DATA.PATH_TO_DATA_DIR", str(tmp_path / "none")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert tool.main(["DATA.PATH_TO_DATA_DIR", str(clean), "DATA.NUM_FRAME", "4"]) == 2
    assert "NUM_FRAMES" in capsys.readouterr().err


def test_pretraining_needs_no_labels(clean, tmp_path, capsys):
    shutil.copytree(clean, tmp_path / "data")
    lines = (clean / "train.csv").read_text().splitlines()
    (tmp_path / "data" / "train.csv").write_text("\n".join(line.split()[0] for line in lines))
    mae = ["TASK", "pretrain", "MODEL.MODEL_NAME", "mae_hiera_tiny_16x224"]
    assert run(tmp_path / "data", tmp_path, *mae, capsys=capsys)[0] == 0
    status, report, _ = run(tmp_path / "data", tmp_path, capsys=capsys)
    assert status == 1 and set(report["findings"]) == {"no_label", "untrained_class"}


def test_known_data_sets():
    def compare(num_classes, sizes, *, broken=0, is_ssv2=False):
        path, bad = np.array(["a"]), np.array(["b"])
        lists = {
            split: VideoList(np.concatenate([path.repeat(size - broken), bad.repeat(broken)]), np.zeros(size, int))
            for split, size in sizes.items()
        }
        records = {"a": VideoRecord("ok"), "b": VideoRecord("missing")}
        rows = compare_with_known(lists, records, num_classes=num_classes, is_ssv2=is_ssv2)
        return [(row["data_set"], row["split"], row["listed"], row["missing"]) for row in rows]

    assert compare(400, {"train": 234_643, "val": 19_796}, broken=2) == [
        ("Kinetics-400", "train", 234_643, 5_795),
        ("Kinetics-400", "val", 19_796, 2),
    ]
    assert compare(400, {"train": 246_535}) == [("Kinetics-400", "train", 246_535, 0)]
    assert compare(400, {"train": 500}) == compare(51, {"train": 240_436}) == []
    assert compare(174, {"train": 168_913, "test": 27_157}) == [
        ("Something-Something V2", "train", 168_913, 0),
        ("Something-Something V2", "test", 27_157, 0),
    ]
    assert compare(174, {"train": 10}, is_ssv2=True) == [("Something-Something V2", "train", 10, 168_903)]
    assert compare(174, {"train": 10}) == []


def test_large_files_are_compared_as_a_whole_only_when_they_look_alike():
    hashes = {"a": "blocks:1", "b": "blocks:1", "c": "blocks:2", "d": "3", "e": "3", "f": None, "g": None}
    records = {path: VideoRecord("ok", content_hash=text) for path, text in hashes.items()}
    assert find_ambiguous(records) == ["a", "b"]
    lists = {"train": VideoList(np.array(list("dfaefg")), np.zeros(6, int))}
    assert [(f.kind, f.subject, f.reason) for f in find_repeats(lists, records)] == [
        ("duplicate", "d", "same content as e"),
        ("listed_twice", "f", "2 times"),
    ]


@pytest.mark.slow
def test_a_check_that_is_stopped_goes_on_where_it_was(clean, tmp_path):
    """A real signal after some of 13 videos; the second check looks only at the others, and ends with the same."""
    code = "import sys, time\nfrom hiera_video.inspection import run\nmap_paths = run.map_paths\n"
    code += "def slow(*args, **options):\n    for pair in map_paths(*args, **options):\n"
    code += "        print(pair[0], flush=True)\n        time.sleep(0.2)\n        yield pair\nrun.map_paths = slow\n"
    code += "from hiera_video.cli.check import main\nsys.exit(main(sys.argv[1:]))"
    pairs = ["DATA.PATH_TO_DATA_DIR", str(clean), "OUTPUT_DIR", str(tmp_path), "MODEL.NUM_CLASSES", "3"]
    pairs += ["DATA.NUM_FRAMES", "4", "DATA.SAMPLING_RATE", "2", "DATA.TARGET_FPS", "25"]
    pairs += ["DATA.TRAIN_CROP_SIZE", "32", "DATA.TRAIN_JITTER_SCALES", "[32, 40]"]
    words = [sys.executable, "-c", code, *pairs, "--workers", "1", "--forecast-sec", "0"]

    def start():
        return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    process = start()
    seen = [process.stdout.readline() for _ in range(3)]
    process.terminate()
    rest, stderr = process.communicate(timeout=180)
    seen += rest.splitlines(keepends=True)
    assert process.returncode == 75 and f"{len(seen)} of 13 videos are checked. Start the same command" in stderr
    assert not (tmp_path / "manifest.parquet").exists() and len(seen) < 13
    process = start()
    stdout, stderr = process.communicate(timeout=180)
    assert process.returncode == 0, stderr
    assert f"the check goes on: {len(seen)} of 13 videos are known" in stderr
    again = [line for line in stdout.splitlines(keepends=True) if line in seen]
    assert not again and len(load_manifest(str(tmp_path / "manifest.parquet"))) == 13
    assert not list(tmp_path.glob("*unfinished*"))
    straight = [tool.main([*pairs[:3], str(tmp_path / "other"), *pairs[4:], "--forecast-sec", "0"])]
    first, second = (pd.read_parquet(folder / "manifest.parquet") for folder in (tmp_path, tmp_path / "other"))
    assert straight == [0]
    pd.testing.assert_frame_equal(first, second)


def test_lists_of_boxes(tmp_path, capsys):
    """AVA's files: bad boxes, a moment that a video does not have, and truth among predicted persons, in one report."""
    folder = ava_factory.write_ava(tmp_path / "data", num_frames=120)
    lines = [*ava_factory.TRAIN, "a,908,0.1,0.1,0.5,0.5,5,1", "a,902,0.7,0.1,0.5,0.5,1,1"]
    ava_factory.write_lines(folder / "ava_train_v2.2.csv", lines)
    words = {
        "TASK": "detect_actions",
        "DATA.FORMAT": "ava",
        "DATA.PATH_TO_DATA_DIR": folder,
        "AVA.START_SEC": 900,
        "AVA.TEST_PREDICT_BOX_LISTS": "['ava_val_v2.2.csv']",
        "MODEL.NUM_CLASSES": 5,
        "OUTPUT_DIR": tmp_path / "out",
    }
    pairs = [str(word) for pair in words.items() for word in pair]
    assert tool.main([*pairs, "--workers", "1", "--forecast-sec", "0"]) == 1
    shown = capsys.readouterr().out
    assert "ava_train_v2.2.csv:7 [train]: box [0.7, 0.1, 0.5, 0.5] of video a at 902 s is reversed" in shown
    assert "1 of 3 moments, such as 8 s after the first frame; it lasts 4.0 s" in shown
    assert "looks like truth: its last column holds whole numbers" in shown
    report = json.loads((tmp_path / "out" / "dataset_report.json").read_text())
    assert report["boxes"]["train"] == {"key_frames": 4, "boxes": 6, "labels": 7, "persons": 0}
    assert report["findings"]["leak"]["found"][0]["subject"].endswith("a.mp4")
    ava_factory.write_lines(folder / "ava_train_v2.2.csv", ava_factory.TRAIN)
    good = tool.parse_args([*pairs, "AVA.TEST_PREDICT_BOX_LISTS", "['persons.csv']", "--workers", "1"])
    good.forecast_sec = 0.1
    report = tool.check(load_config([], good.opts), good)
    assert "bad_box" not in report["findings"] and report["forecast"]["clips"] >= 1

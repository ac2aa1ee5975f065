"""The same lists with new paths, in every format; names that are equal, odd or in subfolders keep apart."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image
from video_factory import paint_number

from hiera_video.config import load_config
from hiera_video.data.build_lists import build_unchecked_video_list
from hiera_video.preparation.data_set import build_data_set
from hiera_video.preparation.prepare_video import Outcome
from hiera_video.video.manifest import VideoRecord, load_manifest


def make_config(folder, **keys):
    pairs = {"DATA.PATH_TO_DATA_DIR": folder, **keys}
    return load_config([], [str(word) for pair in pairs.items() for word in pair])


def pretend(data_set, *, failed=()):
    """Every video is prepared, without any work."""
    return {
        work.source: Outcome(*work, VideoRecord("unreadable" if work.source in failed else "ok"))
        for work in data_set.works
    }


def read_again(data_set, outcomes, split="train"):
    """The list as a job reads it with the config that was written; paths relative to the output folder."""
    data_set.write(outcomes)
    cfg = load_config([f"{data_set.output_dir}/prepared.yaml"])
    videos, _ = build_unchecked_video_list(cfg, split, require_labels=False)
    return [path.removeprefix(f"{data_set.output_dir}/") for path in videos.paths.tolist()], videos.labels.tolist()


def test_kinetics(tmp_path):
    lines = ["a.avi 0", "sub/a.avi 1", "sub/a.mp4 1", "with spaces, ü.webm 2", "a.avi 3", "/else/where.mp4 4"]
    (tmp_path / "train.csv").write_text("\n".join([*lines, "s3://bucket/sub/b.mp4 5", "7/7_%06d.jpg#1-9 6"]))
    (tmp_path / "val.csv").write_text("a.avi\nno label.mp4\n")
    data_set = build_data_set(make_config(tmp_path), str(tmp_path / "out"))
    outcomes = pretend(data_set, failed={f"{tmp_path}/sub/a.mp4"})
    paths, labels = read_again(data_set, outcomes)
    assert paths == [
        "videos/a.mp4",
        "videos/sub/a.avi.mp4",
        "videos/sub/a.mp4.mp4",
        "videos/with spaces, ü.mp4",
        "videos/a.mp4",
        "videos/else/where.mp4",
        "videos/bucket/sub/b.mp4",
        "videos/7/7_%06d.mp4",
    ]
    assert labels == [0, 1, 1, 2, 3, 4, 5, 6]
    assert read_again(data_set, outcomes, "val") == (["videos/a.mp4", "videos/no label.mp4"], [-1, -1])
    manifest = load_manifest(str(tmp_path / "out" / "manifest.parquet"))
    assert len(manifest) == 8, "a file that is listed again is one file"
    broken = f"{tmp_path}/out/videos/sub/a.mp4.mp4"
    assert manifest.find_broken(np.array([broken])) == {0: VideoRecord("unreadable")}


def test_separators_and_prefixes(tmp_path):
    (tmp_path / "train.csv").write_text("one two.mp4,0\n")
    cfg = make_config(tmp_path, **{"DATA.PATH_PREFIX": "/videos/", "DATA.PATH_LABEL_SEPARATOR": ","})
    data_set = build_data_set(cfg, str(tmp_path / "out"))
    assert data_set.works[0].source == "/videos/one two.mp4"
    assert read_again(data_set, pretend(data_set)) == (["videos/one two.mp4"], [0])


@pytest.mark.parametrize(("separator", "between"), [(" ", ","), (",", ";")])
def test_several_classes(tmp_path, separator, between):
    (tmp_path / "train.csv").write_text(f"a.mp4{separator}2{between}0\nb c.mp4{separator}-\n")
    keys = {"MODEL.LOSS_FUNC": "bce_logit", "MODEL.NUM_CLASSES": 3, "DATA.PATH_LABEL_SEPARATOR": separator}
    data_set = build_data_set(make_config(tmp_path, **keys), str(tmp_path / "out"))
    data_set.write(pretend(data_set))
    cfg = load_config([str(tmp_path / "out/prepared.yaml")], ["MODEL.LOSS_FUNC", "bce_logit", "MODEL.NUM_CLASSES", "3"])
    videos, _ = build_unchecked_video_list(cfg, "train")
    assert videos.paths.tolist() == [f"{tmp_path}/out/videos/{name}.mp4" for name in ("a", "b c")]
    assert [videos.label_sets.get(i).tolist() for i in (0, 1)] == [[0, 2], []]


def read_sets(output, split, *pairs):
    """Paths and names of classes of each video, as a job reads them with the config that was written."""
    words = ["MODEL.LOSS_FUNC", "bce_logit", "MODEL.NUM_CLASSES", "3", *pairs]
    videos, _ = build_unchecked_video_list(load_config([f"{output}/prepared.yaml"], words), split)
    names = [[videos.class_names[label] for label in videos.label_sets.get(i)] for i in range(len(videos))]
    return [path.removeprefix(f"{output}/") for path in videos.paths.tolist()], names


def test_charades(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/Charades_v1_classes.txt").write_text("c000 Run\nc001 Jump, high\nc002 Sit\n")
    head, lists = "id,subject,actions\n", {"train": "B7,x,c002 1 2;c000 0 1\nA5,x,\n", "test": "C9,y,c001 0.0 3.1\n"}
    for name, lines in lists.items():
        (tmp_path / f"in/Charades_v1_{name}.csv").write_text(head + lines)
    keys = {"DATA.FORMAT": "charades", "MODEL.LOSS_FUNC": "bce_logit", "MODEL.NUM_CLASSES": 3}
    cfg = make_config(tmp_path / "in", **keys, **{"DATA.PATH_PREFIX": "/scaled"})
    data_set = build_data_set(cfg, str(tmp_path / "out"))
    assert [work.source for work in data_set.works] == ["/scaled/B7.mp4", "/scaled/A5.mp4", "/scaled/C9.mp4"]
    data_set.write(pretend(data_set, failed={"/scaled/A5.mp4"}))
    assert read_sets(tmp_path / "out", "train") == (["videos/B7.mp4", "videos/A5.mp4"], [["Run", "Sit"], []])
    for split in ("val", "test"):
        assert read_sets(tmp_path / "out", split) == (["videos/C9.mp4"], [["Jump, high"]])
    for name in ("train", "test"):
        name = f"Charades_v1_{name}.csv"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "in" / name).read_bytes()


def test_folders_with_several_classes(tmp_path):
    """With the names of training's classes, in the order of their labels, also where the split alone is prepared."""
    rows = {"train": 'a/x.avi,"sit, or lie;run"\na/x.mkv,\n/else/y.mp4,jump\n', "val": "z.mp4,run\n"}
    for split, lines in rows.items():
        (tmp_path / "in" / split).mkdir(parents=True)
        (tmp_path / "in" / split / "labels.csv").write_text("video,labels\n" + lines)
    keys = {"DATA.FORMAT": "folders", "MODEL.LOSS_FUNC": "bce_logit", "MODEL.NUM_CLASSES": 3}
    cfg = make_config(tmp_path / "in", **keys)
    data_set = build_data_set(cfg, str(tmp_path / "out"))
    data_set.write(pretend(data_set, failed={f"{tmp_path}/in/train/a/x.mkv"}))
    paths = ["train/a/x.avi.mp4", "train/a/x.mkv.mp4", "else/y.mp4"]
    assert read_sets(tmp_path / "out", "train") == (paths, [["run", "sit, or lie"], [], ["jump"]])
    assert read_sets(tmp_path / "out", "val") == (["val/z.mp4"], [["run"]])
    manifest = load_manifest(str(tmp_path / "out/manifest.parquet"))
    assert manifest.count_known(np.array([f"{tmp_path}/out/{path}" for path in paths])) == 3
    alone = build_data_set(cfg, str(tmp_path / "alone"), splits=["val"])
    alone.write(pretend(alone))
    words = ["MODEL.LOSS_FUNC", "bce_logit", "MODEL.NUM_CLASSES", "3"]
    videos, _ = build_unchecked_video_list(load_config([f"{tmp_path}/alone/prepared.yaml"], words), "val")
    assert videos.class_names == ("jump", "run", "sit, or lie") and videos.label_sets.get(0).tolist() == [1]


def write_ssv2(folder):
    (folder / "labels.json").write_text(json.dumps({"Moving something": "0", "Holding something": "1"}))
    entries = [{"id": "7", "template": "Holding [something]"}, {"id": "5", "template": "Moving [something]"}]
    (folder / "train.json").write_text(json.dumps(entries))
    (folder / "test.json").write_text(json.dumps([{"id": "9"}]))


def test_ssv2(tmp_path):
    write_ssv2(tmp_path)
    data_set = build_data_set(make_config(tmp_path, **{"DATA.FORMAT": "ssv2"}), str(tmp_path / "out"))
    outcomes = pretend(data_set)
    assert [work.source for work in data_set.works] == [f"{tmp_path}/{name}.webm" for name in (7, 5, 9)]
    assert read_again(data_set, outcomes) == (["videos/7.mp4", "videos/5.mp4"], [1, 0])
    assert read_again(data_set, outcomes, "test") == (["videos/9.mp4"], [-1])
    assert (tmp_path / "out" / "train.json").read_bytes() == (tmp_path / "train.json").read_bytes()


def test_ssv2_as_pictures_becomes_videos(tmp_path):
    write_ssv2(tmp_path)
    head = "original_vido_id video_id frame_id path labels\n"
    rows = [f'{name} {name} {i} {name}/{name}_{i + 1:06d}.jpg ""' for name in (7, 5) for i in range(3)]
    (tmp_path / "train.csv").write_text(head + "\n".join(rows))
    cfg = make_config(tmp_path, **{"DATA.FORMAT": "ssv2_frames"})
    data_set = build_data_set(cfg, str(tmp_path / "out"), splits=["train"])
    assert data_set.works[1].source == f"{tmp_path}/5/5_%06d.jpg#1-3"
    assert read_again(data_set, pretend(data_set)) == (["videos/7.mp4", "videos/5.mp4"], [1, 0])


def test_class_folders(tmp_path):
    for name in ("train/b/x.avi", "train/b/x.mp4", "train/a/y.mkv", "train/c/z.mp4", "val/b/x.avi"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    cfg = make_config(tmp_path / "data", **{"DATA.FORMAT": "folders"})
    data_set = build_data_set(cfg, str(tmp_path / "out"))
    failed = {f"{tmp_path}/data/train/a/y.mkv"}
    outcomes = pretend(data_set, failed=failed)
    data_set.write(outcomes)
    for work in data_set.works:
        if work.source not in failed:
            (tmp_path / work.target).touch()
    expected = ["train/b/x.avi.mp4", "train/b/x.mp4.mp4", "train/c/z.mp4"]
    assert read_again(data_set, outcomes) == (expected, [1, 1, 2]), "a class without a video keeps its number"
    assert read_again(data_set, outcomes, "val") == (["val/b/x.mp4"], [1])


def test_class_folders_of_one_split_keep_the_labels_of_all(tmp_path):
    for name in ("train/a/x.mp4", "train/b/x.mp4", "val/b/x.mp4"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True)
        path.touch()
    cfg = make_config(tmp_path / "data", **{"DATA.FORMAT": "folders"})
    data_set = build_data_set(cfg, str(tmp_path / "out"), splits=["val"])
    outcomes = pretend(data_set)
    data_set.write(outcomes)
    (tmp_path / "out/val/b/x.mp4").touch()
    assert read_again(data_set, outcomes, "val") == (["val/b/x.mp4"], [1])


def test_names_once_given_stay(tmp_path):
    """A video that joins the list later does not change what another one's file is called."""
    (tmp_path / "train.csv").write_text("a.avi 0\n")
    first = build_data_set(make_config(tmp_path), str(tmp_path / "out")).works[0]
    (tmp_path / "train.csv").write_text("a.mp4 0\na.avi 0\n")
    taken = {first.source: "videos/a.mp4"}
    names = [work.target for work in build_data_set(make_config(tmp_path), str(tmp_path / "out"), taken=taken).works]
    assert names == [f"{tmp_path}/out/videos/a.mp4.mp4", first.target]


def test_sources_are_never_written_over(tmp_path):
    (tmp_path / "data/train/a").mkdir(parents=True)
    (tmp_path / "data/train/a/x.mp4").touch()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    cfg = make_config(tmp_path / "data", **{"DATA.FORMAT": "folders"})
    with pytest.raises(ValueError, match=r"x.mp4 would be written over .*data/train/a/x.mp4; take another"):
        build_data_set(cfg, str(tmp_path / "link"))


@pytest.mark.parametrize("name", ["boxes", "imagenet"])
def test_formats_without_lists_of_videos(tmp_path, name):
    keys = {"DATA.FORMAT": name, **({"TASK": "detect_actions", "AUG.NUM_SAMPLE": 1} if name == "boxes" else {})}
    with pytest.raises(ValueError, match=f"DATA.FORMAT = {name} cannot be prepared; kinetics, ssv2, .*folders can"):
        build_data_set(make_config(tmp_path, **keys), str(tmp_path / "out"))


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="train.csv"):
        build_data_set(make_config(tmp_path), str(tmp_path / "out"))
    (tmp_path / "train.csv").write_text("a.mp4 0\n")
    with pytest.raises(FileNotFoundError, match="val.csv"):
        build_data_set(make_config(tmp_path), str(tmp_path / "out"), splits=["train", "val"])
    with pytest.raises(ValueError, match="s3://b/out is not on this machine"):
        build_data_set(make_config(tmp_path), "s3://b/out")


def test_the_config_has_its_keys_alone(tmp_path):
    (tmp_path / "train.csv").write_text("a.mp4 0\n")
    data_set = build_data_set(make_config(tmp_path), str(tmp_path / "out"))
    keys = data_set.write(pretend(data_set))
    assert yaml.safe_load((tmp_path / "out/prepared.yaml").read_text()) == {
        "DATA": {key.removeprefix("DATA."): value for key, value in keys.items()}
    }
    assert keys["DATA.MANIFEST"] == f"{tmp_path}/out/manifest.parquet"


def test_a_folder_of_pictures_is_a_video(tmp_path):
    (tmp_path / "7").mkdir()
    Image.fromarray(paint_number(0)).save(tmp_path / "7" / "0.png")
    (tmp_path / "train.csv").write_text("7 0\n")
    data_set = build_data_set(make_config(tmp_path), str(tmp_path / "out"))
    assert data_set.works == [(f"{tmp_path}/7", f"{tmp_path}/out/videos/7.mp4")]

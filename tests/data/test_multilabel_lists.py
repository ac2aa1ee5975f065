"""Lists whose videos have several classes, or none, and what is said of wrong ones."""

import logging

import numpy as np
import pytest
import torch

from hiera_video.config import load_config
from hiera_video.data.build_lists import build_video_list
from hiera_video.data.class_balance import compute_positive_weights
from hiera_video.data.label_sets import LabelSets
from hiera_video.data.multilabel_lists import load_charades_csv, load_labeled_folder, load_multilabel_csv


def get_labels(videos):
    return [videos.label_sets.get(i).tolist() for i in range(len(videos))]


def test_a_csv_with_several_labels(tmp_path):
    (tmp_path / "a.csv").write_text('x/a.mp4 3,1\n\n"b c.mp4" 2\n/abs/d.mp4 -\ne.mp4 0;3;0\n')
    videos = load_multilabel_csv(str(tmp_path / "a.csv"), num_classes=4, path_prefix="/data")
    assert videos.paths.tolist() == ["/data/x/a.mp4", "/data/b c.mp4", "/abs/d.mp4", "/data/e.mp4"]
    assert get_labels(videos) == [[1, 3], [2], [], [0, 3]] and videos.labels.tolist() == [-1] * 4
    (tmp_path / "b.csv").write_text("a.mp4,0;2\nb,c.mp4,1\n")
    assert get_labels(load_multilabel_csv(str(tmp_path / "b.csv"), num_classes=4, separator=",")) == [[0, 2], [1]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.mp4 1,x", r"a.csv:2: 'a.mp4 1,x' is not a path and labels .*'videos/a.mp4 3,17', or '-'"),
        ("a.mp4", r"a.csv:2: 'a.mp4' is not a path"),
        ("a.mp4 1,", "a.csv:2"),
        ("a.mp4 1,4", r"a.csv:2: label 4; with 4 classes \(MODEL.NUM_CLASSES\) labels must be in \[0, 4\)"),
        ("a.mp4 -1", "label -1"),
    ],
)
def test_wrong_lines_are_named(tmp_path, line, message):
    (tmp_path / "a.csv").write_text(f"ok.mp4 0\n{line}\n")
    with pytest.raises(ValueError, match=message):
        load_multilabel_csv(str(tmp_path / "a.csv"), num_classes=4)


def write_folder(folder, text, names=("a.mp4", "sub/b.mp4")):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "labels.csv").write_text(text)


def test_folders_with_a_file_of_labels(tmp_path, caplog):
    logging.getLogger("hiera_video").propagate = True
    write_folder(tmp_path, 'video,labels\na.mp4,run; jump\n"sub/b.mp4",\n', ["a.mp4", "sub/b.mp4", "sub/c.mp4"])
    videos = load_labeled_folder(str(tmp_path), num_classes=2)
    assert videos.class_names == ("jump", "run") and get_labels(videos) == [[0, 1], []]
    assert videos.paths.tolist() == [str(tmp_path / "a.mp4"), str(tmp_path / "sub/b.mp4")]
    assert "does not list 1 videos below it, such as" in caplog.text and "c.mp4" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,labels\na.mp4,run\n", "labels.csv has no column video; its heading is 'path,labels'"),
        ("video,labels\na.mp4,runn\n", "labels.csv:2: 'runn' is none of 2 classes; did you mean 'run'?"),
        ("video,labels\na.mp4\n", r"labels.csv:2: expected video and labels"),
    ],
)
def test_wrong_files_of_labels(tmp_path, text, message):
    write_folder(tmp_path, text)
    with pytest.raises(ValueError, match=message):
        load_labeled_folder(str(tmp_path), class_names=("run", "jump"), num_classes=2)


CHARADES = """id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length
46GP8,HR43,Kitchen,6,7,Yes,"A person cooks, then eats.",food;stove,,c001 11.90 21.20;c000 0.00 12.60;c001 1.0 2.0,24.83
N11GT,0KZ7,Stairs,6,7,Yes,"A person.",box,,,18.38
"""


def test_charades_own_files(tmp_path):
    (tmp_path / "Charades_v1_classes.txt").write_text("c000 Holding some clothes\nc001 Putting clothes somewhere\n")
    (tmp_path / "train.csv").write_text(CHARADES)
    classes = str(tmp_path / "Charades_v1_classes.txt")
    videos = load_charades_csv(str(tmp_path / "train.csv"), classes, path_prefix="/v")
    assert videos.paths.tolist() == ["/v/46GP8.mp4", "/v/N11GT.mp4"] and get_labels(videos) == [[0, 1], []]
    assert videos.class_names == ("Holding some clothes", "Putting clothes somewhere")
    (tmp_path / "bad.csv").write_text(CHARADES.replace("c000 0.00", "c002 0.00"))
    with pytest.raises(ValueError, match="bad.csv:2: 'c002' is none of the 2 classes"):
        load_charades_csv(str(tmp_path / "bad.csv"), classes)
    (tmp_path / "Charades_v1_classes.txt").write_text("c000 a\nc002 b\n")
    with pytest.raises(ValueError, match="classes.txt:2: 'c002 b'; expected 'c001' and a name"):
        load_charades_csv(str(tmp_path / "train.csv"), classes)


def test_every_format_from_its_config(tmp_path):
    for split in ("train", "val"):
        write_folder(tmp_path / split, f"video,labels\na.mp4,run{';jump' if split == 'train' else ''}\nsub/b.mp4,\n")
        (tmp_path / f"{split}.csv").write_text(f"{split}/a.mp4 1,0\n{split}/sub/b.mp4 -\n")
    (tmp_path / "Charades_v1_classes.txt").write_text("c000 x\nc001 y\n")
    for name in ("train", "test"):
        (tmp_path / f"Charades_v1_{name}.csv").write_text("id,actions\na,c001 0 1\n")
    (tmp_path / "a.mp4").touch()

    def load(data_format, split, **changes):
        options = {"DATA.FORMAT": data_format, "DATA.PATH_TO_DATA_DIR": str(tmp_path), "MODEL.NUM_CLASSES": "2"}
        options |= {"MODEL.LOSS_FUNC": "bce_logit", "TRAIN.ENABLE": "False", **changes}
        return build_video_list(load_config([], [word for pair in options.items() for word in pair]), split)

    assert get_labels(load("kinetics", "train")) == [[0, 1], []]
    assert get_labels(load("folders", "train")) == [[0, 1], []]
    assert get_labels(load("folders", "val")) == [[1], []], "classes are those of the training list"
    assert get_labels(load("charades", "train")) == get_labels(load("charades", "val")) == [[1]]
    with pytest.raises(ValueError, match=r"has 2 classes, MODEL.NUM_CLASSES is 3"):
        load("folders", "train", **{"MODEL.NUM_CLASSES": "3"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MIXUP.ENABLE": "True"}, "MIXUP.ENABLE = True mixes clips of one class each"),
        ({"TASK": "pretrain", "MODEL.MODEL_NAME": "mae_hiera_tiny_16x224"}, "bce_logit is for TASK classify"),
        ({"DATA.FORMAT": "ssv2"}, "lists of DATA.FORMAT = ssv2 have one class for each video"),
        ({"TRAIN.CLASS_SAMPLING": "1.0"}, "TRAIN.CLASS_SAMPLING = 1.0.*TRAIN.CLASS_WEIGHTING"),
        ({"DATA.FORMAT": "charades", "MODEL.LOSS_FUNC": "cross_entropy"}, "videos of Charades have several classes"),
    ],
)
def test_what_does_not_go_with_several_classes(changes, message):
    options = {"MODEL.LOSS_FUNC": "bce_logit", "DATA.PATH_TO_DATA_DIR": "/data", **changes}
    with pytest.raises(ValueError, match=message):
        load_config([], [word for pair in options.items() for word in pair])


def test_label_sets():
    sets = LabelSets.from_lists([[2, 0, 2], [], [1]], num_classes=4)
    assert [sets.get(i).tolist() for i in range(3)] == [[0, 2], [], [1]] and len(sets) == 3
    assert torch.equal(sets.make_targets(), torch.tensor([[1, 0, 1, 0], [0] * 4, [0, 1, 0, 0]]).bool())
    assert torch.equal(sets.make_targets().float(), torch.stack([sets.make_target(i) for i in range(3)]))
    assert sets.count_videos().tolist() == [1, 1, 1, 0]
    assert sets.select(np.array([False, True, True])).get(1).tolist() == [1]


def test_positive_weights_by_hand():
    assert compute_positive_weights(np.array([2, 8, 0]), 10, strength=1.0) == pytest.approx([4, 0.25, 10])
    assert compute_positive_weights(np.array([2]), 10, strength=0.5) == pytest.approx([2])

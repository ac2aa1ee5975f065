"""`hiera-video predict --boxes` end to end, with boxes of a csv file and of a detector."""

import action_fixtures
import pandas as pd
import pytest
import simplejson
import torch
from tiny_checkpoint import CLASS_NAMES, write_tiny_checkpoint
from torchvision.models import detection

from hiera_video.cli.predict import main, parse_args
from hiera_video.cli.predict_boxes import BoxesOverTime
from hiera_video.engine.predict_actions import ActionPrediction
from hiera_video.video import VideoReader


@pytest.fixture
def checkpoint(tmp_path):
    changes = {"TASK": "detect_actions", "DATA__FORMAT": "ava", "DATA__TARGET_FPS": 10}
    return write_tiny_checkpoint(tmp_path / "tiny.pyth", **changes)


@pytest.fixture
def boxes_csv(tmp_path):
    """In pixels of 96 x 48, four moments a second, with one box of a low score."""
    lines = ["video,time_sec,x1,y1,x2,y2,score"]
    for step in range(9):
        for x1, y1, x2, y2 in action_fixtures.HALVES:
            lines.append(f"e,{step / 4},{x1 * 96},{y1 * 48},{x2 * 96},{y2 * 48},0.9")
    lines.append("e,1.0,10,10,90,40,0.2")
    path = tmp_path / "boxes.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_boxes_of_a_csv_file(checkpoint, boxes_csv, action_dir, tmp_path, capsys):
    video = str(action_dir / "videos" / "e.mp4")
    files = {name: tmp_path / "out" / name for name in ("actions.json", "actions.csv", "labeled.mp4")}
    words = [video, "--checkpoint", checkpoint, "--boxes-csv", str(boxes_csv), "--top-k", "2"]
    words += ["--json", str(files["actions.json"]), "--csv", str(files["actions.csv"])]
    assert main([*words, "--output-video", str(files["labeled.mp4"])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7 and lines[0].startswith("track   1      0.00 s  ") and "18 boxes, 2 tracks" in lines[-1]
    content = simplejson.loads(files["actions.json"].read_text())
    assert [len(track["actions"]) for track in content["tracks"]] == [3, 3]
    table = pd.read_csv(files["actions.csv"])
    assert len(table) == 12 and set(table["label"]) <= set(CLASS_NAMES) and table["score"].between(0, 1).all()
    assert table["x1"][0] == pytest.approx(action_fixtures.HALVES[0][0])
    with VideoReader(str(files["labeled.mp4"])) as labeled, VideoReader(video) as original:
        assert len(labeled) == len(original)
        assert (labeled.get_frames([5]).float() - original.get_frames([5]).float()).abs().max() > 60


@pytest.mark.slow
def test_boxes_of_a_detector(checkpoint, action_dir, tmp_path, capsys):
    torch.manual_seed(0)
    model = detection.fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None, num_classes=2)
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias[1] = 2.0
    torch.save(model.state_dict(), tmp_path / "detector.pth")
    video = str(action_dir / "videos" / "e.mp4")
    words = [video, "--checkpoint", checkpoint, "--boxes", "--detector", str(tmp_path / "detector.pth")]
    assert main([*words, "--detector-fps", "0.4", "--min-box-score", "0.5", "--json", "-"]) == 0
    tracks = simplejson.loads(capsys.readouterr().out)["tracks"]
    assert tracks and {box["time_sec"] for track in tracks for box in track["boxes"]} == {0.0, 2.5}
    assert all(0.5 <= box["score"] <= 1 for track in tracks for box in track["boxes"])


def test_boxes_move_on_a_line_between_two_moments_and_keep_the_nearest_actions():
    corners = ["x1", "y1", "x2", "y2"]
    boxes = pd.DataFrame([(0.0, 4, 0.0, 0, 0.2, 1, 1), (1.0, 4, 0.4, 0, 0.6, 1, 1)])
    boxes.columns = ["time_sec", "track", *corners, "score"]
    actions = boxes.drop(columns="score").assign(classes=[("sit",), ("walk",)], probabilities=[(0.5,), (0.25,)])
    over_time = BoxesOverTime(ActionPrediction("v", "c", "s", boxes, actions))
    (early,), (late,) = over_time.find(0.25, 0.1), over_time.find(0.75, 0.1)
    assert early.corners == pytest.approx([0.1, 0, 0.3, 1]) and early.lines == ["#4", "50% sit"]
    assert late.corners == pytest.approx([0.3, 0, 0.5, 1]) and late.lines == ["#4", "25% walk"] and late.track == 4
    assert over_time.find(9.0, 0.1) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--boxes"], "--boxes needs either --detector FILE or --boxes-csv FILE"),
        (["--detector", "a", "--boxes-csv", "b"], "--boxes needs either"),
        (["--boxes-csv", "b", "--window-sec", "2"], "--window-sec is not for --boxes"),
        (["--boxes", "--detector", "a", "--detector-fps", "0"], "--detector-fps is 0.0; it must be above 0"),
        (["--csv", "out.csv"], "--csv is for --boxes"),
        (["--boxes-csv", "b", "--live"], "--boxes needs a video that can be read twice"),
    ],
)
def test_options_that_do_not_fit_together_are_named(words, message, capsys):
    with pytest.raises(SystemExit):
        parse_args(["video.mp4", "--checkpoint", "c", *words])
    assert message in capsys.readouterr().err


def test_defaults_are_those_of_each_kind():
    plain, boxes = (parse_args(["v.mp4", "--checkpoint", "c", *words]) for words in ([], ["--boxes-csv", "b.csv"]))
    assert (plain.top_k, plain.num_crops, plain.boxes) == (5, 1, False)
    assert (boxes.top_k, boxes.num_crops, boxes.boxes) == (3, 3, True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("e,1.0,0.5,0.1,0.4,0.9,1", "is reversed: x1 must be below x2"),
        ("e,1.0,0.5,0.1,0.5,0.9,1", "is empty"),
        ("e,1.0,nan,0.1,0.5,0.9,1", "has a corner that is not a number"),
        ("e,1.0,1.1,0.1,1.5,0.9,1", "lies outside of the frame"),
    ],
)
def test_bad_boxes_are_named_with_file_and_line(checkpoint, action_dir, tmp_path, capsys, line, message):
    path = tmp_path / "boxes.csv"
    path.write_text(f"video,time_sec,x1,y1,x2,y2,score\ne,0.5,0.1,0.1,0.4,0.9,1\n{line}\n")
    video = str(action_dir / "videos" / "e.mp4")
    assert main([video, "--checkpoint", checkpoint, "--boxes-csv", str(path)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {path}:3: box") and message in error


def test_a_model_of_whole_clips_is_refused_and_the_other_way_round(checkpoint, boxes_csv, action_dir, tmp_path, capsys):
    video = str(action_dir / "videos" / "e.mp4")
    classifier = write_tiny_checkpoint(tmp_path / "classifier.pyth")
    assert main([video, "--checkpoint", classifier, "--boxes-csv", str(boxes_csv)]) == 1
    assert "is of a model for whole clips" in capsys.readouterr().err
    assert main([video, "--checkpoint", checkpoint]) == 1
    assert "its head scores boxes" in capsys.readouterr().err

"""Actions of boxes over time: which views and moments, and against the model called by hand."""

import action_fixtures
import numpy as np
import pandas as pd
import pytest
import simplejson
import torch
from tiny_checkpoint import write_tiny_checkpoint

from hiera_video.data.box_transforms import BoxEvalTransform, clip_boxes
from hiera_video.data.transforms import EvalTransform
from hiera_video.engine.predict_actions import (
    ActionPredictor,
    choose_moments,
    find_persons,
    make_views,
    select_video,
)
from hiera_video.engine.trained import load_trained
from hiera_video.models.person_detector import PersonDetector
from hiera_video.video import VideoReader
from hiera_video.video.file_cache import FileCache

CORNERS = ["x1", "y1", "x2", "y2"]
LEFT, RIGHT = action_fixtures.HALVES
BESIDE = action_fixtures.BESIDE


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.pyth"
    changes = {"TASK": "detect_actions", "DATA__FORMAT": "ava", "DATA__TARGET_FPS": 10}
    return load_trained(write_tiny_checkpoint(path, **changes))


def make_boxes(rows):
    return pd.DataFrame(
        [(sec, *box, 1.0, person) for sec, box, person in rows], columns=["time_sec", *CORNERS, "score", "person"]
    )


@pytest.mark.parametrize("shape", [(4, 48, 96, 3), (4, 70, 50, 3), (4, 41, 63, 3)])
def test_the_center_view_is_that_of_tests(shape):
    frames = torch.randint(0, 255, shape, dtype=torch.uint8)
    shares = torch.tensor([LEFT, RIGHT, BESIDE, (0.2, 0.0, 0.95, 0.5)])
    transform = EvalTransform(num_crops=1, short_side_px=32, crop_size_px=32)
    views, boxes = make_views(transform, frames, shares)
    theirs = BoxEvalTransform(32)
    px = shares * torch.tensor([shape[2], shape[1], shape[2], shape[1]])
    view, view_map = theirs(frames, px)
    expected, is_outside = clip_boxes(view_map.to_view(px), 32)
    assert torch.equal(views[0], view) and (boxes[:, 0] == 0).all()
    torch.testing.assert_close(boxes[~is_outside, 1:], expected[~is_outside])
    assert (boxes[is_outside, 1:] == 0).all()


def test_of_three_views_a_box_takes_the_one_that_shows_most_of_it():
    frames = torch.randint(0, 255, (4, 32, 96, 3), dtype=torch.uint8)  # views at 0, 32 and 64 px
    shares = torch.tensor([[0.0, 0, 0.3, 1], [0.35, 0, 0.6, 1], [0.7, 0, 1, 1], [0.3, 0, 0.6, 1], [0.0, 0.0, 1.0, 1.0]])
    views, boxes = make_views(EvalTransform(num_crops=3, short_side_px=32, crop_size_px=32), frames, shares)
    assert boxes[:, 0].tolist() == [0, 1, 2, 1, 1]  # all of the last one's are equal: the center
    torch.testing.assert_close(boxes[2, 1:], torch.tensor([0.7 * 96 - 64, 0, 32, 32]))
    torch.testing.assert_close(views[2].permute(1, 2, 3, 0), frames[:, :, 64:])


@torch.no_grad()
def test_it_names_what_the_model_says(trained, action_dir):
    """One moment, both halves and a box beside the center view."""
    path = str(action_dir / "videos" / "e.mp4")
    result = ActionPredictor(trained, top_k=2, num_crops=1).predict(
        path, make_boxes([(2.0, LEFT, -1), (2.0, RIGHT, -1), (2.0, BESIDE, -1)])
    )
    with VideoReader(path) as reader:
        frames = reader.get_frames([16, 18, 20, 22])  # 10 frames a second; the key frame is the third
    views, boxes = make_views(
        EvalTransform(num_crops=1, short_side_px=32, crop_size_px=32), frames, torch.tensor([LEFT, RIGHT])
    )
    probs = trained.model((views.float() / 255 - 0.45) / 0.225, boxes).sigmoid()
    for row, expected in zip(result.actions.itertuples(), probs, strict=False):
        top = expected.topk(2)
        assert row.classes == tuple(trained.class_names[k] for k in top.indices)
        assert row.probabilities == pytest.approx(top.values.tolist(), rel=1e-4)
    assert result.actions.classes[2] == () and len(result.actions) == 3
    assert result.actions.track.tolist() == [1, 2, 3]


def test_tracks_and_moments_and_what_is_written(trained, action_dir):
    path = str(action_dir / "videos" / "e.mp4")
    rows = [(step / 4, box, -1) for step in range(9) for box in (LEFT, RIGHT)]
    result = ActionPredictor(trained, stride_sec=1.0).predict(path, make_boxes(rows))
    assert len(result.boxes) == 18 and result.boxes.track.tolist() == [1, 2] * 9
    assert result.actions.time_sec.tolist() == [0, 0, 1, 1, 2, 2]
    content = simplejson.loads(result.to_json())
    assert [(track["track"], len(track["boxes"]), len(track["actions"])) for track in content["tracks"]] == [
        (1, 9, 3),
        (2, 9, 3),
    ]
    assert content["tracks"][0]["actions"][0]["x1"] == LEFT[0] and content["weights_sha256"] == trained.sha256
    lines = result.to_csv().splitlines()
    assert lines[0] == "video,time_sec,x1,y1,x2,y2,label,person,score" and len(lines) == 1 + 6 * 3
    assert lines[1].startswith(f"{path},0,0.28,0.1,0.48,0.9,")


def test_known_persons_are_the_tracks(trained, action_dir):
    boxes = make_boxes([(1.0, RIGHT, 7), (0.0, LEFT, 7), (1.0, LEFT, 3)])
    result = ActionPredictor(trained).predict(str(action_dir / "videos" / "e.mp4"), boxes)
    assert result.boxes.track.tolist() == [7, 7, 3] and result.boxes.time_sec.tolist() == [0, 1, 1]


def test_no_boxes_give_no_actions(trained, action_dir):
    result = ActionPredictor(trained).predict(str(action_dir / "videos" / "e.mp4"), make_boxes([]))
    assert len(result.actions) == 0 and simplejson.loads(result.to_json())["tracks"] == []
    assert result.to_csv() == "video,time_sec,x1,y1,x2,y2,label,person,score\n"


def test_a_model_of_whole_clips_is_refused(tmp_path):
    other = load_trained(write_tiny_checkpoint(tmp_path / "tiny.pyth"))
    with pytest.raises(ValueError, match=r"tiny.pyth is of a model for whole clips \(TASK classify\)"):
        ActionPredictor(other)


@pytest.mark.parametrize("changes", [{"top_k": 0}, {"stride_sec": 0.0}])
def test_arguments_out_of_range_are_refused(trained, changes):
    with pytest.raises(ValueError, match="top_k is .*, stride_sec"):
        ActionPredictor(trained, **changes)


def test_a_box_after_the_end_is_refused(trained, action_dir):
    with pytest.raises(ValueError, match=r"a key frame is due 9 s after the first frame of 5.0 s"):
        ActionPredictor(trained).predict(str(action_dir / "videos" / "e.mp4"), make_boxes([(9.0, LEFT, -1)]))


def test_moments_are_at_least_a_stride_apart():
    assert choose_moments(np.array([0.3, 0.3, 0.0, 0.9, 1.0, 1.1, 2.5, 2.9, 3.5]), 1.0) == [0.0, 1.0, 2.5, 3.5]
    assert choose_moments(np.arange(11) * 0.1, 0.3) == pytest.approx([0.0, 0.3, 0.6, 0.9])


class _Bright(PersonDetector):
    """Finds the whole picture, with its mean as the score."""

    def find(self, pictures, *, min_score):
        return [(torch.tensor([[0.0, 0, 1, 1]]), picture.float().mean()[None] / 255) for picture in pictures]


def test_remote_videos_are_kept_on_a_disk(action_dir, trained, serve, tmp_path):
    pytest.importorskip("aiohttp")
    url = f"{serve(action_dir / 'videos').address}/e.mp4"
    cache = FileCache(str(tmp_path / "kept"), 10**8)
    table = find_persons(url, _Bright(None, "bright"), fps=1.0, min_score=0.1, cache=cache)
    (kept,) = list_kept(tmp_path / "kept")
    assert kept.read_bytes() == (action_dir / "videos" / "e.mp4").read_bytes() and len(table) == 5
    predictor = ActionPredictor(trained)
    assert predictor.cache is None
    predictor.cache = FileCache(str(tmp_path / "other"), 10**8)
    predictor.predict(url, make_boxes([(1.0, LEFT, 0)]))
    assert len(list_kept(tmp_path / "other")) == 1


def list_kept(folder):
    """The files of a cache, without its lock."""
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]


def test_persons_are_looked_for_at_regular_moments(action_dir):
    path = str(action_dir / "videos" / "e.mp4")
    table = find_persons(path, _Bright(None, "bright"), fps=4.0, min_score=0.1)
    assert table.time_sec.tolist() == [step / 4 for step in range(20)] and (table.person == -1).all()
    with VideoReader(path) as reader:
        frames = reader.get_frames([0, 2, 5])  # at 0, 0.25 (of frames 2 and 3 the earlier one) and 0.5 s
    assert table.score[:3].tolist() == pytest.approx((frames.float().mean((1, 2, 3)) / 255).tolist())


@pytest.mark.parametrize(("video", "count"), [("/data/a.mp4", 2), ("b", 1)])
def test_a_table_of_several_videos_gives_the_rows_of_one(video, count):
    table = pd.DataFrame({"video": ["a", "a", "b"]})
    assert len(select_video(table, video, "boxes.csv")) == count
    with pytest.raises(ValueError, match="boxes.csv has boxes of 2 videos, such as a, and none of /data/c.mp4"):
        select_video(table, "/data/c.mp4", "boxes.csv")
    assert len(select_video(table[:2], "/data/c.mp4", "boxes.csv")) == 2

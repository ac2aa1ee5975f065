"""Scenes of several things: who does what is seen in its box alone, and the lists are AVA's."""

import json
import math

import av
import numpy as np
import pytest

from hiera_video.cli import make_motion_dataset as tool
from hiera_video.cli import motion_scenes as scenes
from hiera_video.cli.motion_clips import CLASSES, SIZE_AXIS, SIZE_RANGE, TURN_AXIS
from hiera_video.config import load_config
from hiera_video.data.box_lists import build_key_frames, build_truth
from hiera_video.data.box_loaders import build_box_eval_loader
from hiera_video.inspection.boxes import build_box_survey

SMALL = scenes.SceneSettings(train=3, val=2, key_frames=6, size_px=64)
LOG_SIZE_STEP = math.log(SIZE_RANGE[1] / SIZE_RANGE[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "data"
    assert tool.make_dataset(folder, SMALL)
    return folder


def make_cfg(folder, *pairs):
    words = ["TASK", "detect_actions", "DATA.FORMAT", "ava", "DATA.PATH_TO_DATA_DIR", str(folder)]
    words += ["MODEL.NUM_CLASSES", "8", "DATA.TARGET_FPS", "10", "DATA.SAMPLING_RATE", "1", "DATA.NUM_FRAMES", "8"]
    words += ["DATA.TEST_CROP_SIZE", "64", "DATA_LOADER.NUM_WORKERS", "0"]
    return load_config([], [*words, *pairs])


def draw_many(count=300):
    settings = scenes.SceneSettings()
    video = scenes.SceneVideo(0, "train")
    return [scenes.draw_things(settings, video, number) for number in range(count)]


def test_things_stay_in_the_picture_and_apart():
    """At every frame of a scene, whatever they do: squares around two things' reaches never meet."""
    for things in draw_many():
        for frame in range(-5, 6):
            states = [thing.state + frame * thing.velocity for thing in things]
            reaches = [0.9 * scenes._get_reach(state[SIZE_AXIS]) for state in states]
            for i, (state, reach) in enumerate(zip(states, reaches, strict=True)):
                assert (state[:2] - reach >= 0).all() and (state[:2] + reach <= 1).all()
                for other, other_reach in list(zip(states, reaches, strict=True))[i + 1 :]:
                    assert abs(state[:2] - other[:2]).max() >= reach + other_reach


def test_each_thing_has_one_motion():
    for things in draw_many(100):
        for thing in things:
            _, axis, direction = CLASSES[thing.label]
            speed = direction * thing.velocity[axis] * (LOG_SIZE_STEP if axis == SIZE_AXIS else 1)
            low, high = {SIZE_AXIS: (0.03, 0.05), TURN_AXIS: (0.03, 0.06)}.get(axis, (0.010, 0.015))
            assert low <= speed <= high and np.count_nonzero(thing.velocity) == 1


def test_the_key_frame_says_nothing_about_motions():
    """Places, sizes and turns have equal means in all classes; motions of a scene's things are independent."""
    scenes_drawn = draw_many(1500)
    states = np.array([thing.state for things in scenes_drawn for thing in things])
    labels = np.array([thing.label for things in scenes_drawn for thing in things])
    for label in range(8):
        mine = states[labels == label]
        assert abs(len(mine) / len(labels) - 1 / 8) < 0.02
        standard_error = states.std(axis=0) / math.sqrt(len(mine))
        assert (abs(mine.mean(axis=0) - states.mean(axis=0)) < 4.5 * standard_error).all()
    pairs = labels.reshape(-1, 3)
    assert abs((pairs[:, 0] == pairs[:, 1]).mean() - 1 / 8) < 4.5 * math.sqrt(1 / 8 * 7 / 8 / len(pairs))


def test_boxes_hold_their_things():
    """All that is covered at the key frame lies in the boxes."""
    settings, video = scenes.SceneSettings(size_px=96), scenes.SceneVideo(4, "train")
    for number in range(1, 9):
        things = scenes.draw_things(settings, video, number)
        covered = np.zeros((96, 96))
        rng = np.random.default_rng(number)
        for thing in things:
            covered += scenes.sample_mask(scenes.draw_shape(rng), thing.state, size_px=96) > 0.1
        inside = np.zeros((96, 96), dtype=bool)
        for thing in things:
            x1, y1, x2, y2 = (np.array(thing.box) * 96).round().astype(int)
            inside[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1] = True
            assert covered[y1:y2, x1:x2].mean() > 0.3  # a triangle fills a third of its square
        assert not covered[~inside].any()


def test_videos_show_a_scene_around_each_second(folder):
    """The file holds what was drawn: scene k from half a second before its key frame, at k seconds."""
    video = scenes.list_videos(SMALL)[1]
    with av.open(str(folder / "videos" / f"{video.name}.mp4")) as container:
        assert container.streams.video[0].average_rate == 10
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert frames.shape == (65, 64, 64, 3)
    for number in range(1, 7):
        drawn = scenes.render_scene(SMALL, video, number, np.arange(-5, 5))
        assert abs(frames[10 * number - 5 : 10 * number + 5].astype(float) - drawn).mean() < 8
        assert abs(frames[10 * number + 10 - 65].astype(float) - drawn[0]).mean() > 8 or number == 6


def test_the_lists_are_read_as_avas(folder):
    cfg = make_cfg(folder, "AVA.TRAIN_PREDICT_BOX_LISTS", f"['{scenes.FILES['train_persons']}']")
    train = build_key_frames(cfg, "train")
    assert len(train) == 18 and set(train.start_secs) == {900.0} and set(train.times_sec) == set(range(901, 907))
    truth = build_truth(cfg, "test")
    assert len(truth.boxes) == 2 * 6 * 3 and truth.class_names == {k: name for k, (name, _, _) in enumerate(CLASSES)}
    assert truth.excluded and truth.excluded <= set(zip(truth.boxes["video"], truth.boxes["time_sec"], strict=True))
    assert [finding.kind for finding in build_box_survey(cfg, ()).findings if finding.kind != "untrained_class"] == []


def test_predicted_persons_are_near_the_truth(folder):
    """Each true box has one above the threshold that overlaps by more than a half; those of nothing score low."""
    cfg = make_cfg(folder)
    proposals, truth = build_key_frames(cfg, "test"), build_truth(cfg, "test").boxes
    assert len(proposals) == 12 and len(proposals.boxes) == len(truth) == 36
    corners = truth[["x1", "y1", "x2", "y2"]].to_numpy().reshape(12, 3, 4)
    for i in range(12):
        for box, true in zip(proposals.boxes[3 * i : 3 * i + 3], corners[i], strict=True):
            low, high = np.maximum(box[:2], true[:2]), np.minimum(box[2:], true[2:])
            shared = np.prod(high - low)
            areas = [np.prod(corner[2:] - corner[:2]) for corner in (box, true)]
            assert shared / (sum(areas) - shared) > 0.6 and not np.allclose(box, true)
    more = build_key_frames(make_cfg(folder, "AVA.DETECTION_SCORE_THRESH", "0.0"), "test")
    assert len(more.boxes) > 36


def test_a_sample_shows_its_scene(folder):
    loader = build_box_eval_loader(make_cfg(folder, "AVA.TEST_PREDICT_BOX_LISTS", "[]", "TEST.BATCH_SIZE", "1"), "test")
    video, batch = scenes.list_videos(SMALL)[3], next(iter(loader))
    drawn = scenes.render_scene(SMALL, video, 1, np.arange(-4, 4))
    shown = batch["video"][0, 0].permute(1, 2, 3, 0).numpy()
    assert abs(shown.astype(float) - drawn).mean() < 8
    expected = [np.array(thing.box) * 64 for thing in scenes.draw_things(SMALL, video, 1)]
    np.testing.assert_allclose(batch["boxes"][:, 1:], expected, atol=0.01)


def test_the_command(tmp_path, capsys):
    args = ["--task", "ava", "--output-dir", str(tmp_path / "d"), "--train", "1", "--val", "1", "--key-frames", "2"]
    assert tool.main([*args, "--size", "32", "--workers", "1"]) == 0 and "2 clips, made" in capsys.readouterr().out
    assert json.loads((tmp_path / "d" / "dataset.json").read_text())["settings"]["task"] == "ava"
    assert tool.main([*args, "--size", "32", "--workers", "2"]) == 0 and "already there" in capsys.readouterr().out
    assert tool.main([*args, "--size", "48"]) == 2 and "size_px 32 (asked: 48)" in capsys.readouterr().err
    assert (
        tool.main([*args, "--frames", "9"]) == 2 and "--frames does not go with --task ava" in capsys.readouterr().err
    )
    too_many = ["--task", "ava", "--output-dir", str(tmp_path / "e"), "--things", "9"]
    assert tool.main(too_many) == 2 and "--things 9: so many things do not fit" in capsys.readouterr().err

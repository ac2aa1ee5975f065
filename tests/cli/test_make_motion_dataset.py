"""The demo's data set: real files, lists that agree, and no class in a single frame."""

import math
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from hiera_video.cli import make_motion_dataset as tool
from hiera_video.cli import motion_clips as clips
from hiera_video.data.lists import check_video_list, load_kinetics_csv, load_ssv2_json

ROOT = Path(__file__).resolve().parents[2]
SMALL = tool.Settings(train=16, val=8, test=9, size_px=48, frames=10)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A small data set: its folder."""
    folder = tmp_path_factory.mktemp("motion") / "data"
    assert tool.make_dataset(folder, SMALL)
    return folder


def decode(path):
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].average_rate == 30
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def read_all(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_decode(dataset):
    assert len(list((dataset / "videos").iterdir())) == 33
    for path in (dataset / "videos").iterdir():
        assert decode(path).shape == (10, 48, 48, 3)


def test_files_show_what_was_drawn(dataset):
    clip = tool.list_clips(SMALL)[5]
    rng = np.random.default_rng([SMALL.seed, clip.index])
    states = clips.draw_states(rng, label=clip.label, num_frames=10)
    pictures = clips.render_clip(rng, states, size_px=48)
    assert abs(decode(dataset / "videos" / "5.mp4").astype(float) - pictures).mean() < 8


@pytest.mark.parametrize("split", tool.SPLITS)
def test_both_forms_list_the_same_clips(dataset, split):
    kinetics = load_kinetics_csv(
        str(dataset / f"{split}.csv"), path_prefix=str(dataset), class_names=str(dataset / "classnames.json")
    )
    name = tool.SSV2_NAMES[split]
    ssv2 = load_ssv2_json(
        str(dataset / "ssv2" / f"{name}.json"),
        str(dataset / "ssv2" / "labels.json"),
        path_prefix=str(dataset / "videos"),
        suffix=".mp4",
    )
    check_video_list(kinetics, num_classes=8, source=split)
    assert kinetics.paths.tolist() == ssv2.paths.tolist()
    assert all(Path(path).is_file() for path in kinetics.paths)
    assert kinetics.class_names == ssv2.class_names == tuple(name for name, _, _ in clips.CLASSES)
    if split == "test":  # as in Something-Something V2's own test file
        assert set(ssv2.labels.tolist()) == {-1}
    else:
        assert kinetics.labels.tolist() == ssv2.labels.tolist()


def test_splits_are_balanced_and_apart():
    listed = tool.list_clips(tool.Settings())
    assert [clip.index for clip in listed] == list(range(2160))
    for split, count in (("train", 1600), ("val", 160), ("test", 400)):
        labels = [clip.label for clip in listed if clip.split == split]
        assert np.bincount(labels, minlength=8).tolist() == [count // 8] * 8


def test_workers_and_restarts_change_nothing(dataset, tmp_path):
    files = read_all(dataset)
    args = ["--train", "16", "--val", "8", "--test", "9", "--size", "48", "--frames", "10", "--workers", "2"]
    command = [
        sys.executable,
        str(ROOT / "tools/make_motion_dataset.py"),
        "--output-dir",
        str(tmp_path / "data"),
        *args,
    ]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "33 clips, made" in first.stdout
    assert read_all(tmp_path / "data") == files
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "33 clips, already there" in again.stdout


def test_few_labels_are_the_first_of_each_class(tmp_path, monkeypatch):
    for name, value in (("write_video", lambda path, *_, **__: path.touch()), ("FEW_PER_CLASS", 2)):
        monkeypatch.setattr(tool, name, value)
    settings = tool.Settings(**{**vars(SMALL), "train": 24})
    assert tool.make_dataset(tmp_path, settings)
    few = (tmp_path / "few_labels" / "train.csv").read_text().splitlines()
    assert few == (tmp_path / "train.csv").read_text().splitlines()[:16]
    assert sorted(line.split()[1] for line in few) == sorted("01234567" * 2)
    assert (tmp_path / "few_labels" / "test.csv").read_text() == (tmp_path / "test.csv").read_text()
    (tmp_path / "few_labels" / "train.csv").unlink()
    assert not tool.make_dataset(tmp_path, settings)  # a complete data set made before there was this list
    assert (tmp_path / "few_labels" / "train.csv").read_text().splitlines() == few


def test_an_interrupted_data_set_is_completed(dataset, tmp_path):
    folder = tmp_path / "data"
    tool.make_dataset(folder, SMALL)
    (folder / "videos" / "3.mp4").unlink()
    kept = (folder / "videos" / "4.mp4").stat().st_mtime_ns
    assert tool.make_dataset(folder, SMALL)
    assert read_all(folder) == read_all(dataset)
    assert (folder / "videos" / "4.mp4").stat().st_mtime_ns == kept
    assert not tool.make_dataset(folder, SMALL)


def test_another_seed_gives_other_clips(dataset, tmp_path):
    tool.make_dataset(tmp_path, tool.Settings(**{**vars(SMALL), "train": 1, "val": 0, "test": 0, "seed": 1}))
    assert (tmp_path / "videos" / "0.mp4").read_bytes() != (dataset / "videos" / "0.mp4").read_bytes()


def test_a_folder_of_something_else_is_left_alone(dataset, tmp_path, capsys):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ValueError, match="not empty and holds no motion data set"):
        tool.make_dataset(tmp_path, SMALL)
    assert tool.main(["--output-dir", str(dataset), "--seed", "5"]) == 2
    assert "seed 0 (asked: 5)" in capsys.readouterr().err


@pytest.mark.parametrize("label", range(8))
def test_each_class_moves_along_one_axis(label):
    _, axis, direction = clips.CLASSES[label]
    states = clips.draw_states(np.random.default_rng(label), label=label, num_frames=24)
    steps = (np.diff(states, axis=0) + 0.5) % 1.0 - 0.5
    low, high = clips.SPEED_RANGE
    assert (low - 1e-9 <= direction * steps[:, axis]).all() and (direction * steps[:, axis] <= high + 1e-9).all()
    assert np.abs(np.delete(steps, axis, axis=1)).max() < 1e-12


def test_a_single_frame_says_nothing_about_the_class():
    """At each moment the state is uniform for every class: first and second moments around the circle vanish."""
    count = 2000
    for label in range(8):
        rng = np.random.default_rng([99, label])
        states = np.stack([clips.draw_states(rng, label=label, num_frames=24) for _ in range(count)])  # (n, T, 4)
        assert states.min() >= 0 and states.max() < 1
        for harmonic in (1, 2):
            moments = np.exp(2j * np.pi * harmonic * states[:, [0, 11, 23]]).mean(axis=0)
            assert np.abs(moments).max() < 4.5 / math.sqrt(count)
        pairs = np.exp(2j * np.pi * (states[:, 12, :, None] - states[:, 12, None, :])).mean(axis=0)
        assert np.abs(pairs[~np.eye(4, dtype=bool)]).max() < 4.5 / math.sqrt(count)


def measure(mask, state):
    """Covered area, and center of mass (x, y) in [0, 1]; for shapes that do not wrap."""
    covered = clips.sample_mask(mask, np.array(state), size_px=80)
    places = (np.arange(80) + 0.5) / 80
    total = covered.sum()
    return total, (covered.sum(0) * places).sum() / total, (covered.sum(1) * places).sum() / total


def test_states_look_as_their_names_say():
    grid = (np.arange(clips.MASK_PX) + 0.5) / (clips.MASK_PX / 2) - 1
    right_half = ((np.hypot(grid[None], grid[:, None]) < 0.9) & (grid[None] > 0)).astype(np.float32)
    area, x, y = measure(right_half, [0.5, 0.5, 0.0, 0.5])
    assert x > 0.55 and abs(y - 0.5) < 0.01
    assert measure(right_half, [0.6, 0.5, 0.0, 0.5])[1] == pytest.approx(x + 0.1, abs=0.01)  # right
    assert measure(right_half, [0.5, 0.6, 0.0, 0.5])[2] == pytest.approx(y + 0.1, abs=0.01)  # down
    assert measure(right_half, [0.5, 0.5, 0.0, 0.8])[0] > 1.5 * area  # grown
    _, x, y = measure(right_half, [0.5, 0.5, 0.25, 0.5])  # a quarter clockwise: the right side is now below
    assert y > 0.55 and abs(x - 0.5) < 0.01


def test_shapes_wrap_around_the_picture():
    mask = clips.draw_shape(np.random.default_rng(0))
    middle = clips.sample_mask(mask, np.array([0.5, 0.5, 0.1, 0.9]), size_px=80)
    corner = clips.sample_mask(mask, np.array([0.0, 0.0, 0.1, 0.9]), size_px=80)
    np.testing.assert_allclose(np.roll(middle, (40, 40), (0, 1)), corner, atol=0.2)


def test_shapes_show_small_turns():
    """Between two frames that a model sees, a shape turns by up to 0.06 of a circle: less than any symmetry of it."""
    for seed in range(40):
        mask = clips.draw_shape(np.random.default_rng(seed))
        upright = clips.sample_mask(mask, np.array([0.5, 0.5, 0.0, 1.0]), size_px=80)
        for turn in (0.03, 0.06, -0.03, -0.06):
            turned = clips.sample_mask(mask, np.array([0.5, 0.5, turn, 1.0]), size_px=80)
            assert np.abs(turned - upright).sum() > 0.1 * upright.sum()

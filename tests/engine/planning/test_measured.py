"""Rates come from files that were measured for the same model, counts of videos from where they are known."""

import pytest
import simplejson

from hiera_video.engine.planning.measured import count_videos, read_measured

OWN = {"model_name": "hiera_base_16x224", "num_frames": 16, "crop_size_px": 224, "precision": "bf16"}
BENCH = {
    "format": 1,
    "machine": {"gpu": "1 x H100"},
    "model": {"name": "hiera_base_16x224", "num_frames": 16, "crop_size": 224, "precision": "bf16", "device": "cuda"},
    "data": {"clips_per_sec_per_core": 14.0, "num_videos_sampled": 50, "bytes_per_video": 2.5e6},
}
BENCH["model"] |= {"clips_per_sec_train": 80.5, "batch_size": 8}


def read(tmp_path, content):
    path = tmp_path / "bench.json"
    path.write_text(content if isinstance(content, str) else simplejson.dumps(content))
    return read_measured(str(path), **OWN)


def test_rates_of_a_bench(tmp_path):
    measured = read(tmp_path, BENCH)
    assert (measured.gpu_clips_per_sec, measured.clips_per_sec_per_core) == (80.5, 14.0)
    assert measured.bytes_per_video == 2.5e6
    assert "1 x H100" in measured.notes[0] and "50 videos" in measured.notes[1]


def test_a_cpu_tells_nothing_of_a_gpu(tmp_path):
    measured = read(tmp_path, {**BENCH, "model": {**BENCH["model"], "device": "cpu"}})
    assert measured.gpu_clips_per_sec is None and measured.clips_per_sec_per_core == 14.0
    assert "no clips/s of a GPU" in measured.notes[0]


def test_a_bench_without_data(tmp_path):
    measured = read(tmp_path, {**BENCH, "data": None})
    assert measured.gpu_clips_per_sec == 80.5 and measured.clips_per_sec_per_core is None


def test_the_forecast_of_a_check(tmp_path):
    measured = read(tmp_path, {"forecast": {"clips_per_sec": 12.5}, "num_videos": 3})
    assert measured.clips_per_sec_per_core == 12.5 and measured.gpu_clips_per_sec is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ({"something": 1}, "neither `model` nor `forecast`"),
        ([1], "neither `model` nor `forecast`"),
        ({"forecast": None}, "made no forecast"),
        ({**BENCH, "model": {**BENCH["model"], "name": "hiera_tiny_224"}}, "name is hiera_tiny_224, and hiera_base"),
        ({**BENCH, "model": {**BENCH["model"], "precision": "fp32"}}, "precision is fp32, and bf16 in the plan"),
        ({**BENCH, "data": {"clips_per_sec_per_core": 0}}, "clips_per_sec_per_core is 0; a number above 0"),
        ({**BENCH, "data": {"clips_per_sec_per_core": "x"}}, "clips_per_sec_per_core is 'x'"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, content)


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match="--bench nowhere.json"):
        read_measured("nowhere.json", **OWN)


def test_where_counts_of_videos_come_from(make_cfg, tmp_path):
    recipes = ["configs/Kinetics/HIERA_H_16x4_MAE_3200.yaml"]
    assert count_videos(make_cfg(), cfg_files=recipes, num_videos=7) == (7, "--num-videos")
    number, source = count_videos(make_cfg(), cfg_files=recipes, num_videos=None)
    assert number == 240_436 and source.startswith("assumed to be Kinetics-400: ")
    (tmp_path / "train.csv").write_text("a.mp4 0\nb.mp4 1\nc.mp4 1\n")
    cfg = make_cfg(**{"DATA.PATH_TO_DATA_DIR": str(tmp_path)})
    assert count_videos(cfg, cfg_files=recipes, num_videos=None) == (3, str(tmp_path / "train.csv"))
    with pytest.raises(ValueError, match="give --num-videos N, or DATA.PATH_TO_DATA_DIR"):
        count_videos(make_cfg(), cfg_files=["my.yaml"], num_videos=None)


@pytest.mark.parametrize(
    ("folder", "number"),
    [("Kinetics600", 383_393), ("Kinetics700", 542_357), ("SSv2", 168_913), ("ImageNet", 1_281_167)],
)
def test_data_sets_of_recipes(make_cfg, folder, number):
    assert count_videos(make_cfg(), cfg_files=[f"{folder}/X.yaml"], num_videos=None)[0] == number

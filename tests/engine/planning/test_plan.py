"""The plan of a small run: a checkpoint has the size of a real file, and advice that is taken makes the run fit."""

import pytest
import torch

from hiera_video.engine.checkpoint import save_checkpoint
from hiera_video.engine.planning.measured import Measured
from hiera_video.engine.planning.plan import complete_config, make_plan
from hiera_video.engine.training.classify import build_classification
from hiera_video.engine.training.state import build_state, make_content

OPTIONS = {"num_gpus": 2, "gpu_memory_bytes": 80e9, "margin": 0.1, "num_videos": 1000, "videos_source": "test"}


def plan(cfg, **options):
    return make_plan(cfg, **{**OPTIONS, "measured": Measured(), **options})


@pytest.mark.parametrize("more", [{}, {"SOLVER.EMA_DECAY": "0.9"}, {"SOLVER.OPTIMIZING_METHOD": "sgd"}], ids=str)
def test_a_checkpoint_has_the_size_of_the_file(make_cfg, tmp_path, more):
    cfg = make_cfg(**{"HIERA.EMBED_DIM": "96", **more})
    model, _ = build_classification(cfg)
    state = build_state(cfg, model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()
    save_checkpoint(tmp_path / "file.pyth", make_content(cfg, state, num_videos=1000, class_names=None))
    each = plan(cfg)["checkpoints"]["bytes_each"]
    assert each == pytest.approx((tmp_path / "file.pyth").stat().st_size, rel=0.01)


def test_numbers_of_a_run_by_hand(make_cfg):
    cfg = make_cfg(**{"TRAIN.BATCH_SIZE": "8", "SOLVER.MAX_EPOCH": "36"})
    rates = Measured(gpu_clips_per_sec=5.0, clips_per_sec_per_core=3.0, bytes_per_video=2e6)
    result = plan(cfg, measured=rates, gpu_tflops=100.0)
    assert (result["run"]["steps_per_epoch"], result["run"]["clips"]) == (125, 36_000)
    time = result["time"]
    assert (time["hours"], time["gpu_hours"], time["clips_per_sec"]) == (1.0, 2.0, 10.0)
    assert (time["cores_per_gpu"], time["cores"]) == (2, 4)
    assert (time["videos_bytes"], time["read_bytes_per_sec"]) == (2e9, 2e7)
    flops = result["flops"]
    per_clip = flops["forward_per_clip"] + flops["backward_per_clip"]
    assert (flops["per_step"], flops["of_run"]) == (8 * per_clip, 36_000 * per_clip)
    assert flops["mfu"] == pytest.approx(5 * per_clip / 100e12)
    parts = result["memory"]["parts"]
    assert sum(parts.values()) == result["memory"]["setting"]["peak_bytes"]
    assert result["memory"]["fits"] and not result["changes"]


def test_without_measurements_hours_and_cores_are_not_made_up(make_cfg):
    time = plan(make_cfg())["time"]
    assert all(time[name] is None for name in ("hours", "gpu_hours", "clips_per_sec", "cores", "cores_per_gpu"))
    clips = 125 * 100 * 8
    assert time["gpu_hours_at_100_clips_per_sec"] == pytest.approx(clips / 100 / 3600)


def test_advice_that_is_taken_makes_it_fit(make_cfg):
    options = {"TRAIN.BATCH_SIZE": "64"}
    small = {"gpu_memory_bytes": 1.05 * plan(make_cfg(**options))["memory"]["setting"]["peak_bytes"] / 2, "margin": 0.0}
    result = plan(make_cfg(**options), **small)
    assert not result["memory"]["fits"] and result["changes"]
    taken = [change for change in result["changes"] if "TRAIN.SHARDING" not in change["keys"]]
    assert taken
    for change in taken[:2]:
        again = plan(make_cfg(**options, **{key: str(value) for key, value in change["keys"].items()}), **small)
        assert again["memory"]["fits"]
        assert again["memory"]["setting"]["peak_bytes"] <= change["peak_bytes"]


def test_a_batch_that_cannot_be_divided_gets_the_nearest_that_can(make_cfg):
    result = plan(make_cfg(**{"TRAIN.BATCH_SIZE": "8"}), num_gpus=3)
    assert result["memory"]["setting"] is None and not result["memory"]["fits"]
    assert {change["keys"]["TRAIN.BATCH_SIZE"] for change in result["changes"]} == {6, 9}


def test_mixing_needs_pairs_of_videos(make_cfg):
    mixing = {"MIXUP.ENABLE": "True", "TRAIN.BATCH_SIZE": "8"}
    assert plan(make_cfg(**mixing), num_gpus=4)["memory"]["setting"]["clips"] == 2
    assert plan(make_cfg(**mixing), num_gpus=8)["memory"]["setting"] is None


def test_a_sweep_has_a_row_for_each_number_and_sharding(make_cfg):
    rows = plan(make_cfg(), num_gpus=4, sweep=True, measured=Measured(gpu_clips_per_sec=10.0))["sweep"]
    assert [row["gpus"] for row in rows] == [1, *(gpus for gpus in (4, 8, 16, 32, 64) for _ in range(3))]
    by_gpus = {row["gpus"]: row for row in rows}
    assert by_gpus[1]["hours"] == 8 * by_gpus[8]["hours"]
    assert by_gpus[8]["setting"]["clips"] == 1 and not by_gpus[16]["divides"]


def test_configs_are_checked_as_a_run_would(make_cfg):
    with pytest.raises(ValueError, match="TRAIN.BATCH_SIZE = 9 clips must be a multiple"):
        make_cfg(**{"TRAIN.BATCH_SIZE": "9", "TRAIN.GRAD_ACCUM_STEPS": "2"})
    with pytest.raises(ValueError, match="pretrain takes a mae_hiera_"):
        make_cfg(**{"TASK": "pretrain"})
    assert complete_config(make_cfg()).DATA.PATH_TO_DATA_DIR == ""

"""Any batch is foreseen from two looks at a step; what fits is what a look at the step itself finds to fit."""

import pytest

from hiera_video.engine.planning.fit import MemoryModel, list_passes, list_settings

PLAIN = {"sharding": "none", "num_gpus": 2, "checkpointing": False}


def test_passes_have_whole_videos():
    assert list_passes(512, num_gpus=64, unit_clips=4) == [1, 2]
    assert list_passes(48, num_gpus=2, unit_clips=2) == [1, 2, 3, 4, 6, 12]
    assert list_passes(512, num_gpus=256, unit_clips=4) == []


def test_what_is_foreseen_is_what_a_look_finds(make_cfg):
    memory = MemoryModel(make_cfg(**{"TRAIN.PRECISION": "bf16"}), 2)
    for clips in (6, 10, 48):
        foreseen = memory.compute_peak(clips, **PLAIN)
        real = memory.measure(clips, checkpointing=False).peak
        assert 0.99 * real <= foreseen <= 1.03 * real  # 48 are more than were looked at
        assert memory.compute_peak(clips, **PLAIN) == memory.measure(clips, checkpointing=False).peak
    one = memory.measure(2, checkpointing=False)
    held = memory.compute_held("none", 2)
    assert held.total - held.gathered == pytest.approx(one.states, rel=1e-3)
    # The step keeps a copy in 16 bits of each weight of a product.
    assert held.gathered < one.activations


def test_the_largest_pass_fits_and_one_more_does_not(make_cfg):
    memory = MemoryModel(make_cfg(), 2)
    budget = memory.compute_peak(8, **PLAIN) + 1000
    largest = memory.find_largest_pass(budget, **PLAIN)
    assert largest == 8
    assert memory.measure(8, checkpointing=False).peak <= budget < memory.measure(10, checkpointing=False).peak
    assert memory.find_largest_pass(1000, **PLAIN) == 0


def test_settings_are_the_fewest_passes_that_fit(make_cfg):
    memory = MemoryModel(make_cfg(), 1)
    budget = memory.compute_peak(4, **PLAIN)
    settings = [*list_settings(memory, batch_clips=32, num_gpus=2, budget_bytes=budget)]
    plain = settings[0]
    assert (plain.sharding, plain.checkpointing, plain.passes, plain.clips) == ("none", False, 4, 4)
    assert [(s.sharding, s.checkpointing) for s in settings] == [
        (sharding, again) for sharding in ("none", "zero2", "zero3") for again in (False, True)
    ]
    assert all(setting.peak_bytes <= budget for setting in settings)
    assert settings[1].passes < plain.passes  # blocks that are computed again leave room for more clips
    assert not [*list_settings(memory, batch_clips=32, num_gpus=2, budget_bytes=1000)]

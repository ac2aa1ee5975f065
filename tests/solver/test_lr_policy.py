"""Learning rates against values computed by hand."""

import math

import pytest

from hiera_video.config import load_config
from hiera_video.solver.lr_policy import build_lr_policy, compute_lr_factor


def policy(*pairs):
    words = [str(word) for word in pairs]
    return build_lr_policy(load_config([], ["DATA.PATH_TO_DATA_DIR", "/d", *words]))


def test_cosine_after_warmup():
    lr = policy(
        "SOLVER.BASE_LR",
        1.0,
        "SOLVER.COSINE_END_LR",
        0.2,
        "SOLVER.MAX_EPOCH",
        30,
        "SOLVER.WARMUP_EPOCHS",
        10,
        "SOLVER.WARMUP_START_LR",
        0.1,
    )
    assert lr(0) == pytest.approx(0.1)
    assert lr(2.5) == pytest.approx(0.1 + 0.9 / 4)
    assert lr(10) == pytest.approx(1.0)
    assert lr(15) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert lr(20) == pytest.approx(0.6)
    assert lr(30) == pytest.approx(0.2)


def test_steps_change_at_their_epoch():
    lr = policy(
        "SOLVER.LR_POLICY",
        "steps_with_relative_lrs",
        "SOLVER.BASE_LR",
        2.0,
        "SOLVER.STEPS",
        "[0, 4, 6]",
        "SOLVER.LRS",
        "[1, 0.1, 0.01]",
        "SOLVER.MAX_EPOCH",
        8,
        "SOLVER.WARMUP_EPOCHS",
        0,
    )
    assert [lr(epoch) for epoch in (0, 3.99, 4, 5.5, 6, 7.99)] == pytest.approx([2, 2, 0.2, 0.2, 0.02, 0.02])


def test_no_warmup_starts_at_the_base():
    assert policy("SOLVER.BASE_LR", 0.3, "SOLVER.WARMUP_EPOCHS", 0)(0) == pytest.approx(0.3)


def test_batch_scaling_is_linear_and_can_be_off():
    assert compute_lr_factor(batch_size=64, reference_batch_size=256) == 0.25
    assert compute_lr_factor(batch_size=64, reference_batch_size=0) == 1.0
    scaled = policy("SOLVER.BASE_LR", 0.8, "TRAIN.BATCH_SIZE", 64, "SOLVER.BASE_LR_SCALE_BATCH", 256)
    assert scaled(10) == pytest.approx(0.2)
    assert scaled(0) == pytest.approx(1e-6 / 4)

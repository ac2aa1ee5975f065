"""A step without content takes what a real one takes, and counts the operations that fvcore counts."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_words import to_words

from hiera_video.config import load_config
from hiera_video.engine.planning.step import count_step_flops, measure_step
from hiera_video.models.build import build_model_from_cfg
from hiera_video.models.flops import compute_flops, count_parameters

TESTS = Path(__file__).resolve().parents[2]


def build_shapes(cfg):
    with torch.device("meta"):
        return build_model_from_cfg(cfg, crop_size=cfg.DATA.TRAIN_CROP_SIZE)


@pytest.mark.parametrize(
    ("on_gpu", "precision", "more"),
    [
        (False, "fp32", {}),
        (False, "bf16", {"mae": True}),
        (True, "bf16", {"MODEL.ACT_CHECKPOINT": "True"}),
        (True, "bf16", {"mae": True}),
    ],
    ids=str,
)
def test_fake_tensors_take_what_real_ones_take(make_cfg, more, precision, on_gpu):
    cfg = make_cfg(**{"TRAIN.PRECISION": precision, "MODEL.DROP_PATH_RATE": "0.2", "SOLVER.EMA_DECAY": "0.9", **more})
    fake, real = (measure_step(cfg, num_clips=2, on_gpu=on_gpu, fake=fake) for fake in (True, False))
    assert fake.states == real.states
    # In bf16, kernels of CPUs keep some hundred bytes beside.
    assert fake.activations == pytest.approx(real.activations, rel=2e-3) and fake.activations > 0
    assert fake.peak == pytest.approx(real.peak, rel=2e-3)


def test_states_are_counted_by_hand(make_cfg):
    cfg = make_cfg(**{"SOLVER.EMA_DECAY": "0.99"})
    bytes_of_weights = 4 * count_parameters(build_shapes(cfg))
    step = measure_step(cfg, num_clips=2)
    assert step.weights == step.gradients == step.average == bytes_of_weights
    num_tensors = len([*build_shapes(cfg).parameters()])
    assert step.optimizer == 2 * bytes_of_weights + 4 * num_tensors  # two moments, and the number of steps
    assert step.states == 5 * bytes_of_weights + 4 * num_tensors
    assert step.peak == step.states + step.input + step.activations + step.temporary
    sgd = measure_step(make_cfg(**{"SOLVER.OPTIMIZING_METHOD": "sgd"}), num_clips=2)
    assert (sgd.optimizer, sgd.average) == (bytes_of_weights, 0)


def test_frozen_stages_have_neither_gradients_nor_moments(make_cfg):
    cfg = make_cfg(**{"MODEL.FREEZE_STAGES": "2"})
    learned = [parameter for parameter in build_shapes(cfg).parameters() if parameter.requires_grad]
    bytes_of_learned = 4 * sum(parameter.numel() for parameter in learned)
    step = measure_step(cfg, num_clips=2)
    assert step.gradients == bytes_of_learned < step.weights
    assert step.optimizer == 2 * bytes_of_learned + 4 * len(learned)


def test_clips_are_kept_in_fp32_by_the_patch_embedding(make_cfg):
    assert measure_step(make_cfg(), num_clips=2).input == 2 * 3 * 4 * 64 * 64 * 4
    assert measure_step(make_cfg(**{"TRAIN.PRECISION": "bf16"}), num_clips=2).input == 0  # which has a copy in 16 bits


def test_activations_grow_with_clips_and_shrink_with_what_is_meant_to_shrink_them(make_cfg):
    def measure(num_clips=4, **options):
        return measure_step(make_cfg(**options), num_clips=num_clips)

    two, four, eight = (measure(n) for n in (2, 4, 8))
    assert two.states == eight.states
    assert eight.of_clips - four.of_clips == 2 * (four.of_clips - two.of_clips)
    assert measure(**{"MODEL.ACT_CHECKPOINT": "True"}).activations < 0.3 * four.activations
    halves = measure(**{"TRAIN.PRECISION": "bf16"})
    assert 0.4 * four.activations < halves.activations < 0.9 * four.activations
    few, many = (measure(**{"mae": True, "MAE.MASK_RATIO": ratio}).activations for ratio in ("0.75", "0.25"))
    assert few < many


def test_gradients_that_are_not_kept_come_while_activations_go(make_cfg):
    cfg = make_cfg()
    kept, fresh = (measure_step(cfg, num_clips=2, keeps_gradients=keeps) for keeps in (True, False))
    assert fresh.peak <= kept.peak and fresh.gradients <= kept.gradients
    assert kept.gradients == kept.weights


def test_forward_operations_are_those_that_fvcore_counts(make_cfg):
    cfg = make_cfg(**{"HIERA.EMBED_DIM": "96"})
    forward, backward = count_step_flops(cfg)
    multiply_adds = compute_flops(build_shapes(cfg), torch.empty(1, 3, 4, 64, 64, device="meta"))
    assert forward / 2 == pytest.approx(multiply_adds, rel=0.01)  # fvcore also counts norms
    patches = (2 * 16 * 16) * 96 * (3 * 3 * 7 * 7)  # of the clip itself no gradient is needed
    assert backward / 2 == pytest.approx(2 * multiply_adds - patches, rel=0.01)


def test_operations_of_the_papers_model():
    """The paper's table 2: 102 G multiply-adds."""
    forward, _ = count_step_flops(load_config([], ["DATA.PATH_TO_DATA_DIR", "x"]))
    assert forward / 2e9 == pytest.approx(102, abs=0.6)


def test_operations_that_are_done_again_are_those_of_the_blocks(make_cfg):
    cfg = make_cfg(**{"MODEL.ACT_CHECKPOINT": "True"})
    forward, backward = count_step_flops(cfg)
    assert (forward, backward) == count_step_flops(make_cfg())
    again = count_step_flops(cfg, recompute=True)
    assert again[0] == forward and 0.5 * forward < again[1] - backward < forward


def test_few_visible_units_cost_little(make_cfg):
    few, many = (count_step_flops(make_cfg(mae=True, **{"MAE.MASK_RATIO": ratio}))[0] for ratio in ("0.75", "0.25"))
    assert few < many


@pytest.mark.parametrize("task", ["detect", "detect_actions"])
def test_other_tasks_are_refused(task):
    cfg = load_config([], ["TASK", task], is_complete=False)
    with pytest.raises(ValueError, match=f"TASK = {task}: a plan can be made for classify and pretrain"):
        measure_step(cfg, num_clips=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "pairs"),
    [
        (2, {"MODEL.MODEL_NAME": "hiera_tiny_16x224"}),
        (2, {"MODEL.MODEL_NAME": "mae_hiera_tiny_16x224", "TASK": "pretrain"}),
        (8, {"MODEL.MODEL_NAME": "hiera_tiny_224", "DATA.NUM_FRAMES": "1"}),
    ],
    ids=lambda value: value if isinstance(value, int) else value["MODEL.MODEL_NAME"],
)
def test_the_peak_is_that_of_a_real_process(batch, pairs):
    """The memory of a fresh process grows by what was foreseen, within 15 %.

    The C library is told to give freed blocks back: by default it keeps many, up to a fifth of the peak here.
    """
    if sys.platform != "linux":
        pytest.skip("peaks are read from /proc")
    words = to_words({"DATA.PATH_TO_DATA_DIR": "x", **pairs})
    foreseen = measure_step(load_config([], words), num_clips=batch, on_gpu=False, keeps_gradients=False).peak
    env = {"PYTHONPATH": f"{TESTS.parent}:{TESTS}", "MALLOC_MMAP_THRESHOLD_": "65536", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, str(TESTS / "real_step.py"), str(batch), *words]
    child = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    assert foreseen == pytest.approx(int(child.stdout.split()[-1]), rel=0.15)

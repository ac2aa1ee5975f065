"""How exactly a process computes is what the config says, and the log says it at the start."""

from pathlib import Path

import pytest
import torch

from hiera_video.engine.arithmetic import describe_start, set_arithmetic
from hiera_video.engine.launch import launch


@pytest.fixture(autouse=True)
def same_arithmetic_afterwards():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before[1:]


@pytest.mark.parametrize(("precision", "allows_tf32"), [("highest", False), ("high", True), ("medium", True)])
def test_one_key_decides_about_products_and_convolutions(make_cfg, precision, allows_tf32):
    torch.backends.cudnn.allow_tf32 = not allows_tf32
    set_arithmetic(make_cfg({"MODEL.MATMUL_PRECISION": precision}))
    assert torch.get_float32_matmul_precision() == precision
    assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == allows_tf32


@pytest.mark.parametrize("benchmark", [False, True])
def test_cudnn_chooses_by_time_when_asked(make_cfg, benchmark):
    torch.backends.cudnn.benchmark = not benchmark
    set_arithmetic(make_cfg({"CUDNN.BENCHMARK": benchmark}))
    assert torch.backends.cudnn.benchmark == benchmark


def test_only_keys_of_enabled_jobs_are_named(make_cfg):
    text = describe_start(make_cfg({"TRAIN.ENABLE": False, "EXTRACT.ENABLE": True, "EXTRACT.PRECISION": "bf16"}))
    assert "EXTRACT.PRECISION bf16" in text and "TRAIN.PRECISION" not in text and "SOLVER.FUSED" not in text
    assert f"torch {torch.__version__.partition('+')[0]}" in text


def test_a_start_sets_it_before_the_job_and_says_it_once(make_cfg):
    cfg, found = make_cfg({"MODEL.MATMUL_PRECISION": "high", "SOLVER.FUSED": False}), []
    launch([lambda _: found.append(torch.get_float32_matmul_precision())] * 2, cfg)
    log = (Path(cfg.OUTPUT_DIR) / "stdout.log").read_text()
    assert found == ["high", "high"]
    for words in ("1 x cpu", "MODEL.MATMUL_PRECISION high", "SOLVER.FUSED False", "CUDNN.BENCHMARK False"):
        assert log.count(words) == 1, words

"""Divided models against DistributedDataParallel in two processes, and the bytes that are left in each."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sharded_steps import CASES, NUM_PARTS, NUM_STEPS, build

from hiera_video.models.build import build_model
from hiera_video.models.sharding import compute_sharded_bytes, shard_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def compared():
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    finished = subprocess.run([*words, "tests/sharded_steps.py"], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr
    assert "returned a view tensor" not in finished.stderr
    return json.loads(finished.stdout)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("title", CASES)
def test_two_processes_give_the_losses_of_data_parallel_training(compared, title):
    """With frozen weights, layer-wise decay, accumulation, clipping, a moving average; recomputed and in bf16."""
    result = compared[title]
    assert len(result["expected"]) == NUM_STEPS * (NUM_PARTS + 1)
    assert result["expected"][0] == result["found"][0], "the first forward pass is the same to the last bit"
    assert result["expected"] == pytest.approx(result["found"], rel=2e-6)
    assert len(set(result["expected"])) == len(result["expected"])
    assert result["difference"] < 1e-5, "of the largest weight, and of the average's"
    assert result["gathered_is_the_same"]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("title", CASES)
def test_bytes_are_those_that_a_process_holds(compared, title):
    name, sharding, precision, more = CASES[title]
    computed = compute_sharded_bytes(
        build(name, more), sharding=sharding, num_processes=2, precision=precision, has_average=True
    )
    found = compared[title]["bytes"]
    assert found == {key: getattr(computed, key) for key in found}
    whole = sum(parameter.numel() for parameter in build(name, more).parameters()) * 4
    assert 0.5 < found["parameters"] / whole < 0.55, "odd numbers of rows cost a little"


def test_bytes_by_hand():
    """Three rows of four values and a bias of three over two processes: two rows in the first."""
    layer = torch.nn.Linear(4, 3)
    found = compute_sharded_bytes(layer, sharding="zero3", num_processes=2, num_moments=1, has_average=True)
    piece = (2 * 4 + 2) * 4
    assert (found.parameters, found.gradients, found.moments, found.average) == (piece,) * 4
    assert found.gathered == 15 * 4 and found.in_flight == 15 * 8
    whole = compute_sharded_bytes(layer, sharding="none", num_processes=2, precision="bf16")
    assert whole.total == 15 * (4 + 4 + 8) + 15 * 2, "autocast keeps a copy in 16 bits"
    alone = compute_sharded_bytes(layer, sharding="zero3", num_processes=1)
    assert alone == compute_sharded_bytes(layer, sharding="none", num_processes=1)


def test_bytes_of_the_largest_model_without_its_weights():
    """The table of docs/scaling.md, in GiB."""
    with torch.device("meta"):
        model = build_model("mae_hiera_huge_16x224")
    assert sum(parameter.numel() for parameter in model.parameters()) == 710_861_568
    totals = {
        (num, sharding): compute_sharded_bytes(model, sharding=sharding, num_processes=num, precision="bf16").total
        for num in (8, 64)
        for sharding in ("none", "zero2", "zero3")
    }
    assert {key: round(total / 2**30, 1) for key, total in totals.items()} == {
        (8, "none"): 11.9,
        (8, "zero2"): 3.0,
        (8, "zero3"): 1.9,
        (64, "none"): 11.9,
        (64, "zero2"): 1.9,
        (64, "zero3"): 0.7,
    }


@pytest.mark.parametrize(("sharding", "precision", "named"), [("zero1", "fp32", "zero1"), ("zero3", "fp16", "fp16")])
def test_what_is_not_known_is_named(sharding, precision, named):
    with pytest.raises(ValueError, match=named):
        shard_model(torch.nn.Linear(2, 2), sharding=sharding, precision=precision)

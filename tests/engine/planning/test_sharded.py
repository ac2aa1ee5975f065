"""What a process holds, counted by hand."""

import pytest
import torch
from torch import nn

from hiera_video.engine.planning.sharded import compute_sharded_bytes
from hiera_video.models.build import build_model
from hiera_video.models.flops import count_parameters


def build_tiny():
    with torch.device("meta"):
        return build_model("hiera_tiny_16x224", num_classes=400)


def test_one_process_holds_everything():
    model = build_tiny()
    whole = 4 * count_parameters(model)
    for sharding in ("none", "zero2", "zero3"):
        held = compute_sharded_bytes(model, sharding=sharding, num_processes=1)
        assert (held.parameters, held.gradients, held.moments) == (whole, whole, 2 * whole)
        assert (held.average, held.gathered, held.in_flight) == (0, 0, 0)


def test_pieces_are_rows_of_the_first_process():
    model = nn.Linear(3, 10)
    held = compute_sharded_bytes(model, sharding="zero2", num_processes=4, num_moments=1, has_average=True)
    piece = (3 * 3 + 3) * 4  # 3 of 10 rows of the weight, 3 of 10 values of the bias
    assert (held.parameters, held.gradients, held.moments, held.average) == (piece, piece, piece, piece)
    assert held.gathered == (3 * 10 + 10) * 4


def test_more_sharding_and_more_processes_take_less():
    model = build_tiny()
    totals = [
        compute_sharded_bytes(model, sharding=sharding, num_processes=num, precision="bf16").total
        for sharding, num in (("none", 8), ("zero2", 8), ("zero2", 64), ("zero3", 64))
    ]
    assert totals == sorted(totals, reverse=True)
    products = sum(m.weight.numel() + m.bias.numel() for m in model.modules() if isinstance(m, nn.Linear | nn.Conv3d))
    assert compute_sharded_bytes(model, sharding="none", num_processes=8, precision="bf16").gathered == 2 * products


def test_another_sharding_is_refused():
    with pytest.raises(ValueError, match="sharding must be one of none, zero2, zero3, got 'zero1'"):
        compute_sharded_bytes(nn.Linear(2, 2), sharding="zero1", num_processes=2)

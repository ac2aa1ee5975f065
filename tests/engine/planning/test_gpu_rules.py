"""Under the rules, a CPU's autocast gives the types that CUDA's gives: torch itself tells them, on fake tensors."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from hiera_video.engine.planning.gpu_rules import GpuRules

OPERATIONS = {
    "linear": lambda x: F.linear(x, x),
    "matmul": lambda x: x @ x,
    "gelu": F.gelu,
    "layer_norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "softmax": lambda x: x.softmax(dim=-1),
    "square": lambda x: x**2,
    "pow": lambda x: torch.pow(x, 3),
    "exp": torch.exp,
    "log": torch.log,
    "sum": torch.sum,
    "mean": lambda x: x.mean(dim=-1),
    "max": lambda x: x.max(dim=-1).values,
    "add": lambda x: x + x.float(),
    "mse": lambda x: F.mse_loss(x, x),
    "cross_entropy": lambda x: F.cross_entropy(x, x),
    "dropout": lambda x: F.dropout(x, 0.5),
    "cat": lambda x: torch.cat([x, x.float()]),
}


def compute_dtype(run, device, dtype):
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    try:  # `torch.autocast` refuses cuda where there is no GPU
        torch.set_autocast_enabled(device, True)
        torch.set_autocast_dtype(device, torch.bfloat16)
        return run(torch.empty(8, 8, dtype=dtype, device=device)).dtype
    finally:
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_types_are_those_of_cuda(name, dtype):
    with FakeTensorMode():
        on_cuda = compute_dtype(OPERATIONS[name], "cuda", dtype)
        with GpuRules():
            assert compute_dtype(OPERATIONS[name], "cpu", dtype) == on_cuda


def test_the_rules_are_needed():
    with FakeTensorMode():
        assert compute_dtype(OPERATIONS["layer_norm"], "cpu", torch.bfloat16) == torch.bfloat16


def test_tensors_do_not_say_that_they_are_on_a_cpu():
    x = torch.zeros(2)
    with GpuRules():
        assert not x.is_cpu
    assert x.is_cpu

"""Each storage counts once, for as long as a tensor of it lives; fake tensors count like real ones."""

import contextlib

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hiera_video.utils.memory_tracker import MemoryTracker

MB = 1_000_000
MODES = pytest.mark.parametrize("mode", [contextlib.nullcontext, FakeTensorMode], ids=["real", "fake"])


@MODES
def test_views_cost_nothing_and_what_is_gone_no_longer_counts(mode):
    with mode(), MemoryTracker() as tracker:
        x = torch.zeros(1000, 250)
        assert tracker.current_bytes == MB
        view = x.view(-1)[5:]
        x.mul_(2)
        assert tracker.current_bytes == MB
        y = x + 1
        assert tracker.current_bytes == 2 * MB
        del x, y
        assert (tracker.current_bytes, tracker.peak_bytes) == (MB, 2 * MB)  # the view holds its storage
        tracker.reset_peak()
        assert tracker.peak_bytes == MB
        del view
        assert tracker.current_bytes == 0


@MODES
def test_what_a_graph_keeps_for_the_backward_pass_counts(mode):
    with mode(), MemoryTracker() as tracker:
        x = torch.zeros(1000, 250, requires_grad=True)
        y = x.exp().sin().sum()  # exp keeps its output, sin its input, which is the same tensor
        assert tracker.current_bytes == 2 * MB + 4
        y.backward()
        assert tracker.current_bytes == 2 * MB + 4  # the gradient has come, what was kept has gone
        assert 3 * MB <= tracker.peak_bytes <= 4 * MB + 8


def test_tensors_from_before_can_be_counted():
    x = torch.zeros(1000, 250)
    with MemoryTracker() as tracker:
        tracker.count([x, x[1:]])
        assert tracker.current_bytes == MB
        several = torch.split(x, 10)  # a tuple of views
        both = torch.max(x, dim=0)  # values and indices
        assert tracker.current_bytes == MB + 250 * (4 + 8)
        del x, several, both
    assert tracker.current_bytes == 0

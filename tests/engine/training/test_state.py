"""The moving average of the weights."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from waiting import NoWaiting, WaitsForDevice

from hiera_video.engine.training.state import MovingAverage


def make_torchs_own(model, decay):
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def test_the_average_is_that_of_torch():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=True))
    del model[1].num_batches_tracked  # an integer, of which nobody keeps an average
    ours, reference = MovingAverage(model, 0.75), make_torchs_own(model, 0.75)
    for _ in range(4):
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.data.normal_()
        ours.update_parameters(model)
        reference.update_parameters(model)
        for (name, a), b in zip(ours.state_dict().items(), reference.state_dict().values(), strict=True):
            assert torch.equal(a, b), name
    assert ours.n_averaged == 4


def test_updates_do_not_wait_for_the_device():
    with torch.device("meta"):
        model = nn.Linear(3, 4)
        ours, reference = MovingAverage(model, 0.75), make_torchs_own(model, 0.75)
    with NoWaiting():
        for _ in range(2):
            ours.update_parameters(model)
        with pytest.raises(WaitsForDevice):
            reference.update_parameters(model)

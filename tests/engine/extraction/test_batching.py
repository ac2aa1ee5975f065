"""Batches are full whatever the videos, and every chunk gets the features of its own views, in order."""

from itertools import chain

import numpy as np
import pytest
import torch

from hiera_video.engine.extraction.batching import ModelBatches
from hiera_video.engine.extraction.timing import WorkTimes
from hiera_video.streams.chunk import Chunk, Failure


class Model:
    """The feature of a view is its first value; remembers the sizes of the batches."""

    def __init__(self):
        self.sizes = []

    def __call__(self, views):
        self.sizes.append(len(views))
        return views[:, 0, 0, 0, :1].double()


def make_chunks(sizes):
    """Chunks of one video each, whose views have the values 0, 1, 2, ...; 0 views stand for a failure."""
    first = 0
    for index, size in enumerate(sizes):
        values = torch.arange(first, first + size, dtype=torch.uint8)
        views = values.view(-1, 1, 1, 1, 1).expand(-1, 3, 2, 2, 2)
        if size:
            yield Chunk(index, 5, size, 0, views, np.full((size, 2), index), index % 2 == 0, (index, index + 0.5))
        else:
            yield Failure(index, 5, "damaged")
        first += size


def run(batches, sizes):
    """What each chunk, and the end, makes leave."""
    return [*(list(batches.add(chunk)) for chunk in make_chunks(sizes)), list(batches.finish())]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 7, 100])
@pytest.mark.parametrize("sizes", [[3, 1, 5, 2], [4, 4], [9], [1, 0, 2, 0, 0, 4], [0], []])
def test_every_chunk_gets_its_features_in_order(sizes, batch_size):
    model, times = Model(), WorkTimes()
    found = list(chain.from_iterable(run(ModelBatches(model, batch_size=batch_size, times=times), sizes)))
    full, rest = divmod(sum(sizes), batch_size)
    assert model.sizes == [batch_size] * full + [rest] * (rest > 0)
    first = 0
    assert [item.index for item in found] == list(range(len(sizes)))
    for item, size in zip(found, sizes, strict=True):
        assert item.attempt == 5
        if size == 0:
            assert item == Failure(item.index, 5, "damaged")
            continue
        assert item.features.flatten().tolist() == list(range(first, first + size))
        assert item.features.dtype == torch.float32 and item.is_last == (item.index % 2 == 0)
        assert (item.spans_sec == item.index).all() and len(item.spans_sec) == size
        first += size
    assert times.summarize(1)["views_per_sec_per_process"] == sum(sizes)


def get_indices(leaving):
    return [[item.index for item in items] for items in leaving]


def test_chunks_leave_as_soon_as_their_features_are_ready():
    batches = ModelBatches(Model(), batch_size=4, times=WorkTimes())
    assert get_indices(run(batches, [3, 0, 2, 4])) == [[], [], [0, 1], [2], [3]]


def test_times_of_decoding_are_noted():
    times = WorkTimes()
    run(ModelBatches(Model(), batch_size=4, times=times), [1, 1, 0, 1])
    assert times.summarize(10)["decoder_busy_percent"] == 15.0  # nobody knows it of a process that died


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_one_batch_is_under_way():
    batches = ModelBatches(lambda views: views.cuda()[:, 0, 0, 0, :1].float(), batch_size=2, times=WorkTimes())
    assert get_indices(run(batches, [2, 2, 2])) == [[], [0], [1], [2]]

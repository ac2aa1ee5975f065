"""Neighbors of each row among the others, against a plain loop."""

import numpy as np
import pytest
import torch

from hiera_video.embeddings.probes import neighbors as module
from hiera_video.embeddings.probes.neighbors import find_neighbors, weigh_votes


@pytest.mark.parametrize("chunk", [2**24, 45])
def test_each_row_has_the_most_similar_others(chunk, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(15, 4))).float()
    cosines, found = find_neighbors(rows, 3)
    for number in range(15):
        similar = torch.nn.functional.cosine_similarity(rows[number], rows)
        wanted = sorted((other for other in range(15) if other != number), key=lambda other: -similar[other])[:3]
        assert found[number].tolist() == wanted
        torch.testing.assert_close(cosines[number], similar[wanted])


def test_of_equal_rows_the_earlier_comes_first_and_few_rows_have_few_neighbors():
    cosines, found = find_neighbors(torch.ones(4, 2), 20)
    assert found.tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    torch.testing.assert_close(cosines, torch.ones(4, 3))


def test_votes_are_shares():
    targets = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    shares = weigh_votes(torch.tensor([[1.0, 0.5]]), targets, temperature=0.5)
    torch.testing.assert_close(shares, torch.tensor([[1.0, np.exp(-1)]], dtype=torch.float64) / (1 + np.exp(-1)))

"""What attention over a video's windows makes of a frozen model's embeddings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from hiera_video.embeddings.probes.labeled import LabeledVideos, compute_scaling
from hiera_video.utils.rng import seeded

WEIGHT_DECAYS = (0.1, 10.0)
NUM_EPOCHS = 20
_LEARNING_RATE = 1e-3
_MAX_BATCH = 128


class AttentiveProbe(nn.Module):
    """One learned query attends to the windows of a video; a linear layer tells the class from what it saw.

    Args:
        mean: (D,), taken off each window.
        std: (D,), each window is divided by it, before layer normalization.
        num_classes: K.

    Follows: attentive probing as in V-JEPA (arXiv 2404.08471, section 4), with multi-head cross-attention alone.
    Differs: as there is one query, the keys' projection is part of the query, one vector of D values for each head; and
        the output projection is part of the linear layer. Neither changes what the probe can learn, and the cost of a
        window falls from D * D to heads * D.
    """

    def __init__(self, mean: torch.Tensor, std: torch.Tensor, *, num_classes: int) -> None:
        super().__init__()
        dim = len(mean)
        most = max(dim // 64, min(dim, 4))
        self.num_heads = max(heads for heads in range(1, most + 1) if dim % heads == 0)
        self.mean, self.std = nn.Buffer(mean), nn.Buffer(std)
        self.query = nn.Parameter(torch.randn(self.num_heads, dim) / math.sqrt(dim))
        self.value = nn.Linear(dim, dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, windows: torch.Tensor, is_window: torch.Tensor) -> torch.Tensor:
        """Windows (B, W, D) and bool (B, W), True where there is one -> logits (B, K)."""
        dim = windows.shape[-1]
        tokens = nn.functional.layer_norm((windows - self.mean) / self.std, (dim,))
        scores = (tokens @ self.query.T).masked_fill(~is_window[:, :, None], -torch.inf)  # (B, W, heads)
        seen = scores.softmax(dim=1).transpose(1, 2) @ tokens  # (B, heads, D)
        weight = self.value.weight.view(self.num_heads, dim // self.num_heads, dim)  # (D, D) -> (heads, d, D)
        values = torch.einsum("bhi,hoi->bho", seen, weight).flatten(1) + self.value.bias  # (B, heads, d) -> (B, D)
        return self.head(values)


@dataclass(frozen=True)
class AttentiveResult:
    """Classes int64 (m,) of the test videos, and what was chosen."""

    predicted: torch.Tensor
    weight_decay: float
    num_epochs: int


def classify_attentive(
    train: LabeledVideos,
    test: LabeledVideos,
    *,
    num_classes: int,
    held_out: torch.Tensor,
    seed: int,
) -> AttentiveResult:
    """Trains an `AttentiveProbe` with AdamW and lets it classify.

    Args:
        train: its labels are in [0, num_classes).
        test: it takes no part in any choice; its labels are not read.
        num_classes: K.
        held_out: bool (n,): training videos by which weight decay and the number of epochs are chosen (most hits; of
            equal ones the lowest loss), after training on the others. Then all are trained on, in the same way. Where
            it is all False, the first of `WEIGHT_DECAYS` and all epochs are taken.
        seed: of the first weights and of the order of the videos. Global generators keep their state.
    """
    weight_decay, num_epochs = WEIGHT_DECAYS[0], NUM_EPOCHS
    options = {"num_classes": num_classes, "seed": seed}
    if held_out.any():
        rows = held_out.nonzero()[:, 0]
        tried = {}
        for decay in WEIGHT_DECAYS:
            for epoch, probe in enumerate(_train(train, (~held_out).nonzero()[:, 0], decay, **options), start=1):
                tried[decay, epoch] = _judge(_compute_logits(probe, train, rows), train.labels[rows])
        weight_decay, num_epochs = max(tried, key=tried.__getitem__)
    trained = _train(train, torch.arange(len(train)), weight_decay, **options)
    probe = next(probe for epoch, probe in enumerate(trained, start=1) if epoch == num_epochs)
    predicted = _compute_logits(probe, test, torch.arange(len(test))).argmax(dim=1)
    return AttentiveResult(predicted, weight_decay, num_epochs)


def _train(
    videos: LabeledVideos,
    rows: torch.Tensor,
    weight_decay: float,
    *,
    num_classes: int,
    seed: int,
) -> Iterator[AttentiveProbe]:
    """The probe after each epoch. The learning rate falls along a cosine to 0 after the last."""
    is_used = torch.zeros(len(videos), dtype=torch.bool).index_fill(0, rows, True)
    with seeded(seed):
        scaling = compute_scaling(videos.windows[is_used.repeat_interleave(videos.counts)])
        probe = AttentiveProbe(*scaling, num_classes=num_classes)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=_LEARNING_RATE, weight_decay=weight_decay)
    order = torch.Generator().manual_seed(seed)
    batch_size = min(max(len(rows) // 16, 4), _MAX_BATCH)  # few videos: small batches, so that there are enough steps
    num_batches = math.ceil(len(rows) / batch_size)
    for epoch in range(NUM_EPOCHS):
        shuffled = rows[torch.randperm(len(rows), generator=order)]
        for i, batch in enumerate(shuffled.split(batch_size)):
            progress = (epoch + i / num_batches) / NUM_EPOCHS
            optimizer.param_groups[0]["lr"] = _LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * progress))
            logits = probe(*videos.pad(batch))
            loss = nn.functional.cross_entropy(logits, videos.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield probe


@torch.no_grad()
def _compute_logits(probe: AttentiveProbe, videos: LabeledVideos, rows: torch.Tensor) -> torch.Tensor:
    return torch.cat([probe(*videos.pad(batch)) for batch in rows.split(_MAX_BATCH)])


def _judge(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Share of hits, and loss with the sign turned."""
    hits = (logits.argmax(dim=1) == labels).double().mean().item()
    return hits, -nn.functional.cross_entropy(logits, labels).item()

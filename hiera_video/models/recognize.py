"""Which model a file's weights are of, read off their names and shapes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from hiera_video.models.variants import SIZES


@dataclass(frozen=True)
class Recognized:
    """What names and shapes tell of a model.

    Attributes:
        embed_dim: width of the first stage.
        stages: blocks of each stage.
        is_video: whether its patches have a side in time.
        is_mae: whether it has the decoder of pre-training.
        num_classes: of its head; None without one.
        name: of the model in `build.model_names`; empty where the size is none of these.
    """

    embed_dim: int
    stages: tuple[int, ...]
    is_video: bool
    is_mae: bool
    num_classes: int | None
    name: str

    def __str__(self) -> str:
        kind = f"{'an MAE' if self.is_mae else 'a Hiera'} for {'videos' if self.is_video else 'images'}"
        size = self.name or f"{kind} with embed_dim {self.embed_dim}, stages {self.stages}"
        return size + (f" with {self.num_classes} classes" if self.num_classes else "")


def recognize(weights: Mapping[str, Tensor]) -> Recognized | None:
    """The model that weights under our names are of; None where they are no Hiera's."""
    patch = weights.get("patch_embed.proj.weight")
    depth = 1 + max((int(name.split(".")[1]) for name in weights if name.startswith("blocks.")), default=-1)
    if patch is None or not depth:
        return None
    starts = [0, *(block for block in range(1, depth) if f"blocks.{block}.proj.weight" in weights), depth]
    stages = tuple(end - start for start, end in itertools.pairwise(starts))
    embed_dim, is_video, is_mae = len(patch), patch.ndim == 5, "mask_token" in weights
    head = weights.get("head.projection.weight")
    size = next((k for k, v in SIZES.items() if (v["embed_dim"], v["stages"]) == (embed_dim, stages)), "")
    name = f"{'mae_' if is_mae else ''}hiera_{size}_{'16x224' if is_video else '224'}" if size else ""
    return Recognized(embed_dim, stages, is_video, is_mae, None if head is None else len(head), name)


def describe_weights(weights: Mapping[str, Tensor]) -> str:
    """What weights seem to be, for messages."""
    found = recognize(weights)
    return str(found) if found else f"no Hiera: it has {', '.join(list(weights)[:5])} ..."


def find_input_size(weights: Mapping[str, Tensor], found: Recognized) -> tuple[int, ...] | None:
    """(T, H, W) in frames and px, or (H, W), of square inputs with the usual patches; None where the tables do not say.

    A table in two parts fits any size: it says nothing.
    """
    table = weights.get("pos_embed_spatial" if found.is_video else "pos_embed")
    if table is None or math.isqrt(table.shape[1]) ** 2 != table.shape[1]:
        return None
    side = 4 * math.isqrt(table.shape[1])
    return (2 * weights["pos_embed_temporal"].shape[1], side, side) if found.is_video else (side, side)

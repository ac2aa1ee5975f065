"""Stages that training leaves as they are."""

from __future__ import annotations

from torch import nn

from hiera_video.models.encoder import HieraEncoder


def freeze_stages(model: HieraEncoder, count: int) -> None:
    """Freezes the embeddings and the first ``count`` stages: they are not trained, and drop no paths.

    No gradient is computed below the first layer that is trained, so that less memory and time are needed.

    Args:
        model: changed in place.
        count: 0 (nothing is frozen) to the number of stages (the whole encoder but the last norm).

    Raises:
        ValueError: there are fewer stages.
    """
    if not 0 <= count <= len(model.stage_ends):
        raise ValueError(f"{count} stages cannot be frozen; legal are 0 to {len(model.stage_ends)}")
    if count == 0:
        return
    frozen = list(model.blocks[: model.stage_ends[count - 1] + 1])
    for block in frozen:
        block.drop_path = nn.Identity()
    embeddings = [model.get_parameter(name) for name in model.pos_embed_grids]
    modules = [model.patch_embed, *frozen]
    for parameter in [*embeddings, *(parameter for module in modules for parameter in module.parameters())]:
        parameter.requires_grad = False

"""How a run whose model is divided over the processes takes up a checkpoint, be that one file or a folder of pieces."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from hiera_video.engine.checkpoint import SHARDED_SUFFIX
from hiera_video.engine.sharded_checkpoint import read_pieces
from hiera_video.engine.training.state import TrainState
from hiera_video.models.checkpoint_file import CheckpointFile
from hiera_video.utils.distributed import broadcast_tree, is_main_process
from hiera_video.utils.trees import map_tensors


def share_outline(file: CheckpointFile | None) -> CheckpointFile | None:
    """The main process's file in all of them; of tensors other than single numbers the others get the shapes alone."""
    outline = [
        None if file is None else map_tensors(vars(file), lambda tensor: tensor.to("meta") if tensor.ndim else tensor)
    ]
    dist.broadcast_object_list(outline)
    if is_main_process():
        return file
    return None if outline[0] is None else CheckpointFile(**outline[0])


def divide_file(file: CheckpointFile, state: TrainState) -> CheckpointFile:
    """A checkpoint whose tensors are divided as those of ``state`` are; all processes call it together.

    Of a folder each process reads its own pieces. The tensors of one file travel one by one from the main process.

    Args:
        file: from `share_outline`.
        state: of a run that has not begun.

    Raises:
        ValueError: not all processes can read the folder.
    """
    parameters = dict(state.model.named_parameters())
    is_folder = file.source.endswith(SHARDED_SUFFIX)
    pieces: dict[str, torch.Tensor] = {}

    def take(name: str, value: Any, parameter_name: str) -> Any:
        if not isinstance(value, torch.Tensor) or not value.ndim:
            return value
        parameter: Any = parameters.get(parameter_name)
        if parameter is None:
            return broadcast_tree(value)  # a buffer
        if is_folder:
            pieces[name] = torch.empty_like(parameter.detach(), dtype=value.dtype)
            return pieces[name]
        return _distribute(value, parameter)

    def take_all(key: str, values: dict[str, torch.Tensor]) -> dict[str, Any]:
        return {name: take(f"{key}.{name}", value, name) for name, value in values.items()}

    training = dict(file.training)
    weights = take_all("model_state", file.weights)
    if "trained_model_state" in training:
        training["trained_model_state"] = take_all("trained_model_state", training["trained_model_state"])
    stored = training["optimizer_state"]
    names = {
        number: name
        for group in stored["param_groups"]
        for name, number in zip(group["names"], group["params"], strict=True)
    }
    moments = {
        number: {key: take(f"optimizer_state.state.{number}.{key}", value, names[number]) for key, value in own.items()}
        for number, own in stored["state"].items()
    }
    training["optimizer_state"] = {**stored, "state": moments}
    if is_folder:
        read_pieces(file.source, pieces)
    return replace(file, weights=weights, training=training)


def _distribute(value: torch.Tensor, parameter: Any) -> torch.Tensor:
    """The main process's tensor, divided as a parameter is; the others give only its shape."""
    from torch.distributed.tensor import distribute_tensor

    device = parameter.device
    whole = value.to(device) if is_main_process() else torch.empty(value.shape, dtype=value.dtype, device=device)
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements)

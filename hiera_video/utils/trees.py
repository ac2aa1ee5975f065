"""Tensors inside dicts, lists and tuples: what states of models and optimizers are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch


def map_tensors(value: Any, function: Callable[[torch.Tensor], Any]) -> Any:
    """The same tree with ``function(tensor)`` for each tensor, called in the order of the tree; the rest stays."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: map_tensors(part, function) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(part, function) for part in value)
    return value


def map_named_tensors(value: Any, function: Callable[[str, torch.Tensor], Any], name: str = "") -> Any:
    """As `map_tensors`, by ``function(name, tensor)``: the keys and positions that lead to it, joined by dots."""
    if isinstance(value, torch.Tensor):
        return function(name, value)
    before = f"{name}." if name else ""
    if isinstance(value, dict):
        return {key: map_named_tensors(part, function, f"{before}{key}") for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_named_tensors(part, function, f"{before}{i}") for i, part in enumerate(value))
    return value


def copy_to_cpu(value: Any) -> Any:
    """The same tree with a copy of each tensor in the memory of the CPU; nothing changes it afterwards."""
    return map_tensors(value, lambda tensor: tensor.detach().to("cpu", copy=True))


def compute_tree_digest(value: Any) -> str:
    """SHA-256 over all keys, numbers, texts, and the bytes of all tensors, as 64 hexadecimal digits."""
    digest = hashlib.sha256()

    def add(tensor: torch.Tensor) -> str:
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(content.numpy().data)
        return f"{tensor.dtype} {tuple(tensor.shape)}"

    digest.update(repr(map_tensors(value, add)).encode())
    return digest.hexdigest()

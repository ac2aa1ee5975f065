"""Named parts of a step, which a profiler shows. Without a profiler they cost less than a microsecond."""

from __future__ import annotations

import contextlib

import torch

_NOTHING = contextlib.nullcontext()


def named_range(name: str) -> contextlib.AbstractContextManager:
    """In this block a running profiler of torch notes the time under ``name``."""
    return torch.profiler.record_function(name) if torch._C._autograd._profiler_enabled() else _NOTHING

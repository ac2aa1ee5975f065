"""Counts the memory of tensors while code runs, on real tensors or on fake ones, which have sizes and no content."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hiera_video.utils.trees import map_tensors


class MemoryTracker(TorchDispatchMode):
    """Knows, while it is entered, how many bytes of tensors live, and how many did at most.

    What an operator gives is counted once for each storage, so that views cost nothing, until the last tensor of it is
    gone. Space that a kernel takes for itself and gives back before it ends is not seen.

    Attributes:
        current_bytes: what lives now.
        peak_bytes: the most that lived at once since the start, or since `reset_peak`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current_bytes = 0
        self.peak_bytes = 0
        self._living: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operator and counts what it gives."""
        result = func(*args, **(kwargs or {}))
        found: list[Tensor] = []
        map_tensors(result, found.append)
        self.count(found)
        return result

    def count(self, tensors: Iterable[Tensor]) -> None:
        """Counts tensors, also those that were made before the tracker was entered."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if id(storage) not in self._living:
                num_bytes = storage.nbytes()
                self._living[id(storage)] = weakref.ref(storage, self._make_farewell(id(storage), num_bytes))
                self.current_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.current_bytes)

    def reset_peak(self) -> None:
        """Starts to look for the peak anew, from what lives now."""
        self.peak_bytes = self.current_bytes

    def _make_farewell(self, key: int, num_bytes: int) -> Callable[[weakref.ref], None]:
        def forget(_: weakref.ref) -> None:
            del self._living[key]
            self.current_bytes -= num_bytes

        return forget

"""Finds where Python waits for a device, without one: the meta device stands for the GPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# The shapes of their results depend on values.
_LOOKS_AT_VALUES = {
    aten._local_scalar_dense,
    aten.equal,
    aten.is_nonzero,
    aten.nonzero,
    aten.masked_select,
    aten._unique,
    aten._unique2,
    aten.unique_consecutive,
    aten.unique_dim,
    aten.bincount,
}


class WaitsForDevice(AssertionError):
    """Python would have waited for the device here."""


class NoWaiting(TorchDispatchMode):
    """In this block whatever would wait for a GPU raises `WaitsForDevice`: values that Python looks at, copies to the
    CPU, copies to the device that are not non_blocking, tensors made of Python's numbers on the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = func.overloadpacket
        tensors = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if any(x.is_meta for x in tensors):
            has_bool_index = packet in (aten.index, aten.index_put, aten.index_put_) and any(
                x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]
            )
            if packet in _LOOKS_AT_VALUES or packet is aten.lift_fresh or has_bool_index:
                raise WaitsForDevice(str(func))
            if packet is aten.repeat_interleave and kwargs.get("output_size") is None:
                raise WaitsForDevice(str(func))
        if packet is aten._to_copy:
            self._check_copy(args[0].device, kwargs.get("device") or args[0].device, kwargs.get("non_blocking"))
        if packet is aten.copy_:
            self._check_copy(args[1].device, args[0].device, kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
        return func(*args, **kwargs)

    def _check_copy(self, source, target, non_blocking):
        source, target = torch.device(source), torch.device(target)
        if source.type != target.type and (target.type == "cpu" or not non_blocking):
            raise WaitsForDevice(f"a copy from {source} to {target}")

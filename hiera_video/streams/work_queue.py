"""Who does what: processes, on one machine or on several, draw videos from one queue and report their results to it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import simplejson
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch does not list it among its exports
from torch.utils.data import get_worker_info

from hiera_video.utils.distributed import all_gather_objects, get_rank, get_world_size, is_initialized, is_main_process

_TIMEOUT = timedelta(minutes=5)
_FOREVER = timedelta(days=365)  # a process may still be at a video of many hours when the others have finished


class WorkQueue:
    """Positions in a list; each is given out once, to the process that asks next. `open` makes one.

    The processes share counters in a `TCPStore`. The main process serves it for as long as it holds its queue. A copy
    that another process gets connects by itself: a connection from before a fork must not be shared.

    Args:
        order: int64 (n,), what to give out, in this order. The longest work belongs first: then no process has a long
            piece left when the others have finished.
        host: where the store is.
        port: of the store.
        redo: positions to give out before ``order``; they are divided among the processes of one data loader.
    """

    def __init__(self, order: np.ndarray, *, host: str, port: int, redo: Sequence[int] = ()) -> None:
        self.order, self.host, self.port, self.redo = order, host, port, redo
        self._store: TCPStore | None = None

    @classmethod
    def open(cls, order: np.ndarray) -> WorkQueue:
        """A queue that all processes of the group share. All must call this; the order of the main process counts."""
        host = os.environ.get("MASTER_ADDR", "127.0.0.1") if is_initialized() else "127.0.0.1"
        server = TCPStore(host, 0, is_master=True, wait_for_workers=False) if is_main_process() else None
        queue: WorkQueue = all_gather_objects(cls(order, host=host, port=server.port) if server else None)[0]
        queue._store = server or queue._connect()
        return queue

    def copy(self, *, redo: Sequence[int] = ()) -> WorkQueue:
        """The same queue for other processes, which first do what is left in ``redo``."""
        return WorkQueue(self.order, host=self.host, port=self.port, redo=redo)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_store": None}

    def __iter__(self) -> Iterator[int]:
        info = get_worker_info()
        number, count = (info.id, info.num_workers) if info else (0, 1)
        yield from self.redo[number::count]
        store = self._connect()
        while (drawn := store.add("drawn", 1) - 1) < len(self.order):
            yield int(self.order[drawn])

    def count_ended(self, count: int) -> int:
        """Adds to the number of videos that this process has ended; gives the number of all processes together."""
        return int(self._get_store().add("ended", count))

    def gather_results(self, result: Any) -> list[Any]:
        """Hands in this process's result, made of JSON's types; the main process waits for all and gets them by rank.

        The other processes do not wait, and get an empty list.
        """
        store = self._get_store()
        store.set(f"result/{get_rank()}", simplejson.dumps(result))
        if not is_main_process():
            return []
        keys = [f"result/{rank}" for rank in range(get_world_size())]
        store.wait(keys, _FOREVER)
        return [simplejson.loads(store.get(key)) for key in keys]

    def _get_store(self) -> TCPStore:
        self._store = self._store or self._connect()
        return self._store

    def _connect(self) -> TCPStore:
        return TCPStore(self.host, self.port, is_master=False, timeout=_TIMEOUT)


def order_by_size(sizes_bytes: Sequence[int | None]) -> np.ndarray:
    """Positions, the largest files first: what takes long begins early, so that no process is left with it at the end.

    Files of unknown size keep their order, behind the others.
    """
    sizes = np.array([-1 if size is None else size for size in sizes_bytes], dtype=np.int64)
    return np.argsort(-sizes, kind="stable")

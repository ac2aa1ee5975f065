"""What each decoding process is at, and since when: written by the processes, read by the one that started them."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import wait
from typing import Any

import torch
from torch.utils.data import get_worker_info

NOTHING = -1
_DYING_SEC = 1.0  # a process ends within this time after its connection has
# What people and clusters send, often to all processes of a job. A video does not make a decoder die of these.
_FROM_OUTSIDE = frozenset(-number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1))
_TIMED_OUT = "DataLoader timed out"  # how torch's message begins


class Board:
    """Shared memory with one line for each process of a data loader.

    Args:
        num_workers: processes; with none, this process has the one line.
    """

    def __init__(self, num_workers: int) -> None:
        self.positions = torch.full((max(num_workers, 1),), NOTHING, dtype=torch.int64).share_memory_()
        self._since = torch.zeros(max(num_workers, 1), dtype=torch.float64).share_memory_()

    def clear(self) -> None:
        """Says that nobody is at anything, as before processes start."""
        self.positions.fill_(NOTHING)

    def enter(self, position: int) -> None:
        """This process begins a piece of work on the video at ``position`` of the list."""
        worker = _get_number()
        self._since[worker] = time.monotonic()  # one clock for all processes of a machine
        self.positions[worker] = position

    def leave(self) -> None:
        """This process has ended its piece of work."""
        self.positions[_get_number()] = NOTHING

    def find_busy(self, at_least_sec: float = 0.0) -> dict[int, tuple[int, float]]:
        """Process -> (position, seconds since it began), for those that are at something for so long."""
        now = time.monotonic()
        lines = enumerate(zip(self.positions.tolist(), self._since.tolist(), strict=True))
        busy = {worker: (position, now - since) for worker, (position, since) in lines if position != NOTHING}
        return {worker: line for worker, line in busy.items() if line[1] >= at_least_sec}


def _get_number() -> int:
    info = get_worker_info()
    return info.id if info else 0


def is_timeout(error: Exception) -> bool:
    """Whether torch's data loader only says that nothing has come within its time."""
    return isinstance(error, RuntimeError) and str(error).startswith(_TIMED_OUT)


def find_dead(iterator: Any) -> dict[int, str]:
    """Process -> how it ended, for the processes of a torch data loader's iterator that have died.

    The text is empty where it was ended from outside: then what it was at is not to blame.
    """
    workers = getattr(iterator, "_workers", ())
    ending = wait([worker.sentinel for worker in workers], timeout=_DYING_SEC)
    for worker in workers:
        if worker.sentinel in ending:
            worker.join(_DYING_SEC)  # it has an exit code only after this
    codes = {number: worker.exitcode for number, worker in enumerate(workers) if worker.exitcode}
    return {number: "" if code in _FROM_OUTSIDE else describe_exit(code) for number, code in codes.items()}


def describe_exit(exit_code: int) -> str:
    """How a process ended, as the end of a sentence about it."""
    if exit_code > 0:
        return f"ended with status {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Keeps the death of a decoding process from interrupting what this process is doing; the loader notices it itself.

    torch's loader installs a signal handler that raises in the main thread, wherever that happens to be.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)

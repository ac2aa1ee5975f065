"""The process that starts the others of this machine, and ends when they have ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from hiera_video.utils.interrupt import EXIT_START_AGAIN, Interrupted, get_stop_reason

_POLL_SEC = 0.5
_GRACE_SEC = 40.0  # in which the others end by themselves after one has failed


class ProcessFailed(RuntimeError):
    """A process that this one started has failed."""


def run_processes(function: Callable[..., None], num_processes: int, args: tuple[Any, ...]) -> None:
    """Runs ``function(number, *args)`` in ``num_processes`` new processes, and passes requests to stop on to them.

    Raises:
        ProcessFailed: one of them failed; the others have ended too.
        Interrupted: they were asked to stop, and did.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_run_one, args=(folder, number, function, args)) for number in range(num_processes)
        ]
        for process in processes:
            process.start()
        try:
            _wait(processes)
        finally:
            for process in processes:
                process.kill()
                process.join()
        statuses = [process.exitcode or 0 for process in processes]
        messages = [_read(Path(folder) / str(number)) for number in range(num_processes)]
    failed = [number for number, status in enumerate(statuses) if status not in (0, EXIT_START_AGAIN)]
    if failed:
        # The others say what came first; a process that was killed from outside says nothing.
        said = next((messages[number] for number in failed if messages[number]), "")
        killed = [f"process {number} ended by signal {-statuses[number]}" for number in failed if statuses[number] < 0]
        raise ProcessFailed("; ".join([*killed, *([said] if said else [])]) or f"process {failed[0]} failed")
    if EXIT_START_AGAIN in statuses:
        raise Interrupted(next(filter(None, messages), f"stopped by {get_stop_reason()}"))


def _wait(processes: list[Any]) -> None:
    """Returns when all have ended, or when some have failed and the others do not end in time."""
    is_passed_on, deadline = False, float("inf")
    while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
        wait([process.sentinel for process in processes if process.is_alive()], timeout=_POLL_SEC)
        if get_stop_reason() and not is_passed_on:
            is_passed_on = True
            for process in processes:
                process.terminate()
        is_failed = any(process.exitcode not in (None, 0, EXIT_START_AGAIN) for process in processes)
        if is_failed and deadline == float("inf"):
            deadline = time.monotonic() + _GRACE_SEC


def _run_one(folder: str, number: int, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # until the job listens: Ctrl-C reaches the whole group of processes
    try:
        function(number, *args)
    except Interrupted as stop:
        (Path(folder) / str(number)).write_text(str(stop))
        raise
    except BaseException as error:
        (Path(folder) / str(number)).write_text(f"{type(error).__name__}: {error}")
        raise
    sys.stdout.flush()


def _read(path: Path) -> str:
    return path.read_text() if os.path.exists(path) else ""

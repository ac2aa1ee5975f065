"""Applies a function to many paths in several processes, and survives the death of any of these."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from hiera_video.utils.logging import get_logger

Item = TypeVar("Item")
_POLL_SEC = 1.0


class WorkFailedError(Exception):
    """A process gave no result for a path; ``status`` is "crashed" or "stuck"."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def map_paths(
    function: Callable[[Item], Any], paths: Iterable[Item], *, num_workers: int, timeout_sec: float
) -> Iterator[tuple[Item, Any]]:
    """Yields (path, result) pairs as they become ready.

    If the process that works on a path dies or takes longer than ``timeout_sec``, the result is a `WorkFailedError`.
    The other processes go on, and a new one takes its place.

    Args:
        function: stands at the top level of a module, or is a ``functools.partial`` of such a function. It should
            return errors instead of raising them.
        paths: what to apply it to: paths, or whatever else, but None, says what to do with one; it must pickle.
        num_workers: number of processes.
        timeout_sec: time limit for one path.

    Raises:
        RuntimeError: no process can be started.
    """
    # Forking this process is unsafe, as it may have threads. All workers share what the fork server imports first.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__, "hiera_video.inspection.inspect_video"])
    todo = iter(paths)
    workers = [_Worker(context, function) for _ in range(num_workers)]
    try:
        busy = [worker for worker in workers if worker.start_next(todo)]
        while busy:
            ready = wait([worker.connection for worker in busy], timeout=_POLL_SEC)
            for worker in list(busy):
                if worker.connection in ready:
                    yield worker.take_result()
                elif worker.is_late(timeout_sec):
                    yield worker.give_up(timeout_sec)
                else:
                    continue
                if not worker.start_next(todo):
                    busy.remove(worker)
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that works on one path at a time."""

    def __init__(self, context: Any, function: Callable[[Any], Any]) -> None:
        self._context, self._function = context, function
        self._path: Any = None
        self._started = 0.0
        self._start_process()

    def start_next(self, todo: Iterator[Any]) -> bool:
        """Hands the process the next path; False if there is none."""
        path = next(todo, None)
        if path is None:
            return False
        if not self._process.is_alive():
            self.stop()
            self._start_process()
        self._wait_for_start()
        self._path, self._started = path, time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # the process has died; take_result says so
            self.connection.send(path)
        return True

    def take_result(self) -> tuple[Any, Any]:
        """What the process sent, or how it died."""
        try:
            return self._path, self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            return self._path, WorkFailedError("crashed", _describe_exit(self._process.exitcode))

    def is_late(self, timeout_sec: float) -> bool:
        return time.monotonic() - self._started > timeout_sec

    def give_up(self, timeout_sec: float) -> tuple[Any, Any]:
        """Kills the process, which has taken too long."""
        self.stop()
        return self._path, WorkFailedError("stuck", f"not done after {timeout_sec:g} s")

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()

    def _start_process(self) -> None:
        self.connection, remote = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(remote, self._function), daemon=True)
        self._process.start()
        self._is_ready = False
        remote.close()  # so that reading from the pipe ends when the process does

    def _wait_for_start(self) -> None:
        """Waits for the imports. Neither the seconds that they take nor their failure is the first path's fault."""
        if self._is_ready:
            return
        try:
            self._is_ready = self.connection.recv()
        except (EOFError, ConnectionResetError) as error:
            self._process.join()
            raise RuntimeError(f"no process can be started: {_describe_exit(self._process.exitcode)}") from error


def _serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    get_logger("hiera_video").setLevel(logging.ERROR)  # the result of a video says what is wrong with it
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # to all processes of a job: the parent handles them
        signal.signal(number, signal.SIG_IGN)
    connection.send(True)
    while True:
        try:
            path = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        result = function(path)
        try:
            connection.send(result)
        except BrokenPipeError:  # the parent has been killed meanwhile
            return


def _describe_exit(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"its process ended with status {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"its process was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")

"""Requests to stop: the first signal asks a job to keep what it has and to end, a second one ends it at once."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType

EXIT_START_AGAIN = 75  # "temporary failure" in sysexits.h: the same command, started again, goes on
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# Ctrl-C reaches a launcher and its processes, and the launcher passes it on: that is still one request.
_SAME_REQUEST_SEC = 2.0


class Interrupted(SystemExit):
    """A job ended because it was asked to, and can be started again; the exit status is `EXIT_START_AGAIN`."""

    def __init__(self, message: str) -> None:
        super().__init__(EXIT_START_AGAIN)
        self.message = message

    def __str__(self) -> str:
        return self.message


class _Request:
    """What this process was asked to do, and by which signal."""

    def __init__(self) -> None:
        self.owner = 0  # the process that installed the handlers; those that it forks inherit them
        self.reason = ""
        self.since = 0.0


_request = _Request()


def request_stop(reason: str) -> None:
    """Asks this process to stop as a signal does; ``reason`` is what the log says."""
    if not _request.reason:
        _request.reason, _request.since = reason, time.monotonic()


def get_stop_reason() -> str:
    """Why this process was asked to stop; empty while nobody has asked."""
    return _request.reason


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """In this block SIGTERM, SIGINT and SIGUSR1 are requests to stop; a second one ends the process at once.

    Only the main thread of a process may enter it.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    _request.owner, _request.reason = os.getpid(), ""
    for number in _SIGNALS:
        signal.signal(number, _handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def raise_if_stopped(kept: str) -> None:
    """Raises `Interrupted` when this process was asked to stop.

    Args:
        kept: what is kept, as a sentence for the log, such as "17 of 400 videos are scored".
    """
    if _request.reason:
        raise Interrupted(f"stopped by {_request.reason}; {kept}. Start the same command again to go on")


def _handle(number: int, frame: FrameType | None) -> None:
    is_child = os.getpid() != _request.owner
    if is_child and number != signal.SIGTERM:
        return  # the process that forked this one decides
    is_second = bool(_request.reason) and time.monotonic() - _request.since > _SAME_REQUEST_SEC
    if is_child or is_second:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    request_stop(signal.Signals(number).name)

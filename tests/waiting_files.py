"""Waits for what another process writes."""

import time


def wait_for_lines(path, count, process, *, timeout_sec=120):
    """Until a file has so many lines. Raises TimeoutError where that takes too long or the process has ended."""
    end = time.monotonic() + timeout_sec
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        if time.monotonic() > end or process.poll() is not None:
            raise TimeoutError(f"{path} does not get {count} lines; the process's status is {process.poll()}")
        time.sleep(0.01)


def wait_for_path(path, process, *, timeout_sec=120):
    """Until there is such a file. Raises TimeoutError where that takes too long or the process has ended."""
    end = time.monotonic() + timeout_sec
    while not path.exists():
        if time.monotonic() > end or process.poll() is not None:
            raise TimeoutError(f"{path} does not come; the process's status is {process.poll()}")
        time.sleep(0.01)

"""Stands in for `inspect_video` in worker processes: some names bring the decoder down."""

import os
import signal
import time

from hiera_video.inspection.inspect_video import inspect_video


def inspect(path, **options):
    """Like `inspect_video`, but dies or hangs where a file's name says so, as a decoder written in C can."""
    if "segfault" in path:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "exit" in path:
        os._exit(3)
    while "endless" in path:
        time.sleep(1)
    return inspect_video(path, **options)


def cannot_start(*_):
    """Stands in for what a worker process runs first."""
    raise ImportError("planted: something is not installed")


def signal_itself(path):
    """What SIGTERM to the whole process group does to a worker."""
    os.kill(os.getpid(), int(path.split(":")[0]))
    return "alive"

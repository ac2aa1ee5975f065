"""Stands in for `prepare_video` in worker processes: some names bring the process down, others hang."""

import os
import signal
import time
from pathlib import Path

from hiera_video.data import pack
from hiera_video.engine.preparation import job
from hiera_video.preparation.prepare_video import prepare_video

_add_video = pack._add_video


def prepare(work, settings):
    """Like `prepare_video`, but dies or hangs where a file's name says so, as a decoder written in C can."""
    if "segfault" in work.source:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "endless" in work.source:
        target = Path(work.target)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.with_name(".begun.partial").touch()
    while "endless" in work.source:
        time.sleep(1)
    return prepare_video(work, settings)


def prepare_slowly(work, settings):
    """Like `prepare_video`, after a while in which a test can do something."""
    time.sleep(0.3)
    return prepare_video(work, settings)


def slow_down(part):
    """Makes preparing or packing slow, video by video."""
    if part == "prepare":
        job.prepare_video = prepare_slowly
    else:
        pack._add_video = _add_slowly


def _add_slowly(writer, sample):
    time.sleep(0.3)
    return _add_video(writer, sample)

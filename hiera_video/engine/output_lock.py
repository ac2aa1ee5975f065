"""One job at a time in a folder of output."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from hiera_video.utils.logging import get_logger

logger = get_logger(__name__)


class OutputInUse(RuntimeError):
    """Another job writes to the folder."""


@contextlib.contextmanager
def lock_output(output_dir: str | Path) -> Iterator[None]:
    """In this block no other job, which takes this lock too, writes to ``output_dir``.

    The kernel keeps the lock, also over NFS, and lets go of it when the process ends, however it ends.

    Raises:
        OutputInUse: another job has it; names its process and machine.
    """
    path = Path(output_dir) / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                file.seek(0)
                raise OutputInUse(
                    f"{output_dir} is in use by {file.read().strip() or 'another job'}: two jobs would overwrite each "
                    "other's files. Wait for it, stop it, or give another folder (OUTPUT_DIR of a config)"
                ) from error
            logger.warning("%s cannot be locked (%s): see to it that no other job writes there", output_dir, error)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        file.flush()
        yield

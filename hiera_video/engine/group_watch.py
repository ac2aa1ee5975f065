"""What the processes of a group tell each other beside their collectives: that one fails, is gone, or shall stop.

A process that waits in a collective for one that has failed would wait for its time limit, half an hour. So each has a
thread that talks to a small store of the main process.
"""

from __future__ import annotations

import datetime
import logging
import os
import threading
import time

import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore

from hiera_video.utils.distributed import get_rank, get_world_size
from hiera_video.utils.interrupt import EXIT_START_AGAIN, get_stop_reason, request_stop
from hiera_video.utils.logging import get_logger

logger = get_logger(__name__)

_POLL_SEC = 0.5
_SILENCE_SEC = 45.0  # a process whose thread says nothing for so long is dead, or its machine is
_INFORM_SEC = 5.0
_GRACE_SEC = 20.0  # for files that are being written, and for an exit that waits for the other processes


def end_with_parent() -> None:
    """Ends this process when the one that started it is gone, also while it still waits for the others to come."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SEC)
        logger.error("the process that started this one is gone; it ends")
        _wait_for_checkpoint()
        _end_now(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


class GroupWatch:
    """The thread of this process, which ends the process when another one has failed.

    Every process of the group makes one, together. Whichever error comes first is what all of them log.
    """

    def __init__(self) -> None:
        self.rank, self.world_size = get_rank(), get_world_size()
        self._store = self._connect()
        self._lock = threading.Lock()  # the store answers one thread at a time
        self._closing = threading.Event()
        self._first = ""  # why the group fails, as soon as this process has heard of it
        self._neighbor, self._neighbor_beat, self._heard_at = (self.rank + 1) % self.world_size, -1, time.monotonic()
        threading.Thread(target=self._watch, name="group-watch", daemon=True).start()

    def fail(self, reason: str) -> str:
        """Tells the group that this process has failed; it will end soon, also if its exit waits for something.

        Returns:
            The reason that came first, of this or another process.
        """
        self.end_within(_GRACE_SEC, status=1)
        try:
            with self._lock:
                first = self._store.compare_set("failed", "", f"rank {self.rank}: {reason}").decode()
                self._store.add("informed", 1)
                end = time.monotonic() + _INFORM_SEC
                while self.rank == 0 and self._store.add("informed", 0) < self.world_size and time.monotonic() < end:
                    time.sleep(0.1)  # the store goes with this process, and the others have to read it first
        except RuntimeError:  # the main process is gone, and its store with it
            return self._first or f"rank {self.rank}: {reason}"
        return first

    def end_within(self, seconds: float, *, status: int) -> None:
        """Ends this process after ``seconds`` if it has not ended by itself."""
        self._closing.set()
        timer = threading.Timer(seconds, _end_now, args=(status,))
        timer.daemon = True
        timer.start()

    def close(self) -> None:
        """Ends the watch. All processes call it after a barrier, since the store goes with the main process."""
        self._closing.set()

    def _connect(self) -> TCPStore:
        host, timeout = os.environ.get("MASTER_ADDR", "127.0.0.1"), datetime.timedelta(seconds=30)
        if self.rank == 0:
            store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timeout)
            dist.broadcast_object_list([store.port])
            return store
        port: list[int] = [0]
        dist.broadcast_object_list(port)
        return TCPStore(host, port[0], is_master=False, timeout=timeout)

    def _watch(self) -> None:
        while not self._closing.wait(_POLL_SEC):
            try:
                with self._lock:
                    reason = self._find_failure()
            except RuntimeError as error:
                reason = f"rank 0 does not answer: {error}"
            # A group that has ended well takes its store along: then `close` comes at the same moment.
            if reason and not self._closing.wait(2.0):
                logger.error("%s; this process, rank %d, ends", reason, self.rank)
                _wait_for_checkpoint()
                _end_now(1)

    def _find_failure(self) -> str:
        """Says that this process is there, passes requests to stop on, and gives the reason to end, if there is one."""
        self._store.add(f"beat {self.rank}", 1)
        if get_stop_reason():
            self._store.compare_set("stop", "", get_stop_reason())
        elif self._store.check(["stop"]):
            request_stop(self._store.get("stop").decode())
        if self._store.check(["failed"]):
            self._first = self._store.get("failed").decode()
            self._store.add("informed", 1)
            return self._first + " (failed first)"
        beat, now = self._store.add(f"beat {self._neighbor}", 0), time.monotonic()
        if beat != self._neighbor_beat:
            self._neighbor_beat, self._heard_at = beat, now
        if now - self._heard_at > _SILENCE_SEC and get_stop_reason():
            _end_now(EXIT_START_AGAIN)  # the neighbor has stopped as it was asked to, and this one waits for it
        if now - self._heard_at > _SILENCE_SEC:
            reason = f"rank {self._neighbor}: no sign of life for {_SILENCE_SEC:.0f} s"
            return self._store.compare_set("failed", "", reason).decode()
        return ""


def _wait_for_checkpoint() -> None:
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join(_GRACE_SEC)


def _end_now(status: int) -> None:
    logging.shutdown()
    os._exit(status)

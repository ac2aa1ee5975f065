"""What the log says of an extraction under way."""

from types import SimpleNamespace

import numpy as np

from hiera_video.engine.extraction import progress as progress_module
from hiera_video.engine.extraction.progress import Progress
from hiera_video.engine.extraction.timing import WorkTimes
from hiera_video.streams.work_queue import WorkQueue


def test_progress_counts_the_videos_of_all_processes(monkeypatch):
    clock = {"now": 100.0}
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: clock["now"]))
    logged = []
    monkeypatch.setattr(progress_module, "log_json_stats", lambda stats, output_dir: logged.append(stats))
    rows = SimpleNamespace(num_ended=0, failures={})
    queue = WorkQueue.open(np.arange(10))
    with Progress("out", rows, WorkTimes(), queue) as progress:
        queue.count_ended(3)  # another process
        rows.num_ended = 1
        clock["now"] += 20
        progress.update()
        assert logged == []
        rows.num_ended = 2
        clock["now"] += 20
        progress.update()
        progress.update()
    assert len(logged) == 1 and logged[0]["_type"] == "extract" and logged[0]["videos"] == "5/10"
    assert logged[0]["videos_per_sec"] == 0.125 and logged[0]["seconds"] == 40 and logged[0]["eta"] == "0:00:40"


def test_the_first_failures_are_logged(caplog):
    rows = SimpleNamespace(num_ended=0, failures={})
    with Progress("out", rows, WorkTimes(), WorkQueue.open(np.arange(90))) as progress:
        for first in (0, 12, 24):
            rows.failures |= {f"{i}.mp4": f"reason {i}" for i in range(first, first + 12)}
            rows.num_ended = len(rows.failures)
            progress.update()
    assert [record.args[0] for record in caplog.records] == [f"reason {i}" for i in range(20)]

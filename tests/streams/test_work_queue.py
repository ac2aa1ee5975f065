"""The queue gives each position out once, whoever asks, and adds up what the processes report."""

import multiprocessing
import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from hiera_video.streams.work_queue import WorkQueue, order_by_size


def test_two_drawers_share_the_work_in_its_order():
    queue = WorkQueue.open(np.array([4, 2, 9]))
    one, other = iter(queue), iter(queue.copy())
    assert [next(one), next(other), next(one)] == [4, 2, 9]
    assert list(one) == list(other) == []


def draw_all(queue, drawn):
    for position in queue:
        drawn.put(position)
    drawn.put(None)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_draw_from_the_same_queue(method):
    queue = WorkQueue.open(np.arange(40))
    context = multiprocessing.get_context(method)
    drawn = context.Queue()
    processes = [context.Process(target=draw_all, args=(queue, drawn)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [drawn.get(timeout=60) for _ in range(42)]
    for process in processes:
        process.join(timeout=120)
    assert sorted(position for position in found if position is not None) == list(range(40))
    assert queue.count_ended(0) == 0  # the connection of this process still works


def test_a_copy_has_the_same_work_and_no_connection():
    queue = WorkQueue.open(np.array([3]))
    copied = pickle.loads(pickle.dumps(queue))
    assert copied._store is None and list(copied) == [3] and list(queue) == []


def test_unfinished_work_comes_first():
    queue = WorkQueue.open(np.array([1]))
    assert list(queue.copy(redo=[5, 6])) == [5, 6, 1]


def test_unfinished_work_is_done_by_one_process(monkeypatch):
    served = WorkQueue.open(np.array([1]))
    queue = served.copy(redo=[5, 6, 7])
    for number, expected in ((0, [5, 7, 1]), (1, [6])):
        info = SimpleNamespace(id=number, num_workers=2)
        monkeypatch.setattr("hiera_video.streams.work_queue.get_worker_info", lambda info=info: info)
        assert list(queue) == expected


def test_ended_videos_of_all_processes_are_added_up():
    queue = WorkQueue.open(np.arange(9))
    other = queue.copy()
    assert [queue.count_ended(2), other.count_ended(3), queue.count_ended(0)] == [2, 5, 5]


def test_the_main_process_gets_the_results_of_all(monkeypatch):
    queue = WorkQueue.open(np.arange(9))
    monkeypatch.setattr("hiera_video.streams.work_queue.get_world_size", lambda: 2)
    with monkeypatch.context() as as_second:
        as_second.setattr("hiera_video.streams.work_queue.get_rank", lambda: 1)
        as_second.setattr("hiera_video.streams.work_queue.is_main_process", lambda: False)
        assert queue.copy().gather_results([{"b.mp4": "damaged"}, 3]) == []
    assert queue.gather_results([{}, 4]) == [[{}, 4], [{"b.mp4": "damaged"}, 3]]


def test_long_work_comes_first():
    assert order_by_size([5, None, 9, 5, None]).tolist() == [2, 0, 3, 1, 4]

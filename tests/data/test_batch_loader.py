"""Batches that come in the same order whatever happens to the processes that decode them."""

import logging
import multiprocessing
import os
import re
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.data import SequentialSampler
from video_factory import write_video

from hiera_video.data import batch_loader
from hiera_video.data.batch_loader import BatchLoader
from hiera_video.data.clip_sampling import UniformClipSampler
from hiera_video.data.dataset import VideoDataset
from hiera_video.data.lists import VideoList
from hiera_video.data.transforms import EvalTransform
from hiera_video.video.manifest import _SCHEMA, Manifest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number in range(8):
        write_video(folder / f"{number}.mp4", num_frames=12 + number)
    return folder


class Sabotaged(VideoDataset):
    """Some videos bring their process down, or to a halt."""

    deadly: tuple[int, ...] = ()
    endless: tuple[int, ...] = ()
    ended_at: tuple[int, ...] = ()  # at these, once, somebody ends the process
    marks = None  # folder that says where it was

    def _read_views(self, epoch, index):
        if index in self.deadly:
            os.kill(os.getpid(), signal.SIGSEGV)
        if index in self.ended_at and not (self.marks / str(index)).exists():
            (self.marks / str(index)).touch()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1000)
        if index in self.endless:
            time.sleep(1000)
        return super()._read_views(epoch, index)


class Counted(SequentialSampler):
    """Counts the keys that it has given."""

    num_given = 0

    def __iter__(self):
        for key in super().__iter__():
            self.num_given += 1
            yield key


def make_loader(folder, *, num_workers, deadly=(), endless=(), timeout_sec=60.0, is_training=False, num_videos=8):
    paths = np.array([str(folder / f"{number % 8}.mp4") for number in range(num_videos)])
    dataset = Sabotaged(
        VideoList(paths, np.arange(num_videos), None),
        clip_sampler=UniformClipSampler(num_frames=4, sampling_rate=1, target_fps=30, num_clips=1),
        transform=EvalTransform(num_crops=1, short_side_px=32, crop_size_px=32),
        bad_view_shape=None if is_training else (1, 3, 4, 32, 32),
    )
    dataset.deadly, dataset.endless = deadly, endless
    return BatchLoader(
        dataset,
        sampler=Counted(dataset),
        batch_size=2,
        num_workers=num_workers,
        timeout_sec=timeout_sec,
    )


def assert_same_but_for(batches, expected, lost):
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(8)), "in order, each once"
    assert {entry.position for batch in batches for entry in batch["bad"]} == set(lost)
    for batch, right in zip(batches, expected, strict=True):
        for row, index in enumerate(batch["index"].tolist()):
            assert index in lost or torch.equal(batch["video"][row], right["video"][row])


@pytest.fixture
def patient(monkeypatch):
    monkeypatch.setattr(batch_loader, "_POLL_SEC", 0.2)


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_batches_do_not_depend_on_workers_and_draw_no_global_random_number(folder, num_workers):
    loader = make_loader(folder, num_workers=num_workers)
    before = torch.get_rng_state()
    for _ in range(2):
        assert_same_but_for(list(loader), list(make_loader(folder, num_workers=0)), set())
    assert torch.equal(torch.get_rng_state(), before) and len(loader) == 4


def test_videos_that_kill_their_process_are_given_up_and_named(folder, patient, caplog):
    logging.getLogger("hiera_video").propagate = True
    loader = make_loader(folder, num_workers=2, deadly=(1, 6))
    expected = list(make_loader(folder, num_workers=0))
    batches = list(loader)
    assert_same_but_for(batches, expected, {1, 6})
    bad = {entry.position: entry.reason for batch in batches for entry in batch["bad"]}
    assert bad[1] == f"{folder}/1.mp4: its decoding process was ended by SIGSEGV"
    assert_same_but_for(list(loader), expected, {1, 6})
    assert not loader.dataset.board.find_busy()


def test_in_training_another_video_takes_the_place(folder, patient):
    (first, *_) = list(make_loader(folder, num_workers=1, deadly=(1,), is_training=True))
    assert first["index"][0] == 0 and first["index"][1] != 1
    assert {entry.position for entry in first["bad"]} == {1}


def test_a_video_that_takes_forever_is_given_up(folder, patient, monkeypatch, caplog):
    logging.getLogger("hiera_video").propagate = True
    monkeypatch.setattr(batch_loader, "_WARN_SEC", 0.5)
    begin = time.monotonic()
    batches = list(make_loader(folder, num_workers=2, endless=(3,), timeout_sec=4.0))
    assert_same_but_for(batches, list(make_loader(folder, num_workers=0)), {3})
    assert time.monotonic() - begin < 500  # and not the 1000 s that it takes
    (reason,) = [entry.reason for batch in batches for entry in batch["bad"]]
    assert reason == f"{folder}/3.mp4: it gave no clips for 4 s (DATA.TIMEOUT_SEC)"
    said = rf"no batch has come for \d+ s; the decoding processes are at: {re.escape(str(folder))}/3.mp4 \(for"
    assert re.search(said, caplog.text)


def test_a_process_that_somebody_ends_costs_no_video(folder, patient, tmp_path):
    """torchrun and Slurm send SIGTERM to all processes of a job: the step that follows must have its own videos."""
    loader = make_loader(folder, num_workers=2, is_training=True)
    loader.dataset.ended_at, loader.dataset.marks = (1, 6), tmp_path
    assert_same_but_for(list(loader), list(make_loader(folder, num_workers=0)), set())
    assert not loader.dataset.given_up and sorted(path.name for path in tmp_path.iterdir()) == ["1", "6"]


def test_processes_that_are_killed_at_nothing_cost_nothing(folder, patient):
    expected = list(make_loader(folder, num_workers=0))
    loader = make_loader(folder, num_workers=2)
    batches = []
    for batch in loader:
        batches.append(batch)
        if len(batches) in (1, 3):
            kill_when_idle(loader)
    assert_same_but_for(batches, expected, set())
    for process in multiprocessing.active_children():
        process.kill()
    assert_same_but_for(list(loader), expected, set())  # also between two epochs


def kill_when_idle(loader):
    """Kills the processes at a moment when none is at a video: they stand still while that is looked up."""
    processes, end = multiprocessing.active_children(), time.monotonic() + 120
    while True:
        for process in processes:
            os.kill(process.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if not loader.board.find_busy():
            break
        assert time.monotonic() < end
        for process in processes:
            os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.05)
    for process in processes:
        process.kill()


def test_errors_of_the_data_set_are_not_taken_for_deaths(folder, patient):
    loader = make_loader(folder, num_workers=1)
    loader.dataset.transform = None
    with pytest.raises(AttributeError):
        list(loader)


def test_no_process_is_left(folder, patient):
    before = set(multiprocessing.active_children())
    loader = make_loader(folder, num_workers=2, endless=(0,), timeout_sec=0.5)
    list(loader)
    del loader
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.parametrize("num_workers", [0, 2])
def test_keys_are_made_when_they_are_needed(folder, num_workers):
    """A list of them all would be in the memory of each process, and be copied there when its garbage is collected."""
    loader = make_loader(folder, num_workers=num_workers, num_videos=1000)
    loader.sampler.num_given = 0
    next(iter(loader))
    assert 2 <= loader.sampler.num_given <= (1 + 3 * max(num_workers, 1)) * 2, "batches of 2, some of them prefetched"


def test_an_iteration_that_was_left_does_not_go_on_in_the_next(folder, patient):
    loader, expected = make_loader(folder, num_workers=2), list(make_loader(folder, num_workers=0))
    for batch in loader:
        assert batch["index"].tolist() == [0, 1]
        break
    assert_same_but_for(list(loader), expected, set())


class ReadsOnly(VideoDataset):
    """Looks its videos up in list and manifest, decodes nothing, and says what its process shares with nobody."""

    num_looks = 0

    def load(self, epoch, index):
        record = self.manifest.get_entry(str(self.videos.paths[index]))
        assert record.status == "missing" and record.size_bytes is None
        self.num_looks += 1
        own_kib = 0
        if self.num_looks % 200 == 0:  # looking takes longer than all else
            lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
            (own_kib,) = [int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:")]
        return {"video": torch.tensor(own_kib), "label": int(self.videos.labels[index])}


def measure_own_memory():
    """KiB that the two decoding processes have for themselves, as time goes on."""
    paths = np.array([f"/nowhere/class_{i % 400:03d}/{i:011d}_000010_000020.mp4" for i in range(200_000)])
    table = pa.table(
        {name: pa.nulls(len(paths), kind) for name, kind in zip(_SCHEMA.names, _SCHEMA.types, strict=True)}
    )
    table = table.set_column(0, "path", pa.array(paths)).set_column(3, "status", pa.array(["missing"] * len(paths)))
    dataset = ReadsOnly(
        VideoList(paths, np.arange(len(paths)), None),
        clip_sampler=UniformClipSampler(num_frames=4, sampling_rate=1, target_fps=30, num_clips=1),
        transform=EvalTransform(num_crops=1, short_side_px=32, crop_size_px=32),
        manifest=Manifest(table, source="a test"),
    )
    keys = np.random.default_rng(0).permutation(len(paths))[:4000].tolist()
    loader = BatchLoader(dataset, sampler=keys, batch_size=4, num_workers=2, timeout_sec=120)
    return [kib for batch in loader if (kib := int(batch["video"].max()))]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells the memory of a process")
def test_processes_share_the_list_and_the_manifest():
    """Lists of Python objects would be copied page by page, as each look at one changes its count of references.

    A process of its own starts them: in the one of all tests they would also write into holes that other tests left.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        own_kib = pool.submit(measure_own_memory).result(timeout=300)
    assert len(own_kib) == 20
    assert max(own_kib[-2:]) - min(own_kib[:2]) < 1500, "1800 strings of a list, on as many pages, would be 7000"

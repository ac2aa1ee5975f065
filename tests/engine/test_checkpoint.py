"""Files of checkpoints: which stay, what a full disk does, and that none is ever half a file."""

import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from hiera_video.engine import checkpoint
from hiera_video.engine.checkpoint import (
    CheckpointWriter,
    compute_digest,
    get_best_path,
    get_checkpoint_path,
    list_checkpoints,
    remove_old_checkpoints,
)
from hiera_video.models.checkpoint_file import read_checkpoint_file

ROOT = Path(__file__).resolve().parents[2]


def make_content(value=0.0, *, size=1000):
    return {"model_state": {"w": torch.full((size,), value)}, "optimizer_state": {}, "epoch": 1, "cfg": ""}


@pytest.fixture
def small_disk():
    """No file may grow beyond 100 kB, as on a disk that is nearly full; gives a function that makes room again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


def test_which_checkpoints_stay(tmp_path):
    places = [(1, 0), (2, 0), (2, 5), (3, 0), (3, 2), (3, 4), (3, 6)]
    for place in places:
        path = get_checkpoint_path(tmp_path, *place)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    get_best_path(tmp_path).touch()
    partial = get_checkpoint_path(tmp_path, 2, 7).with_suffix(".pyth.partial")
    partial.touch()
    names = [path.stem.removeprefix("checkpoint_epoch_") for path in list_checkpoints(tmp_path)]
    assert names == [f"{epoch:05d}" + (f"_step_{step:07d}" if step else "") for epoch, step in places]
    remove_old_checkpoints(tmp_path, keep_last=2)
    assert not partial.exists(), "what a killed job left of a file"
    assert list_checkpoints(tmp_path) == [get_checkpoint_path(tmp_path, *p) for p in [(2, 0), (3, 0), (3, 4), (3, 6)]]
    remove_old_checkpoints(tmp_path, keep_last=0)
    assert len(list_checkpoints(tmp_path)) == 4 and get_best_path(tmp_path).exists()


def test_what_is_written_is_what_was_there_when_it_was_asked_for(tmp_path, monkeypatch):
    """Training goes on while the file is written; the file must not."""
    save, may_write = checkpoint.save_checkpoint, threading.Event()

    def save_late(path, content):
        assert may_write.wait(60)
        save(path, content)

    monkeypatch.setattr(checkpoint, "save_checkpoint", save_late)
    content = make_content(1.0)
    with CheckpointWriter(tmp_path, keep_last=0, stop_on_failure=True) as writer:
        writer.save(get_checkpoint_path(tmp_path, 1), content)
        assert not get_checkpoint_path(tmp_path, 1).exists(), "it does not wait for the file"
        content["model_state"]["w"].fill_(2.0)
        may_write.set()
    file = read_checkpoint_file(get_checkpoint_path(tmp_path, 1))
    assert file.weights["w"].eq(1.0).all()
    assert file.training["digest"] == compute_digest(make_content(1.0)) != compute_digest(content)


@pytest.mark.parametrize("stop", [False, True])
def test_a_full_disk(tmp_path, caplog, small_disk, stop):
    with CheckpointWriter(tmp_path, keep_last=1, stop_on_failure=stop) as writer:
        writer.save(get_checkpoint_path(tmp_path, 1), make_content(1.0))
        writer.save(get_checkpoint_path(tmp_path, 2), make_content(2.0, size=100_000))
        if stop:
            with pytest.raises(OSError):
                writer.wait()
        else:
            writer.wait()
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint_epoch_00001.pyth"]
        assert read_checkpoint_file(list_checkpoints(tmp_path)[0]).weights["w"].eq(1.0).all()
        small_disk()
        writer.save(get_checkpoint_path(tmp_path, 3), make_content(3.0, size=100_000))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint_epoch_00003.pyth"]


def test_the_last_checkpoint_of_a_run_must_be_written(tmp_path, small_disk):
    writer = CheckpointWriter(tmp_path, keep_last=1, stop_on_failure=False)
    with pytest.raises(OSError):
        writer.save(get_checkpoint_path(tmp_path, 1), make_content(size=100_000), must_succeed=True)


KILLED = """
import sys, torch
from hiera_video.engine.checkpoint import CheckpointWriter, get_checkpoint_path
with CheckpointWriter(sys.argv[1], keep_last=2, stop_on_failure=True) as writer:
    for epoch in range(1, 10**6):
        weights = {"w": torch.full((500_000,), float(epoch))}
        writer.save(get_checkpoint_path(sys.argv[1], epoch), {"model_state": weights, "epoch": epoch})
        print(epoch, flush=True)
"""


@pytest.mark.slow
def test_killed_at_random_moments_every_file_loads_and_none_is_lost(tmp_path):
    """30 trials: SIGKILL while checkpoints are written one after the other."""
    num_found = 0
    for trial in range(30):
        folder = tmp_path / str(trial)
        process = subprocess.Popen([sys.executable, "-c", KILLED, folder], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        started = int(process.stdout.readline())
        time.sleep(0.005 + 0.0173 * trial)
        process.kill()
        started = int(([str(started), *process.stdout.read().split()])[-1])
        paths = list_checkpoints(folder)
        num_found += len(paths)
        epochs = [int(path.stem[-5:]) for path in paths]
        # The one before the newest that was asked for is whole; that one itself may be under way.
        assert not epochs or max(epochs) >= started - 1, (started, epochs)
        assert epochs or started == 1
        for path, epoch in zip(paths, epochs, strict=True):
            file = read_checkpoint_file(path)
            assert file.weights["w"].eq(epoch).all() and file.epoch == epoch
    assert num_found > 30

"""Groups of processes: one fails, and all end soon, with its reason; srun's tasks are one group."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hiera_video.engine.checkpoint import list_checkpoints
from hiera_video.engine.output_lock import OutputInUse, lock_output

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SEC = 180


@pytest.fixture
def start(options):
    """Starts tests/stop_training.py under torchrun, as tasks of srun, or under our own supervision."""
    started = []

    def run(words, *, processes=2, how="torchrun", changes=None):
        pairs = {**options, **{key: str(value) for key, value in (changes or {}).items()}}
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = [sys.executable, *(launcher if how == "torchrun" else []), "tests/stop_training.py", *words]
        command += [word for pair in pairs.items() for word in pair]
        for task in range(processes if how == "srun" else 1):
            environ = dict(os.environ)
            if how == "srun":
                environ |= {
                    "SLURM_JOB_ID": str(os.getpid()),
                    "SLURM_PROCID": str(task),
                    "SLURM_LOCALID": str(task),
                    "SLURM_STEP_NUM_TASKS": str(processes),
                    "SLURM_STEP_TASKS_PER_NODE": str(processes),
                    "SLURM_STEP_NODELIST": "localhost",
                }
            if how == "supervised":
                environ["STOP_TRAINING_PROCESSES"] = str(processes)
            started.append(
                subprocess.Popen(
                    command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
            )
        return started

    yield run
    for process in started:
        process.kill()


def finish(processes):
    """(exit statuses, output); fails when they need longer than LIMIT_SEC."""
    outputs = [process.communicate(timeout=LIMIT_SEC)[0] for process in processes]
    return [process.returncode for process in processes], "\n".join(outputs)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("how", ["torchrun", "srun", "supervised"])
@pytest.mark.parametrize(
    ("what", "rank", "reason"),
    [
        ("raise", 1, "rank 1: Planted: planted in the model"),
        ("raise_in_data", 1, "rank 1: Planted: planted in the data"),
        ("raise_in_validation", 1, "rank 1: Planted: planted in validation"),
        ("raise_in_checkpoint", 0, "rank 0: Planted: planted in the checkpoint"),
    ],
)
def test_one_that_raises_ends_all_with_its_reason(start, options, what, rank, reason, how):
    if how != "torchrun" and what not in ("raise", "raise_in_checkpoint"):
        pytest.skip("the launcher makes no difference to where an error is raised")
    statuses, output = finish(start([what, "0", "1", str(rank)], how=how))
    assert all(status == 1 for status in statuses), output
    assert f"rank {rank} failed in train: " in output and reason.split(": ")[-1] in output
    assert f"{reason} (failed first)" in output, "the others say why they end"
    checkpoints = [path.name for path in list_checkpoints(options["OUTPUT_DIR"])]
    expected = {"raise_in_validation": ["checkpoint_epoch_00001.pyth"]}
    assert checkpoints == expected.get(what, []), "validation that fails does not cost the epoch"


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("how", ["torchrun", "srun", "supervised"])
@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_is_killed_ends_all(start, rank, how):
    begin = time.monotonic()
    statuses, output = finish(start(["SIGKILL", "0", "1", str(rank)], how=how))
    assert all(status != 0 for status in statuses), output
    assert time.monotonic() - begin < LIMIT_SEC


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("how", ["srun", "supervised"])
def test_a_request_to_one_stops_all_after_the_same_step(start, options, how):
    statuses, output = finish(start(["SIGUSR1", "0", "1", "1"], how=how))
    assert set(statuses) == {75}, output
    assert "stopped by SIGUSR1 after 0 epochs and 2 steps of epoch 1" in output
    statuses, output = finish(start(["none", "0", "0", "0"], how=how)[-len(statuses) :])
    assert set(statuses) == {0} and "resumed from" in output, output


@pytest.mark.slow
@pytest.mark.distributed
def test_tasks_of_srun_are_one_group(start, options):
    statuses, output = finish(start(["none", "0", "0", "0"], how="srun", changes={"LOG_PERIOD": 3}))
    assert statuses == [0, 0], output
    lines = (Path(options["OUTPUT_DIR"]) / "metrics.jsonl").read_text().splitlines()
    assert sum('"train_iter"' in line for line in lines) == 2, "two independent jobs would have written each line twice"


def test_a_second_job_in_one_folder_is_refused(tmp_path):
    with lock_output(tmp_path):
        code = f"from hiera_video.engine.output_lock import *\nwith lock_output({str(tmp_path)!r}): pass"
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        assert second.returncode == 1
        assert f"OutputInUse: {tmp_path} is in use by process {os.getpid()} on" in second.stderr
        with pytest.raises(OutputInUse), lock_output(tmp_path):
            pass
    with lock_output(tmp_path):
        pass  # a lock ends with its job


@pytest.mark.slow
def test_ctrl_c_prints_one_line_and_keeps_the_step(start, options):
    process = start(["SIGINT", "0", "1", "0"], processes=1, how="plain")[0]
    output = process.communicate(timeout=LIMIT_SEC)[0]
    assert process.returncode == 75 and "Traceback" not in output
    assert output.splitlines()[-1].startswith("stopped by SIGINT after 0 epochs and 2 steps of epoch 1")
    assert [path.name for path in list_checkpoints(options["OUTPUT_DIR"])] == [
        "checkpoint_epoch_00000_step_0000002.pyth"
    ]


@pytest.mark.slow
def test_a_process_without_its_launcher_ends(start, options):
    """A launcher that is killed must not leave processes behind that hold GPUs."""
    launcher = start(["none", "0", "0", "0"], how="supervised", changes={"SOLVER.MAX_EPOCH": 100000})[0]
    log = Path(options["OUTPUT_DIR"]) / "metrics.jsonl"
    wait_until(lambda: log.exists() and "train_iter" in log.read_text())
    children = subprocess.run(["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True).stdout.split()
    launcher.send_signal(signal.SIGKILL)
    launcher.wait(60)
    assert len(children) >= 2
    wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def wait_until(condition):
    end = time.monotonic() + LIMIT_SEC
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_a_process_ends_with_the_one_that_started_it(tmp_path):
    """Else a killed launcher leaves processes on the GPUs, waiting for a group that never comes together."""
    child = "import os, time; from hiera_video.engine.group_watch import end_with_parent; end_with_parent()"
    child += "; print(os.getpid(), flush=True); time.sleep(600)"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)"
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + LIMIT_SEC
    while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "still there"
        time.sleep(0.2)

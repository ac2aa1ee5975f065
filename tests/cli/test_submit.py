"""Jobs for Slurm: submitted, warned, queued again. Slurm itself is played by its environment, signals and commands."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hiera_video.cli import submit as tool
from hiera_video.engine.checkpoint import list_checkpoints

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def words(options):
    return [word for pair in options.items() for word in pair]


def test_a_wrong_config_is_refused_before_anything_is_submitted(words, options, capsys):
    assert tool.main([*words, "SOLVER.BASE_LR", "-1"]) == 1
    assert "SOLVER.BASE_LR" in capsys.readouterr().err and not Path(options["OUTPUT_DIR"]).exists()


def test_a_missing_package_is_named(words, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert tool.main(words) == 1
    assert 'pip install "hiera_video[slurm]"' in capsys.readouterr().err


@pytest.mark.slow
def test_a_submitted_run_is_the_run(words, options, capsys):
    submitit = pytest.importorskip("submitit")
    assert tool.main(["--local", "--hours", "0.1", *words]) == 0
    job_id = capsys.readouterr().out.split()[1]
    job = submitit.LocalJob(Path(options["OUTPUT_DIR"]) / "slurm", job_id)
    assert job.result() == 0, job.stderr()
    assert list_checkpoints(options["OUTPUT_DIR"])[-1].name == "checkpoint_epoch_00002.pyth"


def test_what_slurm_is_asked_for(words, monkeypatch, tmp_path, capsys):
    submitit = pytest.importorskip("submitit")
    (tmp_path / "bin").mkdir()
    for name in ("srun", "sbatch"):
        path = tmp_path / "bin" / name
        path.write_text(f'#!/bin/sh\ncp "$1" {tmp_path}/script 2>/dev/null\necho Submitted batch job 4711\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    assert tool.main(["--nodes", "3", "--gpus-per-node", "4", "--partition", "gpu", "--hours", "2", *words]) == 0
    assert "job 4711 is submitted" in capsys.readouterr().out
    script = (tmp_path / "script").read_text()
    for line in ("nodes=3", "ntasks-per-node=4", "gpus-per-node=4", "partition=gpu", "time=120", "@120"):
        assert line in script, line
    assert submitit.__version__


@pytest.mark.slow
def test_before_its_end_a_job_keeps_its_state_and_asks_to_go_on(words, options):
    pytest.importorskip("submitit")
    job = tool.RunJob([*words, "SOLVER.MAX_EPOCH", "100000"])
    job._process = subprocess.Popen([sys.executable, "-m", "hiera_video", "run", *job.words], stderr=subprocess.PIPE)
    metrics = Path(options["OUTPUT_DIR"]) / "metrics.jsonl"
    end = time.monotonic() + 180
    while not metrics.exists() or "train_iter" not in metrics.read_text():
        assert time.monotonic() < end
        time.sleep(0.1)
    again = job.checkpoint()
    assert job._process.returncode == 75 and again.function.words == job.words
    assert list_checkpoints(options["OUTPUT_DIR"])


@pytest.mark.slow
def test_the_batch_script_queues_itself_again_until_the_run_has_ended(words, options, tmp_path):
    """`srun` is a script that starts two tasks with Slurm's variables; SIGUSR1 comes from outside, as from Slurm."""
    (tmp_path / "bin").mkdir()
    fakes = {
        "srun": f"""shift
shift
for task in 0 1; do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_STEP_NUM_TASKS=2 SLURM_STEP_TASKS_PER_NODE=2 SLURM_STEP_ID=0 \\
    SLURM_STEP_NODELIST=localhost {sys.executable} -m hiera_video "$@" &
    pids="$pids $!"
done
echo $pids > {tmp_path}/pids
status=0
for pid in $pids; do wait $pid || status=$?; done
exit $status
""",
        "scontrol": f'echo "$@" >> {tmp_path}/requeued\n',
    }
    for name, text in fakes.items():
        (tmp_path / "bin" / name).write_text("#!/bin/bash\n" + text)
        (tmp_path / "bin" / name).chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "SLURM_JOB_ID": str(os.getpid())}
    script = (ROOT / "tools" / "train.sbatch").read_text()
    assert "#SBATCH --signal=USR1@" in script and "#SBATCH --requeue" in script

    def start(*more):
        command = ["bash", "tools/train.sbatch", *words, *more]
        return subprocess.Popen(
            command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    process = start("SOLVER.MAX_EPOCH", "100000")
    metrics = Path(options["OUTPUT_DIR"]) / "metrics.jsonl"
    end = time.monotonic() + 180
    while not metrics.exists() or "train_iter" not in metrics.read_text():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.1)
    for pid in (tmp_path / "pids").read_text().split():
        os.kill(int(pid), signal.SIGUSR1)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "the job is queued again" in output, output
    assert (tmp_path / "requeued").read_text() == f"requeue {os.getpid()}\n"
    assert list_checkpoints(options["OUTPUT_DIR"])

"""`hiera-video`: sub-commands are found, helped with and reported on, without importing what they do not need."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import hiera_video
from hiera_video.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "numpy", "pandas", "av", "fvcore")


def run_python(code):
    """Runs code in a process of its own; returns its words on standard output."""
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    return finished.stdout.split()


def test_importing_the_package_is_quick_and_changes_nothing():
    code = "import os, sys; old = dict(os.environ); import hiera_video; "
    assert run_python(f"{code} print([name for name in {HEAVY} if name in sys.modules], old == os.environ)") == [
        "[]",
        "True",
    ]


def test_public_names_are_imported_when_they_are_asked_for():
    assert set(hiera_video.__all__) <= set(dir(hiera_video))
    for name in hiera_video.__all__:
        assert getattr(hiera_video, name).__module__.startswith("hiera_video.")
    with pytest.raises(AttributeError, match="no attribute 'biuld_model'"):
        _ = hiera_video.biuld_model


def test_help_imports_nothing_heavy():
    code = "import sys; from hiera_video.cli.main import main; status = main(['--help']); "
    assert run_python(f"{code} print(status, *(name for name in {HEAVY} if name in sys.modules))")[-1] == "0"


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert main([]) == 0 and capsys.readouterr().out == text
    for command, meaning in COMMANDS.items():
        assert f"  {command} " in text and meaning in text


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_helps_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: hiera-video {command} ") and f"\n    hiera-video {command}" in text


def test_each_tool_is_a_door_to_a_command():
    opened = {}
    for path in (ROOT / "tools").glob("*.py"):
        text = path.read_text()
        opened[path.stem] = text.partition("sys.exit(main([")[2].partition(", *sys.argv")[0]
        assert 'if __name__ == "__main__":' in text, "processes that a job starts import this file again"
    assert opened.pop("extract_ray") == '"extract", "--ray"'
    assert {word.strip('"') for word in opened.values()} == set(COMMANDS) - {"extract"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["serch"], "there is no command serch; did you mean search?"),
        (["visualize_mae"], "there is no command visualize_mae; did you mean visualize-mae?"),
        (["zzz"], "there is no command zzz; there are run, check"),
        (["--cfg", "a.yaml"], "unknown option --cfg; a command comes first"),
    ],
)
def test_a_wrong_command_is_named(words, message, capsys):
    assert main(words) == 2
    assert f"error: {message}" in capsys.readouterr().err


def test_the_version_names_what_numbers_depend_on(capsys):
    assert main(["--version"]) == 0
    facts = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {"python", "hiera_video", "torch", "system", "cpu", "gpu", "decoders"} <= set(facts)
    assert "cores" in facts["cpu"] and re.match(r"pyav [\d.]+, libavcodec \d+", facts["decoders"])


def test_commands_limit_spinning_before_torch_is_loaded():
    code = "import os; os.environ.pop('GOMP_SPINCOUNT', 0); from hiera_video.cli.main import main; "
    assert run_python(f"{code} main(['run', '--list']); print(os.environ['GOMP_SPINCOUNT'])")[-1] == "1000"


def test_ctrl_c_ends_a_command_without_a_traceback(monkeypatch, capsys):
    def interrupt(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr("hiera_video.cli.run.main", interrupt)
    assert main(["run"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_a_reader_that_stops_reading_ends_a_command_silently():
    command = [sys.executable, "-m", "hiera_video", "run", "--keys"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(300) == 0


def test_another_broken_pipe_is_an_error(monkeypatch):
    def fail(argv):
        raise BrokenPipeError("a worker has died")

    monkeypatch.setattr("hiera_video.cli.run.main", fail)
    with pytest.raises(BrokenPipeError, match="a worker has died"):
        main(["run"])

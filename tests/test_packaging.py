"""What ``pip install .`` brings: the package, its configs and its command, which work from any folder."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that a wheel of this checkout was unpacked into."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "data", "output", "build", "*.egg-info"))
    shutil.copytree(ROOT / "hiera_video" / "data", source / "hiera_video" / "data")  # not the demo's data folder
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", str(source)]
    subprocess.run([*build, "--wheel-dir", str(folder)], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder / "installed")
    return folder / "installed"


@pytest.fixture
def run_installed(installed, tmp_path, monkeypatch):
    """Runs Python in an empty folder with the unpacked wheel alone on its path; returns its words."""
    monkeypatch.setenv("PYTHONPATH", str(installed))

    def run(*words):
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()

    return run


def test_a_wheel_holds_the_package_its_configs_and_its_types(installed):
    for folder, pattern in (
        ("hiera_video", "**/*.py"),
        ("hiera_video", "report/templates/*"),
        ("configs", "**/*.yaml"),
    ):
        target = installed / "hiera_video" / (folder if folder == "configs" else ".")
        expected = {path.relative_to(ROOT / folder) for path in (ROOT / folder).glob(pattern)}
        assert {path.relative_to(target) for path in target.glob(pattern)} == expected
    assert (installed / "hiera_video" / "py.typed").is_file()
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert entry_points.read_text().split() == ["[console_scripts]", "hiera-video", "=", "hiera_video.cli.main:main"]


def test_a_recipe_is_found_with_the_files_that_it_builds_on(run_installed, installed):
    code = (
        "import hiera_video\n"
        "from hiera_video.config import load_config\n"
        "cfg = load_config(['Kinetics600/HIERA_L_16x4.yaml'], ['DATA.PATH_TO_DATA_DIR', '/d'])\n"
        "print(hiera_video.__file__, cfg.MODEL.DROPOUT_RATE, cfg.MODEL.NUM_CLASSES)"
    )
    assert run_installed("-c", code) == [str(installed / "hiera_video" / "__init__.py"), "0.5", "600"]


def test_the_command_works(run_installed):
    assert {"run", "extract", "demo"} <= set(run_installed("-m", "hiera_video", "--help"))
    listed = run_installed("-m", "hiera_video", "run", "--list")
    assert "SSv2/HIERA_L_32.yaml" in listed and "76.5" in listed
    counts = ["--train", "2", "--val", "0", "--test", "0"]
    made = run_installed("-m", "hiera_video", "make-motion-dataset", "--output-dir", "d", *counts)
    assert made[0] == "d:" and made[-1] == "made"


OFFLINE = """
import socket, sys
connect = socket.socket.connect
def guarded(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise SystemExit(f"a connection to {address}")
    return connect(self, address)
socket.socket.connect = guarded
import importlib, pkgutil, hiera_video
for module in pkgutil.walk_packages(hiera_video.__path__, "hiera_video."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from hiera_video.cli.run import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_nothing_reaches_for_the_network(options):
    """All modules imported, and a job that trains and tests."""
    words = [word for pair in {**options, "TEST.ENABLE": "True"}.items() for word in pair]
    finished = subprocess.run([sys.executable, "-c", OFFLINE, *words], capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr

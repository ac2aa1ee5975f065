"""What ``pip install .`` brings: the package and its configs, found from anywhere."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_a_wheel_holds_the_package_and_its_configs(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "data", "output", "build", "*.egg-info"))
    shutil.copytree(ROOT / "hiera_video" / "data", source / "hiera_video" / "data")  # not the demo's data folder
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", str(source)]
    subprocess.run([*build, "--wheel-dir", str(tmp_path)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    target = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as content:
        content.extractall(target)
    configs = {str(path.relative_to(ROOT / "configs")) for path in (ROOT / "configs").rglob("*.yaml")}
    assert {str(path.relative_to(target / "hiera_video/configs")) for path in target.rglob("*.yaml")} == configs
    code = (
        f"import sys; sys.path.insert(0, {str(target)!r})\n"
        "from hiera_video.config import load_config\n"
        "import hiera_video\n"
        "cfg = load_config(['Kinetics/HIERA_L_16x4.yaml'], ['DATA.PATH_TO_DATA_DIR', '/d'])\n"
        "print(hiera_video.__file__, cfg.MODEL.DROPOUT_RATE)"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert finished.stdout.split() == [str(target / "hiera_video" / "__init__.py"), "0.5"]

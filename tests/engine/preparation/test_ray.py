"""On a Ray of this machine: the same files, bit for bit, and packed; a video that ends its process costs itself."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from video_factory import write_video

from hiera_video.config import load_config
from hiera_video.engine.preparation import job
from hiera_video.preparation.prepare_video import Settings
from hiera_video.video.reencode import Encoding
from hiera_video.video.shards import find_member

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_files_are_those_of_the_job(tmp_path):
    pytest.importorskip("ray")
    for name in ("a", "b", "c", "segfault"):
        write_video(tmp_path / f"{name}.mp4", num_frames=20)
    (tmp_path / "train.csv").write_text("a.mp4 0\nb.mp4 1\nsegfault.mp4 0\nc.mp4 1\nnone.mp4 1\n")
    code = "import sys\nimport faulty_preparation\nfrom hiera_video.engine.preparation import job\n"
    code += "job.prepare_video = faulty_preparation.prepare\nfrom hiera_video.cli.prepare import main\n"
    code += "sys.exit(main(sys.argv[1:]))"
    words = ["DATA.PATH_TO_DATA_DIR", str(tmp_path), "--output-dir", str(tmp_path / "ray"), "--forecast-sec", "0"]
    words += ["--short-side", "64", "--preset", "veryfast", "--ray", "--workers", "2", "--tar"]
    path = f"{ROOT}:{ROOT / 'tests'}"
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, timeout=400, env=env
    )
    assert done.returncode == 0, done.stderr
    cfg = load_config([], ["DATA.PATH_TO_DATA_DIR", str(tmp_path)])
    settings = Settings(Encoding(short_side_px=64, preset="veryfast"))
    job.prepare(cfg, settings, output_dir=str(tmp_path / "here"), num_workers=2, forecast_sec=0)
    for name in ("a", "b", "c"):
        file = Path("videos") / f"{name}.mp4"
        assert (tmp_path / "ray" / file).read_bytes() == (tmp_path / "here" / file).read_bytes()
    failures = pd.read_parquet(tmp_path / "ray" / "failures.parquet").set_index("path")
    assert failures["status"].to_dict() == {f"{tmp_path}/segfault.mp4": "crashed", f"{tmp_path}/none.mp4": "missing"}
    assert (tmp_path / "ray" / "train.csv").read_bytes() == (tmp_path / "here" / "train.csv").read_bytes()
    shard = tmp_path / "ray" / "shards" / "train-000000.tar"
    for name in ("a", "b", "c"):
        member = find_member(f"{shard}#{name}.mp4")
        with open(shard, "rb") as file:
            file.seek(member.start)
            assert file.read(member.size_bytes) == (tmp_path / "ray" / "videos" / f"{name}.mp4").read_bytes()

"""Bad videos are counted, logged and limited once for the whole group of processes, also after a resume."""

from pathlib import Path

import pytest
import simplejson

from hiera_video.data.samples import BadVideo
from hiera_video.engine.launch import launch
from hiera_video.engine.training.bad_videos import BadVideos
from hiera_video.engine.training.classify import train


@pytest.fixture
def very_broken_dir(broken_dir):
    """Six of 24 training videos are empty."""
    for line in (broken_dir / "train.csv").read_text().splitlines()[:6]:
        (broken_dir / line.rsplit(" ", 1)[0]).write_bytes(b"")
    return broken_dir


def read_count(output_dir):
    lines = map(simplejson.loads, (Path(output_dir) / "metrics.jsonl").read_text().splitlines())
    return [line["bad_videos"] for line in lines if line["_type"] == "train_iter"]


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_count_and_name_each_bad_video_once(run_net, very_broken_dir, options):
    changes = {"DATA.PATH_TO_DATA_DIR": very_broken_dir}
    finished = run_net(changes, processes=2)
    assert finished.returncode == 0, finished.stderr
    counts = read_count(options["OUTPUT_DIR"])
    assert counts[-1] == 6 and counts == sorted(counts)
    log = (Path(options["OUTPUT_DIR"]) / "stdout.log").read_text()
    assert [f"bad video {number}: " in log for number in range(1, 8)] == [True] * 6 + [False]
    for line in (very_broken_dir / "train.csv").read_text().splitlines()[:6]:
        assert finished.stderr.count(line.rsplit(" ", 1)[0] + ":") == 1, "each is named once, whoever met it"


@pytest.mark.slow
@pytest.mark.distributed
def test_the_limit_is_that_of_the_group(run_net, very_broken_dir):
    """Each of two processes meets about three: a limit of four would hold for each alone."""
    finished = run_net({"DATA.PATH_TO_DATA_DIR": very_broken_dir, "DATA.MAX_BAD_VIDEOS": 5}, processes=2)
    assert (
        finished.returncode == 1
        and "6 videos could not be decoded, more than DATA.MAX_BAD_VIDEOS = 5" in finished.stderr
    )


def test_a_resumed_run_remembers_them(make_cfg, very_broken_dir):
    changes = {"DATA.PATH_TO_DATA_DIR": very_broken_dir, "SOLVER.MAX_EPOCH": 1}
    launch([train], make_cfg(changes))
    before = read_count(make_cfg(changes).OUTPUT_DIR)[-1]
    launch([train], make_cfg({**changes, "SOLVER.MAX_EPOCH": 2}))
    assert before > 0 and read_count(make_cfg(changes).OUTPUT_DIR)[3] >= before
    log = (Path(make_cfg(changes).OUTPUT_DIR) / "stdout.log").read_text()
    for line in (very_broken_dir / "train.csv").read_text().splitlines()[:6]:
        assert log.count(line.rsplit(" ", 1)[0] + ":") <= 1


def test_unreachable_videos_are_counted_apart_and_not_limited(caplog):
    bad = BadVideos(limit=1)
    bad.update({"bad": [BadVideo(3, "s3://a", "s3://a: cannot be reached", True), BadVideo(5, "b", "b: broken")]})
    bad.update(
        {"bad": [BadVideo(3, "s3://a", "again", True), BadVideo(4, "s3://c", "s3://c: cannot be reached", True)]}
    )
    bad.share()
    assert (bad.num_bad, bad.num_passing) == (1, 2)
    copy = BadVideos(limit=1)
    copy.set_state(bad.get_state())
    assert copy.found == bad.found
    bad.update({"bad": [BadVideo(6, "d", "d: broken")]})
    with pytest.raises(RuntimeError, match="2 videos could not be decoded, more than DATA.MAX_BAD_VIDEOS = 1"):
        bad.share()

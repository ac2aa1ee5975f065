"""Log lines for people and for programs."""

import simplejson

from hiera_video.utils.logging import get_logger, log_json_stats, setup_logging


def test_json_stats_are_read_back(tmp_path):
    setup_logging(tmp_path)
    log_json_stats({"loss": float("nan"), "top1": 1.5}, output_dir=tmp_path)
    log_json_stats({"loss": 2.0}, output_dir=tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [simplejson.loads(line) for line in lines] == [{"loss": None, "top1": 1.5}, {"loss": 2.0}]
    assert (tmp_path / "stdout.log").read_text().splitlines()[1].endswith('json_stats: {"loss": 2.0}')


def test_other_ranks_write_no_file(tmp_path, capsys):
    setup_logging(tmp_path, is_main=False)
    get_logger("hiera_video.x").info("not for rank 1")
    get_logger("hiera_video.x").warning("for everybody")
    assert not list(tmp_path.iterdir())
    assert "for everybody" in capsys.readouterr().err

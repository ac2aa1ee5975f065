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


def test_other_ranks_write_only_warnings_and_only_when_there_are_any(tmp_path, capsys):
    setup_logging(tmp_path, rank=3)
    get_logger("hiera_video.x").info("not for rank 3")
    assert not list((tmp_path / "logs").iterdir())
    get_logger("hiera_video.x").warning("for everybody")
    assert "W rank 3] for everybody" in capsys.readouterr().err
    assert "not for" not in (tmp_path / "logs" / "rank_3.log").read_text()
    assert "W rank 3] for everybody" in (tmp_path / "logs" / "rank_3.log").read_text()


def test_metrics_that_cannot_be_written_end_nothing(tmp_path, capsys):
    setup_logging(None)
    (tmp_path / "metrics.jsonl").mkdir()
    log_json_stats({"loss": 1.0}, output_dir=tmp_path)
    assert "a line of metrics.jsonl is lost" in capsys.readouterr().err

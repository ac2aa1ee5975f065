"""A job leaves a page about itself, and does not fail because of it."""

import logging

import pytest

from hiera_video.cli.run import main
from hiera_video.engine import job_report as module
from hiera_video.engine.job_report import write_job_report
from hiera_video.engine.launch import launch
from hiera_video.engine.training.pretrain import pretrain
from hiera_video.report import run_page


def run(options, **changes):
    pairs = {**options, "REPORT.ENABLE": "True", **changes}
    return main([word for pair in pairs.items() for word in pair])


@pytest.mark.slow
def test_training_and_test_are_on_the_page(options, tmp_path):
    assert run(options, **{"SOLVER.MAX_EPOCH": "1", "TEST.ENABLE": "True"}) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'id="plot-curve-loss"' in page and 'id="plot-confusion"' in page and "Videos tested" in page
    assert page.count("<video") > 0 and "This video no longer exists." not in page


def test_a_report_that_cannot_be_written_is_a_warning(make_cfg, tmp_path, monkeypatch, caplog):
    cfg = make_cfg({"REPORT.ENABLE": True})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.yaml").write_text("TASK: classify")
    with caplog.at_level(logging.WARNING, "hiera_video"):
        write_job_report(cfg)
    assert "no report was written: FileNotFoundError: " in caplog.text
    caplog.clear()
    (tmp_path / "out" / "metrics.jsonl").write_text('{"_type": "val_epoch", "epoch": "1/1", "top1": 3.0}\n')
    write_job_report(cfg)
    assert (tmp_path / "out" / "report.html").is_file()
    monkeypatch.setattr(run_page, "render_run_page", lambda *args, **options: 1 / 0)
    with caplog.at_level(logging.WARNING, "hiera_video"):
        write_job_report(cfg)
    assert "no report was written: ZeroDivisionError: division by zero" in caplog.text


@pytest.mark.parametrize(("is_enabled", "is_main"), [(False, True), (True, False)])
def test_when_no_report_is_written(make_cfg, tmp_path, monkeypatch, is_enabled, is_main):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.jsonl").write_text('{"_type": "val_epoch", "epoch": "1/1", "top1": 3.0}\n')
    (tmp_path / "out" / "config.yaml").write_text("TASK: classify")
    monkeypatch.setattr(module, "is_main_process", lambda: is_main)
    write_job_report(make_cfg({"REPORT.ENABLE": is_enabled}))
    assert not (tmp_path / "out" / "report.html").exists()


def test_an_extraction_gets_none_and_no_warning(make_cfg, tmp_path, caplog):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.jsonl").write_text('{"_type": "extract"}\n')
    write_job_report(make_cfg({"REPORT.ENABLE": True}))
    assert caplog.text == "" and not (tmp_path / "out" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("probe_period", [0, 2])
def test_pre_training_shows_what_it_makes_of_the_same_clips(make_cfg, tmp_path, probe_period):
    """After each epoch, also where there is a probe only after the second, or none."""
    changes = {
        "TASK": "pretrain",
        "MODEL.MODEL_NAME": "mae_hiera_tiny_16x224",
        "MAE.MASK_RATIO": 0.5,
        "MAE.DECODER_EMBED_DIM": 32,
        "MAE.DECODER_DEPTH": 1,
        "MAE.DECODER_NUM_HEADS": 2,
        "MAE.PROBE_PERIOD": probe_period,
        "MAE.PROBE_NEIGHBORS": 3,
        "DATA.TRAIN_CROP_SIZE": 64,
        "DATA.TRAIN_JITTER_SCALES": [64, 64],
        "REPORT.ENABLE": True,
        "REPORT.NUM_RECONSTRUCTIONS": 2,
    }
    launch([pretrain], make_cfg(changes))
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("after epoch 1") >= 2 and page.count("after epoch 2") >= 2
    assert page.count("data:image/jpeg") == 8  # two clips: original, masked, two epochs
    assert (tmp_path / "out" / "metrics.jsonl").read_text().count('"val_epoch"') == bool(probe_period)

"""Config keys of the page that a job writes about itself."""

from __future__ import annotations

from hiera_video.config.legal import ANY_BOOL, Key, at_least

REPORT_KEYS: dict[str, Key] = {
    "REPORT.ENABLE": Key(
        True, "Write OUTPUT_DIR/report.html after training and testing, as `hiera-video report` does.", ANY_BOOL
    ),
    "REPORT.NUM_RECONSTRUCTIONS": Key(
        4,
        "Clips of the validation list whose reconstruction pre-training draws at each probe (MAE.PROBE_PERIOD), if it "
        "predicts pixels; the report shows them. 0: none.",
        at_least(0),
    ),
}

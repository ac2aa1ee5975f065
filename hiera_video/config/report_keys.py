"""Config keys of the page that a job writes about itself."""

from __future__ import annotations

from hiera_video.config.legal import ANY_BOOL, Key, at_least

REPORT_KEYS: dict[str, Key] = {
    "REPORT.ENABLE": Key(
        True, "Write OUTPUT_DIR/report.html after training and testing, as `hiera-video report` does.", ANY_BOOL
    ),
    "REPORT.NUM_RECONSTRUCTIONS": Key(
        4,
        "Clips whose reconstruction pre-training of videos draws after each epoch, if it predicts pixels; the report "
        "shows them. They are of the validation list where there is a probe (MAE.PROBE_PERIOD), else of the training "
        "list. 0: none.",
        at_least(0),
    ),
}

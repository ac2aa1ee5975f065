"""The page that a job leaves about itself."""

from __future__ import annotations

from pathlib import Path

from fvcore.common.config import CfgNode

from hiera_video.utils.distributed import is_main_process
from hiera_video.utils.logging import get_logger

logger = get_logger(__name__)


def write_job_report(cfg: CfgNode) -> None:
    """Writes OUTPUT_DIR/report.html if REPORT.ENABLE; the main process alone does it.

    Whatever goes wrong is logged and goes no further: a job does not fail because of what is said about it.
    """
    if not cfg.REPORT.ENABLE or not is_main_process():
        return
    folder = Path(cfg.OUTPUT_DIR)
    if not any((folder / name).exists() for name in ("test_results.json", "config.yaml")):
        return  # an extraction: its embeddings have pages of their own
    try:
        from hiera_video.report.page import write_page
        from hiera_video.report.run_files import read_run
        from hiera_video.report.run_page import PAGE, render_run_page

        page = render_run_page(read_run(folder), page_dir=folder.resolve())
        write_page(folder / PAGE, page)
        logger.info("what came out is on a page: %s", folder / PAGE)
    except Exception as error:
        logger.warning("no report was written: %s: %s", type(error).__name__, error)
        logger.debug("the report failed", exc_info=True)

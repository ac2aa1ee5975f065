"""Fixtures for all tests: small videos whose frame numbers are painted into the picture, and the shared real ones."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import video_factory

pytest_plugins = ["job_fixtures", "action_fixtures", "detection_fixtures", "range_server", "browser"]


@pytest.fixture(scope="session")
def painted_video(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``painted_video("name.mp4", **options of write_video)`` -> path; the same file is written once a session."""
    folder = tmp_path_factory.mktemp("painted_videos")
    written: dict[str, tuple[dict[str, Any], Path]] = {}

    def write(name: str, **options: Any) -> Path:
        if name not in written:
            written[name] = options, video_factory.write_video(folder / name, **options)
        if written[name][0] != options:
            raise ValueError(f"{name} was already written with other options: {written[name][0]}")
        return written[name][1]

    return write


@pytest.fixture(scope="session")
def shared_videos() -> Path:
    """The folder of real videos beside the checkout; the test is skipped where it is missing."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "videos"
    if not folder.is_dir():
        pytest.skip("the folder ../shared/videos is not there")
    return folder


@pytest.fixture(autouse=True)
def fresh_logging():
    """Resets the package's log, which jobs in tests and fixtures set up, to what it is after an import.

    Afterwards too: the fixtures of the next module come first, and what a job here has set up may be closed by then.
    """
    _reset_logging()
    yield
    _reset_logging()


def _reset_logging():
    logger = logging.getLogger("hiera_video")
    logger.handlers[:], logger.propagate = [], True
    logger.setLevel(logging.NOTSET)

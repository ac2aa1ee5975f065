"""Log lines for people (standard logging) and for programs (one JSON object a line)."""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import simplejson
from tqdm import tqdm

_PACKAGE = "hiera_video"
_STATS = _PACKAGE + ".stats"


class _BarFriendlyHandler(logging.StreamHandler):
    """Writes above progress bars instead of through them."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=self.stream)


def get_logger(name: str) -> logging.Logger:
    """The logger of a module; only the package's root logger has handlers, see `setup_logging`."""
    return logging.getLogger(name)


def setup_logging(output_dir: str | Path | None, *, is_main: bool = True) -> None:
    """Sends the package's log to standard error and to ``output_dir/stdout.log``.

    On a terminal the progress bar shows how far the job is, so json_stats lines go to the file only. If standard error
    is not a terminal, they go there too.

    Args:
        output_dir: folder of the log file, created when missing; None for no file.
        is_main: False on ranks above 0, which then report warnings only, and only on standard error.
    """
    logger = logging.getLogger(_PACKAGE)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    stream = _BarFriendlyHandler(sys.stderr)
    stream.setLevel(logging.INFO if is_main else logging.WARNING)
    if sys.stderr.isatty():
        stream.addFilter(lambda record: record.name != _STATS)
    handlers: list[logging.Handler] = [stream]
    if output_dir is not None and is_main:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(Path(output_dir) / "stdout.log"))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("[%(asctime)s %(levelname).1s] %(message)s", "%m-%d %H:%M:%S"))
        logger.addHandler(handler)


def log_json_stats(stats: Mapping[str, Any], *, output_dir: str | Path | None = None) -> None:
    """Logs ``json_stats: {...}`` and appends the same object to ``output_dir/metrics.jsonl``.

    Follows: SlowFast's log format, so that its users' parsers read ours. Not-a-number becomes null.
    """
    line = simplejson.dumps(stats, ignore_nan=True, use_decimal=False)
    get_logger(_STATS).info("json_stats: %s", line)
    if output_dir is not None:
        with open(Path(output_dir) / "metrics.jsonl", "a") as file:
            file.write(line + "\n")

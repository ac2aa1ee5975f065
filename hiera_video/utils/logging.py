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


def setup_logging(output_dir: str | Path | None, *, rank: int = 0) -> None:
    """Sends the package's log to standard error and to ``output_dir/stdout.log``.

    On a terminal the progress bar shows how far the job is, so json_stats lines go to the file only. If standard error
    is not a terminal, they go there too.

    Args:
        output_dir: folder of the log file, created when missing; None for no file.
        rank: those above 0 report warnings only, to standard error and to ``logs/rank_N.log``, made by the first one.
    """
    logger = logging.getLogger(_PACKAGE)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    stream = _BarFriendlyHandler(sys.stderr)
    stream.setLevel(logging.WARNING if rank else logging.INFO)
    if sys.stderr.isatty():
        stream.addFilter(lambda record: record.name != _STATS)
    handlers: list[logging.Handler] = [stream]
    if output_dir is not None:
        handlers.append(_make_file_handler(Path(output_dir), rank))
    of_rank = f" rank {rank}" if rank else ""
    for handler in handlers:
        handler.setFormatter(logging.Formatter(f"[%(asctime)s %(levelname).1s{of_rank}] %(message)s", "%m-%d %H:%M:%S"))
        logger.addHandler(handler)


def _make_file_handler(output_dir: Path, rank: int) -> logging.Handler:
    path = output_dir / "logs" / f"rank_{rank}.log" if rank else output_dir / "stdout.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, delay=rank > 0)
    if rank:
        handler.addFilter(lambda record: record.levelno >= logging.WARNING or bool(record.exc_info))
    return handler


def log_json_stats(stats: Mapping[str, Any], *, output_dir: str | Path | None = None) -> None:
    """Logs ``json_stats: {...}`` and appends the same object to ``output_dir/metrics.jsonl``.

    Follows: SlowFast's log format, so that its users' parsers read ours. Not-a-number becomes null.
    """
    line = simplejson.dumps(stats, ignore_nan=True, use_decimal=False)
    get_logger(_STATS).info("json_stats: %s", line)
    if output_dir is not None:
        try:
            with open(Path(output_dir) / "metrics.jsonl", "a") as file:
                file.write(line + "\n")
        except OSError as error:  # a job of a week does not end because its log cannot be written for an hour
            get_logger(__name__).error("a line of metrics.jsonl is lost: %s", error)

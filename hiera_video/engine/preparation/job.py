"""The job that prepares the videos of a config's lists: it forecasts, goes on where it was, and loses no video."""

from __future__ import annotations

import datetime
import functools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import simplejson
from fvcore.common.config import CfgNode
from tqdm import tqdm

from hiera_video.data.lists import VideoList
from hiera_video.data.loader import build_train_dataset
from hiera_video.engine.output_lock import lock_output
from hiera_video.inspection.pool import WorkFailedError, map_paths
from hiera_video.inspection.survey import measure_clip_rate
from hiera_video.preparation.data_set import CONFIG, DataSet, build_data_set
from hiera_video.preparation.forecast import choose_sample, compute_forecast, compute_result, format_forecast
from hiera_video.preparation.journal import JOURNAL, Journal, is_done, remove_unfinished
from hiera_video.preparation.prepare_video import Outcome, Settings, Work, prepare_video
from hiera_video.streams.work_queue import order_by_size
from hiera_video.utils.files import write_parquet, write_whole
from hiera_video.utils.interrupt import raise_if_stopped
from hiera_video.utils.logging import get_logger
from hiera_video.utils.machine import count_cores
from hiera_video.utils.pathmgr import get_path_here
from hiera_video.utils.side_car import describe_changes
from hiera_video.utils.versions import get_versions
from hiera_video.video.manifest import VideoRecord, get_size_bytes

SIDE_CAR, FAILURES, REPORT = "prepare.json", "failures.parquet", "prepare_report.json"
MapWorks = Callable[[Callable[[Work], Outcome], Sequence[Work]], Iterator[tuple[Work, Any]]]
_DATA_KEYS = ("FORMAT", "PATH_TO_DATA_DIR", "PATH_PREFIX")
_BAR_SEC = 0.5 if sys.stderr.isatty() else 10.0
logger = get_logger(__name__)


def prepare(
    cfg: CfgNode,
    settings: Settings,
    *,
    output_dir: str,
    splits: Sequence[str] = (),
    num_workers: int = 0,
    timeout_sec: float = 7200.0,
    forecast_sec: float = 3.0,
    map_works: MapWorks | None = None,
) -> dict[str, Any]:
    """Prepares the videos of a config's lists; those that are there already are not done again.

    Args:
        cfg: the section DATA says where the lists are; the rest, how training clips are made whose rate is forecast.
        settings: how videos are written.
        output_dir: gets videos, lists, manifest, journal and report.
        splits: the splits to prepare; if empty, all that exist.
        num_workers: videos that are prepared at the same time; 0: one for each core.
        timeout_sec: time limit for one video.
        forecast_sec: how long to measure the rate of training clips, four times; 0: not at all.
        map_works: how videos are handed to processes; None: to processes of this machine.

    Returns:
        the report, as REPORT in the output folder has it.

    Raises:
        FileNotFoundError: there is no list.
        ValueError: the folder holds videos with other settings, or the format cannot be prepared.
        Interrupted: the process was asked to stop; the same call goes on.
    """
    start = time.monotonic()
    num_workers = num_workers or count_cores()
    folder = Path(output_dir).absolute()
    described = {**settings.describe(), **{f"DATA.{name}": cfg.DATA[name] for name in _DATA_KEYS}}
    _check_settings(folder, described)
    build_data_set(cfg, output_dir, splits=splits)  # stops before anything is written
    run = map_works or functools.partial(_map_here, num_workers=num_workers, timeout_sec=timeout_sec)
    with lock_output(folder):
        _write_side_car(folder, described)
        remove_unfinished(folder)
        journal = Journal(folder)
        outcomes = journal.load()
        taken = {source: str(Path(outcome.target).relative_to(folder)) for source, outcome in outcomes.items()}
        data_set = build_data_set(cfg, output_dir, splits=splits, taken=taken)
        todo = [work for work in data_set.works if not is_done(outcomes.get(work.source))]
        logger.info("%d videos to prepare, %d are done already", len(todo), len(data_set.targets) - len(todo))
        with journal, tqdm(total=len(todo), desc="preparing", unit="video", mininterval=_BAR_SEC) as bar:
            prepared = _Prepared(journal, outcomes, functools.partial(prepare_video, settings=settings), run, bar)
            sample = [todo[i] for i in choose_sample(len(todo), num_workers=num_workers)]
            prepared.do(sample)
            forecast = _make_forecast(cfg, [outcomes[work.source] for work in sample], todo, num_cores=num_workers)
            rates = measure_rates(cfg, outcomes, [work.source for work in sample], seconds=forecast_sec)
            if sample:
                logger.info("%s", format_forecast(forecast, rates))
            begun = set(sample)
            prepared.do(_order([work for work in todo if work not in begun]))
        remove_unfinished(folder)  # of processes that died or took too long
        report = {"forecast": {**forecast, "rates": rates}, "num_new": prepared.num_done}
        return _finish(cfg, data_set, outcomes, report, start=start, forecast_sec=forecast_sec)


def _map_here(
    function: Callable[[Work], Outcome], works: Sequence[Work], *, num_workers: int, timeout_sec: float
) -> Iterator[tuple[Work, Any]]:
    return map_paths(function, works, num_workers=max(min(num_workers, len(works)), 1), timeout_sec=timeout_sec)


class _Prepared:
    """Videos that become ready one after the other; each is written down before the next one."""

    def __init__(
        self,
        journal: Journal,
        outcomes: dict[str, Outcome],
        function: Callable[[Work], Outcome],
        run: MapWorks,
        bar: tqdm,
    ) -> None:
        self._journal, self._outcomes, self._function, self._run, self._bar = journal, outcomes, function, run, bar
        self.num_done = 0

    def do(self, works: Sequence[Work]) -> None:
        """Prepares videos. Raises Interrupted when the process was asked to stop."""
        for work, result in self._run(self._function, works):
            if isinstance(result, WorkFailedError):
                result = Outcome(*work, VideoRecord(result.status, str(result)))
            self._outcomes[work.source] = result
            self._journal.add(result)
            self.num_done += is_done(result)
            if not is_done(result):
                logger.warning("not prepared: %s: %s", work.source, result.record.reason)
            self._bar.update()
            raise_if_stopped(f"{sum(map(is_done, self._outcomes.values()))} videos are prepared")


def measure_rates(
    cfg: CfgNode, outcomes: Mapping[str, Outcome], sources: Sequence[str], *, seconds: float
) -> dict[str, float]:
    """Training clips that a second of one core makes: ``then`` from the sources, ``now`` from their new files.

    No manifest is used for either. Empty where there is nothing to measure.

    Args:
        cfg: how clips are made.
        outcomes: by source.
        sources: of which videos.
        seconds: how long to measure each, twice, in turns; 0: not at all.
    """
    good = [outcomes[source] for source in sources if is_done(outcomes[source])]
    if not good or not seconds:
        return {}
    clips, cpu_sec = dict.fromkeys(("then", "now"), 0.0), dict.fromkeys(("then", "now"), 0.0)
    for side in ("then", "now", "now", "then"):
        paths = [outcome.source if side == "then" else outcome.target for outcome in good]
        videos = VideoList(np.array(paths, dtype=np.str_), np.zeros(len(paths), dtype=np.int64))
        rate = measure_clip_rate(build_train_dataset(cfg, videos), seconds=seconds)
        clips[side] += rate["clips"]
        cpu_sec[side] += rate["seconds"] * rate["cpu_share"]
    return {side: clips[side] / cpu_sec[side] for side in clips}


def _make_forecast(cfg: CfgNode, sample: Sequence[Outcome], todo: Sequence[Work], *, num_cores: int) -> dict[str, Any]:
    return compute_forecast(sample, [size or 0 for size in _get_sizes(todo)], num_cores=num_cores)


def _order(works: Sequence[Work]) -> list[Work]:
    """The largest first: what takes long begins early."""
    return [works[i] for i in order_by_size(_get_sizes(works)).tolist()]


def _get_sizes(works: Sequence[Work]) -> list[int | None]:
    here = [get_path_here(work.source) for work in works]
    return [None if path is None else get_size_bytes(path) for path in here]


def _check_settings(folder: Path, described: Mapping[str, Any]) -> None:
    """Raises ValueError where the folder was prepared with other settings, or from other lists."""
    path = folder / SIDE_CAR
    if not path.is_file():
        if (folder / JOURNAL).exists():
            raise ValueError(f"{folder} has prepared videos but no {SIDE_CAR}, so their settings are unknown")
        return
    try:
        old = simplejson.loads(path.read_text())["settings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no side-car of prepared videos: {error}") from error
    if changes := describe_changes(old, described):
        raise ValueError(f"{folder} holds videos prepared with other settings ({changes}); take another output folder")


def _write_side_car(folder: Path, described: Mapping[str, Any]) -> None:
    path = folder / SIDE_CAR
    runs = simplejson.loads(path.read_text())["runs"] if path.is_file() else []
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    content = {"settings": described, "runs": [*runs, {"started": now, "versions": get_versions()}]}
    write_whole(path, (simplejson.dumps(content, indent=2) + "\n").encode())


def _finish(
    cfg: CfgNode,
    data_set: DataSet,
    outcomes: Mapping[str, Outcome],
    report: dict[str, Any],
    *,
    start: float,
    forecast_sec: float,
) -> dict[str, Any]:
    """Writes what follows the videos: lists, manifest, failures, report."""
    folder = Path(data_set.output_dir)
    listed = [outcomes[source] for source in data_set.targets]
    keys = data_set.write(outcomes)
    write_failures(folder / FAILURES, listed)
    report = report | {
        "output_dir": data_set.output_dir,
        "config": str(folder / CONFIG),
        "keys": keys,
        "result": compute_result(listed),
        "rates": measure_rates(cfg, outcomes, list(data_set.targets), seconds=forecast_sec),
        "seconds": round(time.monotonic() - start, 2),
    }
    write_whole(folder / REPORT, (simplejson.dumps(report, indent=1, ignore_nan=True) + "\n").encode())
    return report


def write_failures(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Writes a table of the videos that could not be prepared: ``path`` of the source, ``status`` and ``reason``."""
    failed = [outcome for outcome in outcomes if not is_done(outcome)]
    rows = [{"path": o.source, "status": o.record.status, "reason": o.record.reason} for o in failed]
    schema = pa.schema([(name, pa.string()) for name in ("path", "status", "reason")])
    write_parquet(path, pa.Table.from_pylist(rows, schema=schema))

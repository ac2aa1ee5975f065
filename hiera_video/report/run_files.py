"""What a job has left in its OUTPUT_DIR, read for people: config, log lines, results, predictions, failures."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from hiera_video.report.label_sets import ScoredLabelSets
from hiera_video.report.scored_clips import ScoredClips

RECONSTRUCTIONS = "reconstructions"  # folder of OUTPUT_DIR
_MAX_EPOCHS_SHOWN = 6
_BAD_VIDEO = re.compile(r"\] (?:bad|unreachable) video \d+: (.*)")
_NOT_LOGGED = ("_type", "epoch", "iter", "eta")


@dataclass(frozen=True)
class RunFiles:
    """What one OUTPUT_DIR holds; what is not there is empty.

    Attributes:
        folder: of the job.
        name: what tells it from the other runs of a page.
        config: key -> value as text, such as "SOLVER.BASE_LR": "0.001".
        train: a row for each log line of training: ``epoch`` (done, with its fraction), and the numbers of the line.
        validation: likewise, of validation.
        results: ``test_results.json``.
        clips: ``test_predictions.parquet`` of a test of classes.
        label_sets: likewise, where a video may have several classes.
        failures: (path, reason, where) of videos that could not be used.
        reconstructions: of a masked autoencoder, of each clip: its name, and (text, JPEG) of what was drawn.
    """

    folder: str
    name: str
    config: Mapping[str, str] = field(default_factory=dict)
    train: pd.DataFrame = field(default_factory=pd.DataFrame)
    validation: pd.DataFrame = field(default_factory=pd.DataFrame)
    results: Mapping[str, Any] = field(default_factory=dict)
    clips: ScoredClips | None = None
    label_sets: ScoredLabelSets | None = None
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    reconstructions: list[tuple[str, list[tuple[str, bytes]]]] = field(default_factory=list)


def read_run(folder: str | Path, *, name: str = "") -> RunFiles:
    """Reads what a job has written.

    Args:
        folder: its OUTPUT_DIR.
        name: for the page; "" takes the folder's.

    Raises:
        FileNotFoundError: there is no such folder, or it holds neither log lines nor results.
        ValueError: a file is damaged; names it.
    """
    place = Path(folder)
    if not place.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; name the OUTPUT_DIR of a job")
    train, validation = _read_metrics(place / "metrics.jsonl")
    results = _read_json(place / "test_results.json")
    if train.empty and validation.empty and not results:
        raise FileNotFoundError(
            f"{folder} holds neither metrics.jsonl with lines of a training nor test_results.json: there is nothing to "
            "report"
        )
    return RunFiles(
        folder=str(folder),
        name=name or place.resolve().name,
        config=_read_config(place),
        train=train,
        validation=validation,
        results=results,
        clips=_read_clips(place) if "top1" in results else None,
        label_sets=_read_label_sets(place) if "f1_micro" in results else None,
        failures=[*_list_failed(results), *_read_bad_videos(place / "stdout.log"), *_read_extraction(place)],
        reconstructions=_read_reconstructions(place / RECONSTRUCTIONS),
    )


def name_runs(folders: Iterable[str | Path]) -> list[str]:
    """Short names of folders: their last part, or as many parts as tell them apart."""
    parts = [Path(folder).resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts), default=1) + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(each[-1:])} ({number})" for number, each in enumerate(parts, 1)]


def _read_config(folder: Path) -> dict[str, str]:
    """The config of the training; of a test that came later, what it says of testing."""
    trained, tested = (_read_yaml(folder / name) for name in ("config.yaml", "test_config.yaml"))
    return (trained or tested) | {key: value for key, value in tested.items() if key.startswith("TEST.")}


def _read_yaml(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no yaml: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no keys")
    return dict(_flatten(content))


def _flatten(content: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _read_metrics(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    rows: dict[str, list[dict[str, Any]]] = {"train_iter": [], "val_epoch": []}
    for number, line in enumerate(_read_lines(path), start=1):
        try:
            stats = json.loads(line)
            kind = stats["_type"]
            if kind in rows:
                numbers = {key: value for key, value in stats.items() if key not in _NOT_LOGGED}
                rows[kind].append(
                    {key: value for key, value in numbers.items() if isinstance(value, int | float | None)}
                    | {"epoch": _find_epoch(stats), "steps_per_epoch": _split(stats.get("iter", "0/0"))[1]}
                )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}:{number}: {line[:80]!r} is no line of a job's log: {error!r}") from error
    return pd.DataFrame(rows["train_iter"]), pd.DataFrame(rows["val_epoch"])


def _find_epoch(stats: Mapping[str, Any]) -> float:
    """How many epochs were done at a log line: "3/10" at step "5/20" is 2.25, at a validation 3."""
    epoch, _ = _split(stats["epoch"])
    if "iter" not in stats:
        return float(epoch)
    step, num_steps = _split(stats["iter"])
    return epoch - 1 + step / num_steps


def _split(text: str) -> tuple[int, int]:
    done, _, total = text.partition("/")
    return int(done), int(total)


def _read_lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return [line for line in lines[:-1] if line]  # a last line without an end is still being written


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no object of results")
    return content


def _read_clips(folder: Path) -> ScoredClips | None:
    path = folder / "test_predictions.parquet"
    if not path.is_file():
        return None
    try:
        table = pd.read_parquet(path)
        return ScoredClips.from_table(table, _read_class_names(folder / "test_confusion.csv"))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is no table of predictions: {error}") from error


def _read_label_sets(folder: Path) -> ScoredLabelSets | None:
    path, classes = folder / "test_predictions.parquet", folder / "test_classes.csv"
    if not path.is_file() or not classes.is_file():
        return None
    try:
        # A class may be called "NA": only an empty number is none.
        unknown = {name: [""] for name in ("ap", "ap_low", "ap_high", "threshold", "precision", "recall", "f1")}
        names = pd.read_csv(classes, dtype={"class": str}, keep_default_na=False, na_values=unknown)
        return ScoredLabelSets.from_tables(pd.read_parquet(path), names)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} and {classes} are no tables of predictions: {error}") from error


def _read_class_names(path: Path) -> list[str]:
    if not path.is_file():
        return []
    header = path.open(encoding="utf-8", newline="").readline()
    # As text: pandas would make "b.1" of a name that comes twice.
    names = pd.read_csv(io.StringIO(header), header=None, dtype=str, keep_default_na=False).iloc[0].tolist()
    return names[1:-1]  # between "class" and "failed"


def _list_failed(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [(str(video["path"]), str(video["reason"]), "test") for video in results.get("failed", [])]


def _read_bad_videos(path: Path) -> list[tuple[str, str, str]]:
    """What training has left out, from the job's log; the reason names the path."""
    found = (_BAD_VIDEO.search(line) for line in _read_lines(path))
    return [("", reason, "training") for reason in dict.fromkeys(match[1] for match in found if match)]


def _read_extraction(folder: Path) -> list[tuple[str, str, str]]:
    path = folder / "failures.parquet"
    if not path.is_file():
        return []
    table = pd.read_parquet(path)
    pairs = zip(table["path"], table["reason"], strict=True)
    return [(str(video), str(reason), "extraction") for video, reason in pairs]


def _read_reconstructions(folder: Path) -> list[tuple[str, list[tuple[str, bytes]]]]:
    """What was drawn of each clip; of many epochs some, evenly spaced, with the first and the last."""
    clips = []
    for place in sorted(folder.iterdir()) if folder.is_dir() else []:
        epochs = sorted(place.glob("epoch_*.jpg"))
        count = min(len(epochs), _MAX_EPOCHS_SHOWN)
        chosen = [epochs[round(i * (len(epochs) - 1) / max(count - 1, 1))] for i in range(count)]
        files = [(name, place / f"{name}.jpg") for name in ("original", "masked")]
        files += [(f"after epoch {int(path.stem.removeprefix('epoch_'))}", path) for path in chosen]
        clips.append((place.name, [(text, path.read_bytes()) for text, path in files if path.is_file()]))
    return clips

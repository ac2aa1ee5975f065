"""From defaults, yaml files and the command line to one checked, frozen config."""

from __future__ import annotations

import argparse
import difflib
import hashlib
from ast import literal_eval
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from hiera_video.config.check import check_config
from hiera_video.config.defaults import KEYS, get_cfg
from hiera_video.utils.pathmgr import pathmgr

_PACKAGE_DIR = Path(__file__).resolve().parent.parent
_CONFIG_DIRS = (_PACKAGE_DIR / "configs", _PACKAGE_DIR.parent / "configs")  # installed | a checkout


class ConfigError(ValueError):
    """A config that cannot be meant; the message names the key or file, the value and what is legal."""


def load_config(cfg_files: Sequence[str] = (), opts: Sequence[str] = (), *, stored: str = "") -> CfgNode:
    """Merges defaults, then each yaml file in order, then ``KEY VALUE`` pairs; checks and freezes the result.

    Args:
        cfg_files: yaml files (`_BASE_` inheritance as in fvcore): paths, URLs, or names inside the packaged ``configs``
            folder such as ``Kinetics/HIERA_B_16x4.yaml``.
        opts: alternating keys and values as typed on a command line; ``KEY=VALUE`` works too.
        stored: what `dump_config` gave, e.g. from a checkpoint; merged before the files.

    Raises:
        ConfigError: unknown key (with the nearest known one), wrong type, illegal value or combination.
        FileNotFoundError: a yaml file that is not there.
    """
    cfg = get_cfg()
    for key, value in _flatten(yaml.safe_load(stored) or {}):
        _set_key(cfg, key, value, source="the stored config")
    for cfg_file in cfg_files:
        path = find_config(cfg_file)
        for key, value in _flatten(_load_yaml(path)):
            _set_key(cfg, key, value, source=cfg_file)
    for key, text in _parse_pairs(opts):
        _set_key(cfg, key, text, source="the command line")
    try:
        check_config(cfg)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    cfg.freeze()
    return cfg


def config_from_text(text: str) -> CfgNode:
    """The config that `dump_config` wrote, e.g. the one inside a checkpoint. Keys of older versions are errors."""
    cfg = get_cfg()
    for key, value in _flatten(yaml.safe_load(text)):
        _set_key(cfg, key, value, source="the stored config")
    cfg.freeze()
    return cfg


def dump_config(cfg: CfgNode) -> str:
    """The config as yaml, keys in alphabetical order: equal configs give equal text."""
    return cfg.dump()


def compute_digest(cfg: CfgNode) -> str:
    """SHA-256 of `dump_config`, as 64 hexadecimal digits."""
    return hashlib.sha256(dump_config(cfg).encode()).hexdigest()


def find_config(name: str) -> str:
    """The path of a yaml file: as given, or else inside the ``configs`` folder that comes with the package.

    Raises:
        FileNotFoundError: it is in neither place.
    """
    if "://" in name or pathmgr.isfile(name):
        return name
    parts = Path(name).parts
    relative = Path(*parts[1:]) if parts[:1] == ("configs",) else Path(name)
    for folder in _CONFIG_DIRS:
        if (folder / relative).is_file():
            return str(folder / relative)
    known = sorted(str(path.relative_to(folder)) for folder in _CONFIG_DIRS for path in folder.rglob("*.yaml"))
    nearest = difflib.get_close_matches(str(relative), known, n=3)
    hint = f" Did you mean {' or '.join(nearest)}?" if nearest else ""
    raise FileNotFoundError(f"--cfg {name}: no such file, here or among the configs of the package.{hint}")


def parse_args(argv: Sequence[str] | None = None, *, description: str) -> argparse.Namespace:
    """Command line of every job: ``--cfg FILE [FILE ...] [--print-config] [--keys] [--opts] [KEY VALUE ...]``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--cfg",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        dest="cfg_files",
        help="yaml files; later ones win, and so do KEY VALUE pairs after them",
    )
    parser.add_argument("--print-config", action="store_true", help="print the final config and stop")
    parser.add_argument("--keys", action="store_true", help="print every key with its default and meaning, and stop")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs; the word --opts may be left out"
    )
    args, rest = parser.parse_known_args(argv)
    # `--cfg a.yaml TRAIN.ENABLE False`: argparse hands the pairs to --cfg; a file name ends in .yaml, a key does not.
    pairs = [word for word in args.cfg_files if not word.endswith((".yaml", ".yml"))]
    first = args.cfg_files.index(pairs[0]) if pairs else len(args.cfg_files)
    args.cfg_files, args.opts = args.cfg_files[:first], args.cfg_files[first:] + rest + args.opts
    if args.opts and args.opts[0].startswith("-"):
        parser.error(f"unknown option {args.opts[0]}")
    return args


def describe_keys() -> str:
    """Every key with its default, meaning and legal values, as text for a terminal."""
    lines = []
    for name, key in KEYS.items():
        lines.append(f"{name} = {key.default!r}\n    {key.meaning} [{key.legal.text}]")
    return "\n".join(lines)


def _load_yaml(path: str) -> dict[str, Any]:
    try:
        return CfgNode.load_yaml_with_base(path) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid yaml: {error}") from None
    except TypeError:
        raise ConfigError(f"{path} must hold `SECTION: {{KEY: value}}` pairs") from None


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _parse_pairs(opts: Sequence[str]) -> list[tuple[str, str]]:
    words: list[str] = []
    for word in opts:
        # Only in the place of a key: a value such as a path may hold an equals sign.
        words += word.split("=", 1) if len(words) % 2 == 0 and "=" in word else [word]
    if len(words) % 2:
        raise ConfigError(f"KEY VALUE pairs expected, but {words[-1]!r} has no value; given were: {' '.join(opts)}")
    return list(zip(words[::2], words[1::2], strict=True))


def _set_key(cfg: CfgNode, name: str, value: Any, *, source: str) -> None:
    if name not in KEYS:
        nearest = difflib.get_close_matches(name.upper(), KEYS, n=3, cutoff=0.75)
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else "`tools/run_net.py --keys` lists the known ones."
        raise ConfigError(f"unknown config key {name} (value {value!r}, from {source}); {hint}")
    key = KEYS[name]
    converted = _convert(value, key.default)
    expected = type(key.default).__name__
    if converted is None:
        raise ConfigError(f"{name} = {value!r} (from {source}): a value of type {expected} is needed, {key.legal.text}")
    if not _is_legal(key.legal.accepts, converted):
        raise ConfigError(f"{name} = {converted!r} (from {source}) is not legal; {key.legal.text} is")
    *sections, leaf = name.split(".")
    node = cfg
    for section in sections:
        node = node[section]
    node[leaf] = converted


def _is_legal(accepts: Any, value: Any) -> bool:
    try:
        return bool(accepts(value))
    except TypeError:  # e.g. a text inside a list of numbers
        return False


def _convert(value: Any, default: Any) -> Any:
    """``value`` as the type of ``default``, or None when it cannot be meant as that."""
    if isinstance(default, str):
        return value if isinstance(value, str) else str(value)
    if isinstance(value, str):
        try:
            value = literal_eval(value)
        except (ValueError, SyntaxError):
            value = {"true": True, "false": False}.get(value.lower())
    if isinstance(default, bool):
        return value if isinstance(value, bool) else None
    if isinstance(value, bool):
        return None
    if isinstance(default, float):
        return float(value) if isinstance(value, int | float) else None
    if isinstance(default, int):
        return value if isinstance(value, int) else None
    return list(value) if isinstance(value, list | tuple) else None

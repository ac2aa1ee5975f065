"""From defaults, yaml files and the command line to one checked, frozen config."""

from __future__ import annotations

import difflib
import hashlib
from ast import literal_eval
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from hiera_video.config.check import check_config
from hiera_video.config.defaults import KEYS, get_cfg
from hiera_video.config.recipes import find_config


class ConfigError(ValueError):
    """A wrong config; the message names the key or file, the value and what is legal."""


def load_config(
    cfg_files: Sequence[str] = (), opts: Sequence[str] = (), *, stored: str = "", is_complete: bool = True
) -> CfgNode:
    """Merges defaults, then each yaml file in order, then ``KEY VALUE`` pairs; checks and freezes the result.

    Args:
        cfg_files: yaml files (`_BASE_` inheritance as in fvcore): paths, URLs, or names inside the packaged ``configs``
            folder such as ``Kinetics/HIERA_B_16x4.yaml``.
        opts: alternating keys and values as typed on a command line; ``KEY=VALUE`` works too.
        stored: what `dump_config` returned, e.g. from a checkpoint; merged before the files.
        is_complete: False skips the rules across keys, so that a config without a data folder can be looked at.

    Raises:
        ConfigError: unknown key (with the nearest known one), wrong type, illegal value or combination.
        FileNotFoundError: a yaml file does not exist.
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
    if is_complete:
        try:
            check_config(cfg)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    cfg.freeze()
    return cfg


def config_from_text(text: str) -> CfgNode:
    """The config whose text `dump_config` wrote, e.g. into a checkpoint. Unknown keys are errors."""
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
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else "`hiera-video run --keys` lists the known ones."
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
    """``value`` as the type of ``default``, or None if it cannot be converted."""
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

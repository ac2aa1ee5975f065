"""With what numbers a job runs: defaults, yaml files and command line, checked and frozen."""

from hiera_video.config.load import (
    ConfigError,
    compute_digest,
    config_from_text,
    describe_keys,
    dump_config,
    load_config,
)
from hiera_video.config.recipes import find_config, list_recipes

__all__ = [
    "ConfigError",
    "compute_digest",
    "config_from_text",
    "describe_keys",
    "dump_config",
    "find_config",
    "list_recipes",
    "load_config",
]

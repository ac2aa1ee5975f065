"""The recipes that come with the package: yaml files whose head comments say how to run them and what to expect."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path

from fvcore.common.config import CfgNode

from hiera_video.config.defaults import KEYS
from hiera_video.utils.pathmgr import pathmgr

_PACKAGE_DIR = Path(__file__).resolve().parent.parent
_PLACES = (_PACKAGE_DIR / "configs", _PACKAGE_DIR.parent / "configs")  # of an installed package | of a checkout
_CONFIG_DIR = next((folder for folder in _PLACES if folder.is_dir()), _PLACES[0])
_REPORTED = re.compile(r"^# The paper reports: (.+?)\.?$", re.MULTILINE)
_SHARED_PART = "Not a recipe by itself"


@dataclass(frozen=True)
class Recipe:
    """A recipe.

    Attributes:
        name: what ``--cfg`` takes, such as ``Kinetics/HIERA_B_16x4.yaml``.
        task: its TASK.
        model: its MODEL.MODEL_NAME.
        reported: the paper's number for it, from the line "The paper reports: ..." of its head; "" without one.
    """

    name: str
    task: str
    model: str
    reported: str


def list_recipes() -> list[Recipe]:
    """All recipes, in the order of their names; files that only hold what others share are no recipes."""
    return [_read_recipe(path) for path in _list_files() if _SHARED_PART not in path.read_text(encoding="utf-8")]


def find_config(name: str) -> str:
    """The path of a yaml file: as given, or else inside the ``configs`` folder that comes with the package.

    Raises:
        FileNotFoundError: it is in neither place; the message names the recipes with the nearest names.
    """
    if "://" in name or pathmgr.isfile(name):
        return name
    parts = Path(name).parts
    relative = Path(*parts[1:]) if parts[:1] == ("configs",) else Path(name)
    if (_CONFIG_DIR / relative).is_file():
        return str(_CONFIG_DIR / relative)
    known = [_get_name(path) for path in _list_files()]
    nearest = difflib.get_close_matches(str(relative), known, n=3)
    hint = f"Did you mean {' or '.join(nearest)}?" if nearest else "`hiera-video run --list` shows them."
    raise FileNotFoundError(f"--cfg {name}: there is no such file, here or among the configs of the package. {hint}")


def _list_files() -> list[Path]:
    return sorted(_CONFIG_DIR.rglob("*.yaml"))


def _get_name(path: Path) -> str:
    return path.relative_to(_CONFIG_DIR).as_posix()


def _read_recipe(path: Path) -> Recipe:
    content = CfgNode.load_yaml_with_base(str(path))
    reported = _REPORTED.search(path.read_text(encoding="utf-8"))
    return Recipe(
        name=_get_name(path),
        task=content.get("TASK", KEYS["TASK"].default),
        model=content.get("MODEL", {}).get("MODEL_NAME", KEYS["MODEL.MODEL_NAME"].default),
        reported=reported[1] if reported else "",
    )

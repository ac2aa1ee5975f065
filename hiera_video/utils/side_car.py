"""Settings that are written down beside what was made with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import simplejson


def describe_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between two sets of settings, for a message; "" if nothing does.

    Args:
        old: as they were read from a JSON file.
        new: as they are in the program.
    """
    new = simplejson.loads(simplejson.dumps(dict(new)))  # tuples are lists there
    changed = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return "; ".join(f"{name}: {old.get(name)!r} there, {new.get(name)!r} now" for name in changed)

"""Random edits of every key: a config is either whole, or refused in one line that names the key."""

import random

import pytest
import yaml

from hiera_video.config import load_config
from hiera_video.config.defaults import KEYS

COMPLETE = ["DATA.PATH_TO_DATA_DIR", "/data/x", "OUTPUT_DIR", "/tmp/x"]
VALUES = [
    *(0, 1, -1, 3, 10**9, -(10**9), 0.5, -0.5, 1e-30, 1e30, float("nan"), float("inf")),
    *(
        True,
        False,
        None,
        "",
        "x",
        "None",
        "[1, 2",
        "{}",
        "1e",
        "0x10",
        "../..",
        "a b",
        "ü",
        "\n",
        "'",
        '"',
        "!!python/x",
    ),
    *([], [1], [1, 2], [2, 1], [1, 2, 3, 4], ["a"], [[1]], [None], {"a": 1}, {}),
]


def is_one_line_about(error, key):
    text = str(error)
    names = {key, key.rsplit(".", 1)[-1], key.split(".")[0]}
    return "\n" not in text.strip().replace("\\n", "") and any(name in text for name in names)


@pytest.mark.parametrize("key", KEYS)
def test_any_value_of_a_key_is_taken_or_refused_by_name(key, tmp_path):
    """From the command line as a text, and from a file as yaml writes it."""
    for number, value in enumerate(VALUES):
        path = tmp_path / f"{number}.yaml"
        node = value
        for part in reversed(key.split(".")):
            node = {part: node}
        path.write_text(yaml.safe_dump(node))
        for files, pairs in (([], [key, str(value)]), ([str(path)], [])):
            try:
                cfg = load_config(files, [*COMPLETE, *pairs])
            except ValueError as error:
                assert is_one_line_about(error, key), (value, str(error))
            else:
                assert cfg.is_frozen()


def test_edits_of_several_keys_at_once():
    draw = random.Random(0)
    num_taken = 0
    for _ in range(500):
        keys = draw.sample(list(KEYS), 3)
        values = [draw.choice([*VALUES, *[KEYS[key].default] * len(VALUES)]) for key in keys]
        pairs = [word for pair in zip(keys, map(str, values), strict=True) for word in pair]
        try:
            load_config([], [*COMPLETE, *pairs])
            num_taken += 1
        except ValueError as error:
            assert any(is_one_line_about(error, key) for key in KEYS), str(error)
    assert 5 < num_taken < 495


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system ['touch {0}']", "a: !!python/name:os.system"])
def test_yaml_runs_no_code(text, tmp_path):
    trace = tmp_path / "trace"
    path = tmp_path / "a.yaml"
    path.write_text(text.format(trace))
    with pytest.raises(ValueError, match=r"a\.yaml"):
        load_config([str(path)], COMPLETE)
    assert not trace.exists()

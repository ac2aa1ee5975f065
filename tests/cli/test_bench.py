"""`hiera-video bench` as its user runs it: the page, the JSON, and what it refuses."""

import re
from pathlib import Path

import pytest
import simplejson

from hiera_video.cli.bench import format_rate, main

ROOT = Path(__file__).resolve().parents[2]
PRETRAIN = {
    "TASK": "pretrain",
    "MODEL.MODEL_NAME": "mae_hiera_tiny_16x224",
    "MAE.DECODER_EMBED_DIM": 16,
    "MAE.DECODER_DEPTH": 1,
    "MAE.DECODER_NUM_HEADS": 2,
    "MAE.MASK_RATIO": 0.5,
    "AUG.NUM_SAMPLE": 2,
}


@pytest.fixture
def run_bench(options, capsys, tmp_path):
    """Runs the command; returns what it printed and the object that it wrote."""

    def run(changes=None, *words):
        pairs = {**options, **{key: str(value) for key, value in (changes or {}).items()}}
        path = tmp_path / "numbers" / "bench.json"
        argv = [word for pair in pairs.items() for word in pair]
        assert main([*argv, "--seconds", "0.05", "--output", str(path), *words]) == 0
        return capsys.readouterr().out, simplejson.loads(path.read_text())

    return run


def find_documented_fields():
    """The fields that docs/commands.md names, such as ``model.batch_size``."""
    text = (ROOT / "docs" / "commands.md").read_text()
    table = text[text.index("| `format` |") :].split("\n\n")[0]
    fields = []
    for line in table.splitlines():
        names = re.findall(r"`([\w.]+)`", line.split("|")[1])
        section = names[0].split(".")[0]
        fields += [section + name if name.startswith(".") else name for name in names]
    return fields


def test_it_measures_model_data_and_both(run_bench, options):
    text, result = run_bench({"TRAIN.GRAD_ACCUM_STEPS": 2, "DATA_LOADER.NUM_WORKERS": 1})
    model, data, both = result["model"], result["data"], result["both"]
    assert (model["batch_size"], model["grad_accum_steps"], model["device"]) == (4, 2, "cpu")
    assert (data["num_workers"], data["num_videos"], data["clips_per_video"], data["num_bad"]) == (1, 24, 1, 0)
    assert 0 < data["num_videos_sampled"] <= 24 and data["bytes_per_video"] > 1000
    for part, name in (
        (model, "clips_per_sec_train"),
        (model, "clips_per_sec_forward"),
        (data, "clips_per_sec_per_core"),
        (data, "clips_per_sec"),
        (both, "clips_per_sec"),
    ):
        low, high = part[f"spread_{name}"]
        assert 0 < low <= part[name] <= high
        assert format_rate(part[name]) in text
    assert 0 < both["goodput"] <= 1 and model["peak_memory_bytes"] > 2**20
    assert result["limit"] in ("model", "data") and result["advice"] in text
    assert result["opts"][:2] == ["OUTPUT_DIR", options["OUTPUT_DIR"]]
    written = {path.name for path in Path(options["OUTPUT_DIR"]).rglob("*")}
    assert written == {".lock", "stdout.log"}, "nothing was trained"


def test_slow_models_have_digits_too():
    assert [format_rate(rate) for rate in (0.123456, 9.876, 12.34, 1234.5)] == ["0.123", "9.88", "12.3", "1234.5"]


def test_the_fields_are_those_of_the_page(run_bench):
    _, result = run_bench()
    flat = set(result)
    for section in ("model", "data", "both"):
        flat |= {f"{section}.{name}" for name in result[section] if not name.startswith("spread_")}
    assert flat - {"model"} == set(find_documented_fields())


@pytest.mark.parametrize(
    "changes",
    [{"TRAIN.CLASS_WEIGHTING": 0.5}, {"MODEL.LOSS_FUNC": "bce_logit"}, PRETRAIN],
    ids=["classify", "several classes", "pretrain"],
)
def test_made_clips_measure_the_model_alone(run_bench, changes):
    text, result = run_bench({**changes, "DATA.PATH_TO_DATA_DIR": "/no/such/folder"}, "--synthetic")
    assert result["data"] is None and result["both"] is None and result["limit"] is None
    assert result["model"]["is_synthetic"] and result["model"]["clips_per_sec_train"] > 0
    assert "(made clips)" in text and "only the model was measured" in text


def test_pretraining_is_measured_on_videos(run_bench):
    _, result = run_bench(PRETRAIN)
    assert result["task"] == "pretrain" and result["data"]["clips_per_video"] == 2


def test_videos_that_cannot_be_decoded_are_counted(run_bench, broken_dir):
    text, result = run_bench({"DATA.PATH_TO_DATA_DIR": broken_dir})
    assert result["data"]["num_bad"] == 1
    assert "note: 1 videos could not be decoded" in text


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--seconds", "0"], "--seconds is 0; it must be above 0"),
        (["TRAIN.BATCH_SIZE", "64"], "lower TRAIN.BATCH_SIZE"),
        (["DATA.PATH_TO_DATA_DIR", ""], "DATA.PATH_TO_DATA_DIR is empty"),
    ],
)
def test_what_cannot_be_measured_is_one_line(options, words, reason, capsys):
    pairs = [word for pair in options.items() for word in pair]
    assert main([*pairs, *words]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and reason in last

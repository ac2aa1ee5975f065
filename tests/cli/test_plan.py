"""The command prints the plan, writes it, and says by its status whether the config fits."""

import pytest
import simplejson
from command_words import to_words

from hiera_video.cli import plan as tool

SMALL = {"HIERA.EMBED_DIM": "32", "HIERA.STAGES": "[1, 1, 1, 1]", "DATA.NUM_FRAMES": "4", "DATA.TRAIN_CROP_SIZE": "64"}
WORDS = ["--cfg", "Kinetics/HIERA_B_16x4.yaml", "--gpus", "8", *to_words(SMALL)]


def test_the_page_names_what_is_known_and_what_is_not(tmp_path, capsys):
    path = tmp_path / "plan.json"
    assert tool.main([*WORDS, "--json", str(path)]) == 0
    page = capsys.readouterr().out
    assert page.startswith("classify hiera_base_16x224 on 8 GPUs of 80 GB\n")
    assert "240,436, assumed to be Kinetics-400" in page
    assert "`hiera-video bench` on one GPU measures it" in page and "measures what a core makes" in page
    assert "1 pass of 32 clips a step, bf16, sharding none" in page
    assert "fits: 72.0 GB may be used" in page
    content = simplejson.loads(path.read_text())
    assert content["format"] == 1 and content["run"]["steps"] == 140_850  # 939 steps of 128 videos x 150 epochs


def test_rates_as_options_give_hours_cores_and_a_sweep(capsys):
    rates = ["--gpu-clips-per-sec", "100", "--clips-per-core", "16", "--gpu-tflops", "990", "--sweep"]
    assert tool.main([*WORDS, *rates, "--num-videos", "1000"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    # 3 steps of 256 clips an epoch, 150 epochs: 115,200 clips at 800 a second.
    assert "hours 0.0 (0 GPU-hours)" in page
    assert "clips/s 800 on all GPUs" in page
    assert "cores to make the clips 50 (7 for a GPU)" in page
    assert "(MFU)" in page and "zero3" in page
    assert "clips/s of a core: 16, as given" in page


def test_what_does_not_fit_is_told_with_the_keys_that_help(capsys):
    assert tool.main([*WORDS, "--gpu-memory-gb", "0.06"]) == 1
    page = capsys.readouterr().out
    assert "DOES NOT FIT" in page and "What has to change" in page
    assert "TRAIN.GRAD_ACCUM_STEPS" in page
    assert tool.main([*WORDS, "--gpu-memory-gb", "0.001"]) == 1
    assert "more GPUs, larger ones, or a smaller model" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cfg", "nowhere.yaml", "--gpus", "8"], "error: --cfg nowhere.yaml"),
        (["--gpus", "8"], "give --num-videos N"),
        ([*WORDS, "TRAIN.BATCH", "8"], "unknown config key TRAIN.BATCH"),
        ([*WORDS, "TASK", "detect"], "a plan can be made for classify and pretrain"),
        ([*WORDS, "--bench", "nowhere.json"], "--bench nowhere.json"),
        ([*WORDS, "--num-videos", "10"], "10 videos make an epoch of 5"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(capsys, words, message):
    assert tool.main(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]


@pytest.mark.parametrize(
    "words",
    [["--gpus", "0"], ["--gpus", "x"], ["--margin", "1"], ["--clips-per-core", "0"], ["--gpu-memory-gb", "nan"]],
)
def test_numbers_out_of_range_end_at_the_command_line(capsys, words):
    with pytest.raises(SystemExit):
        tool.parse_args(["--gpus", "8", *words])
    assert "is legal" in capsys.readouterr().err

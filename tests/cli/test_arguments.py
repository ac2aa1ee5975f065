"""Options, config files and KEY VALUE pairs are told apart, and mistakes become one line."""

import argparse

import pytest

from hiera_video.cli.arguments import make_parser, parse_with_config, report_errors
from hiera_video.video import VideoDecodeError


def parse(*words):
    parser = make_parser("run", "")
    parser.add_argument("--formats", action="append")
    parser.add_argument("--fast", action="store_true")
    return parse_with_config(parser, words, lists={"--formats": ("torch", "onnx").__contains__})


@pytest.mark.parametrize(
    "words",
    [
        "--cfg a.yaml b.yaml TRAIN.ENABLE False",
        "--cfg a.yaml b.yaml --opts TRAIN.ENABLE False",
        "--cfg a.yaml --cfg b.yaml TRAIN.ENABLE False",
        "--cfg=a.yaml TRAIN.ENABLE --cfg b.yaml False",
        "TRAIN.ENABLE False --cfg a.yaml b.yaml",
    ],
)
def test_pairs_with_and_without_opts(words):
    args = parse(*words.split())
    assert args.cfg_files == ["a.yaml", "b.yaml"] and args.opts == ["TRAIN.ENABLE", "False"]


def test_a_list_ends_where_the_pairs_begin():
    args = parse("--formats", "onnx", "torch", "OUTPUT_DIR", "x", "--fast", "NUM_GPUS", "-1")
    assert args.formats == ["onnx", "torch"] and args.fast
    assert args.opts == ["OUTPUT_DIR", "x", "NUM_GPUS", "-1"]
    assert parse("--formats", "tflite", "NUM_GPUS", "0").formats == ["tflite"], "the command says what is legal"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--cfg", "argument --cfg: expected one argument"),
        ("--cfg --fast", "argument --cfg: expected one argument"),
        ("--slow", "unknown option --slow"),
        ("NUM_GPUS 1 --fas", "unknown option --fas"),
    ],
)
def test_a_wrong_option_is_named(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(*words.split())
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"hiera-video run: error: {message}"


@pytest.mark.parametrize("error", [ValueError("a"), FileNotFoundError("a"), ImportError("a"), VideoDecodeError("a")])
def test_a_mistake_is_one_line_and_a_status(error, capsys):
    def fail(argv=None):
        raise error

    assert report_errors(fail)([]) == 1 and report_errors(status=2)(fail)([]) == 2
    assert capsys.readouterr().err == "error: a\n" * 2


def test_a_bug_keeps_its_traceback():
    @report_errors
    def fail(argv=None):
        raise KeyError("a")

    with pytest.raises(KeyError):
        fail([])


def test_help_shows_the_text_as_it_stands(capsys):
    parser = make_parser("run", "One.\n\n    example\n", usage="[options]")
    assert isinstance(parser, argparse.ArgumentParser)
    with pytest.raises(SystemExit):
        parse_with_config(parser, ["--help"])
    assert "usage: hiera-video run [options]\n\nOne.\n\n    example\n" in capsys.readouterr().out

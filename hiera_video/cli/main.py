"""The command ``hiera-video``: finds the module of a sub-command and runs its ``main``."""

from __future__ import annotations

import difflib
import importlib
import os
import select
import sys
from collections.abc import Sequence

# Command -> what it does. Its module in this folder has the same name and is imported only when the command runs, so
# that `hiera-video --help` answers at once.
COMMANDS = {
    "run": "train, pre-train, test and extract as config files say; --list shows the recipes",
    "check": "look at every video of a data set before training, and name what is wrong",
    "prepare": "write a data set's videos anew so that training reads them several times as fast",
    "pack": "pack the videos of a data set into tar files, which WebDataset reads too",
    "bench": "measure what a model and its data reach on this machine, and name the limit",
    "plan": "say beforehand what a training run will cost: steps, memory, cores, hours, checkpoints",
    "crossval": "train and test in folds: each clip is tested once by a model trained without it",
    "predict": "name the classes in a video over time, also in a live stream",
    "explain": "show which parts of a video a decision rests on, as a film and a page",
    "extract": "embed videos of any length, on this machine or on a Ray cluster",
    "search": "find the clips most similar to an example, or near-duplicates, among embeddings",
    "probe": "measure what embeddings tell about classes, with classifiers and retrieval",
    "map": "draw embeddings in two dimensions, as a page to color, search and play from",
    "find-label-errors": "rank the clips whose label is probably wrong, on a page with players",
    "report": "write a page about a run, or compare runs: curves, classes, confusions, mistakes as players",
    "submit": "submit a run to Slurm, which starts it again until it has ended",
    "export": "write a model as a torch.export program and as an ONNX graph, and verify both",
    "convert": "write weights for another package, and verify that it computes the same with them",
    "check-mae-heads": "find out how many heads a masked autoencoder's decoder was trained with",
    "visualize-mae": "show what a masked autoencoder makes of a video",
    "verify-release": "test a released model on your data, and compare with the reported accuracy",
    "make-motion-dataset": "make a small data set whose classes only motion tells apart",
    "make-shape-dataset": "make a small set of pictures whose classes only form and relation tell apart",
    "demo": "make that data set, train, test, pre-train, embed and search: about ten minutes on 2 cores",
}
EXAMPLES = """examples:
  hiera-video run --list
  hiera-video run --cfg Kinetics/HIERA_B_16x4.yaml DATA.PATH_TO_DATA_DIR /data/kinetics400
  hiera-video predict clip.mp4 --checkpoint output/checkpoints/checkpoint_best.pyth
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a sub-command; returns its exit status, which is 2 for a wrong command line."""
    try:
        status = run_command(list(sys.argv[1:] if argv is None else argv) or ["--help"])
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        if not is_output_closed():
            raise
        return 0


def run_command(words: Sequence[str]) -> int:
    """Runs what the first word names with the other words; returns the exit status."""
    command = words[0]
    if command in ("-h", "--help"):
        print(describe_commands())
        return 0
    if command == "--version":
        print(describe_installation())
        return 0
    if command not in COMMANDS:
        print(f"error: {explain_unknown(command)}", file=sys.stderr)
        return 2
    limit_spinning()
    return importlib.import_module(f"hiera_video.cli.{command.replace('-', '_')}").main(words[1:])


def is_output_closed() -> bool:
    """Whether nobody reads standard output any more, as after ``| head``; if so, what is left goes nowhere."""
    poll = select.poll()
    poll.register(sys.stdout, 0)
    is_closed = any(event & select.POLLERR for _, event in poll.poll(0))
    if is_closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return is_closed


def limit_spinning() -> None:
    """Makes OpenMP's threads sleep after some microseconds of waiting for each other; call it before importing torch.

    By default they spin, which costs several times the work itself once decoding processes want the same cores. The
    processes that a command starts inherit the setting.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def describe_commands() -> str:
    """The text of ``hiera-video --help``."""
    width = max(map(len, COMMANDS))
    lines = [f"  {command:<{width}}  {meaning}" for command, meaning in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hiera-video COMMAND [options]",
            "       hiera-video COMMAND --help",
            "       hiera-video --version",
            "",
            "Video understanding with Hiera: train, test, embed, search and export.",
            "",
            "commands:",
            *lines,
            "",
            EXAMPLES.rstrip(),
        ]
    )


def describe_installation() -> str:
    """Versions, devices and decoders, one a line, for reports of problems."""
    from hiera_video.utils.machine import describe_machine
    from hiera_video.utils.versions import get_versions
    from hiera_video.video import available_backends, describe_backend

    facts = get_versions() | describe_machine()
    del facts["device"]  # `describe_machine` says more
    facts["decoders"] = "; ".join(map(describe_backend, available_backends()))
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts.items())


def explain_unknown(command: str) -> str:
    """One line that names the nearest command."""
    if command.startswith("-"):
        return f"unknown option {command}; a command comes first: hiera-video --help lists them"
    nearest = difflib.get_close_matches(command.replace("_", "-"), COMMANDS, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(COMMANDS)}"
    return f"there is no command {command}; {hint}"

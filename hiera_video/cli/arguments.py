"""What all commands share: their parsers, config files and KEY VALUE pairs among the options, errors in one line."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Mapping, Sequence

from hiera_video.utils.interrupt import EXIT_START_AGAIN, Interrupted

Main = Callable[[Sequence[str] | None], int]
_USER_ERRORS = (ValueError, FileNotFoundError, FloatingPointError, ImportError)


def report_errors(main: Main | None = None, *, status: int = 1) -> Callable:
    """Decorates the ``main`` of a command: what the user can mend becomes one line, ``error: ...``, and ``status``.

    That is wrong input, missing files and packages, and every kind of error that this package defines. Other errors
    keep their traceback, because somebody has to find out where they come from.
    """
    if main is None:
        return functools.partial(report_errors, status=status)

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except Interrupted as stop:
            print(stop, file=sys.stderr)
            return EXIT_START_AGAIN
        except Exception as error:
            if not isinstance(error, _USER_ERRORS) and not type(error).__module__.startswith("hiera_video."):
                raise
            print(f"error: {error}", file=sys.stderr)
            return status

    return run


def make_parser(command: str, description: str | None, *, usage: str | None = None) -> argparse.ArgumentParser:
    """A parser for ``hiera-video COMMAND``.

    Args:
        command: the sub-command's name.
        description: the text of its help, shown as it stands.
        usage: its arguments in one line, where argparse's own line would leave out the KEY VALUE pairs.
    """
    return argparse.ArgumentParser(
        prog=f"hiera-video {command}",
        description=description,
        usage=usage and f"%(prog)s {usage}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def parse_with_config(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
    *,
    lists: Mapping[str, Callable[[str], bool]] | None = None,
) -> argparse.Namespace:
    """Parses the command line of a command that takes configs: ``--cfg FILE [FILE ...] [KEY VALUE ...]``.

    Args:
        parser: has the command's own options.
        argv: its words; by default those that Python was started with.
        lists: option with ``action="append"`` -> which words can be its values. Such an option takes the word after it
            and all further ones that can be its values, so that KEY VALUE pairs may follow.

    Returns:
        The options, with ``cfg_files`` and ``opts``: the KEY VALUE pairs in their order.
    """
    parser.add_argument(
        "--cfg",
        action="append",
        default=[],
        metavar="FILE",
        dest="cfg_files",
        help="yaml files, or names of recipes such as Kinetics/HIERA_B_16x4.yaml; later files win, KEY VALUE pairs too",
    )
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE pairs; the word --opts may be left out"
    )
    words = _bind_values(sys.argv[1:] if argv is None else argv, {"--cfg": _is_yaml, **(lists or {})})
    args, rest = parser.parse_known_args(words)
    for word in rest:
        if word.startswith("--") or (word is rest[0] and word.startswith("-") and len(word) > 1):
            parser.error(f"unknown option {word}")
    args.opts = [*rest, *args.opts]
    return args


def _is_yaml(word: str) -> bool:
    return word.endswith((".yaml", ".yml"))


def _bind_values(words: Sequence[str], lists: Mapping[str, Callable[[str], bool]]) -> list[str]:
    """``--cfg a.yaml b.yaml KEY VALUE`` -> ``--cfg=a.yaml --cfg=b.yaml KEY VALUE``.

    By itself argparse takes all words up to the next option as values, and the pairs with them.
    """
    bound: list[str] = []
    option, is_first = "", False
    for position, word in enumerate(words):
        if word in lists:
            option, is_first = word, True
            following = words[position + 1 : position + 2]
            if not following or following[0].startswith("-"):
                bound.append(word)  # argparse says that a value is missing
        elif option and not word.startswith("-") and (is_first or lists[option](word)):
            bound.append(f"{option}={word}")
            is_first = False
        else:
            bound.append(word)
            option = ""
    return bound

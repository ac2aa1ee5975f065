"""Guards ARCHITECTURE.md: who may import whom, who may read the config, and sizes that a reader can bear."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "hiera_video"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)

_BELOW_STREAMS = {"data", "video", "utils"}
_ABOVE_DATA = {"streams", "inspection", "preparation"}
_BELOW_ENGINE = _BELOW_STREAMS | _ABOVE_DATA | {"config", "models", "solver", "embeddings", "report"}
MAY_IMPORT = {
    "utils": set(),
    "config": {"utils"},
    "models": {"utils"},
    "solver": {"utils"},
    "embeddings": {"utils"},
    "video": {"utils"},
    "data": {"video", "utils"},
    "streams": _BELOW_STREAMS,
    "inspection": _BELOW_STREAMS,
    "preparation": _BELOW_STREAMS | {"streams", "inspection"},
    "report": _BELOW_STREAMS | {"streams", "inspection", "models", "solver", "embeddings"},
    "engine": _BELOW_ENGINE,
    "cli": _BELOW_ENGINE | {"engine"},
}

TESTS = sorted(path for path in (ROOT / "tests").rglob("test_*.py") if path.parent != ROOT / "tests")
TESTS_OF_SEVERAL_MODULES = {
    "data/test_mutations.py",
    "engine/test_real_input.py",
    "engine/training/test_foreign_weights.py",
    "models/test_mae_parity.py",
    "models/test_parity.py",
    "video/test_real_videos.py",
}


def name_of(path):
    return str(path.relative_to(ROOT))


def layer_of(path):
    return path.relative_to(PACKAGE).parts[0]


def imported_layers(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "hiera_video" and len(parts) > 1:
                yield parts[1]


def imported_packages(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)


def functions_with_owner(tree):
    """(function, names of the functions and classes around it) for every function of a module."""

    def visit(node, owners):
        for child in ast.iter_child_nodes(node):
            inside = owners
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inside = [*owners, child.name]
            if isinstance(child, ast.FunctionDef):
                yield child, owners
            yield from visit(child, inside)

    yield from visit(tree, [])


def nodes_run_at_import(tree):
    """All nodes of a module but those inside functions."""
    for child in ast.iter_child_nodes(tree):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from nodes_run_at_import(child)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_layers_import_downwards_only(path):
    layer = layer_of(path)
    allowed = MAY_IMPORT[layer] | {layer}
    assert set(imported_layers(ast.parse(path.read_text()))) <= allowed


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_builders_and_the_engine_see_the_config(path):
    if layer_of(path) in ("config", "engine", "cli"):
        return
    for function, owners in functions_with_owner(ast.parse(path.read_text())):
        arguments = {argument.arg for argument in [*function.args.args, *function.args.kwonlyargs]}
        builder = any(name.lstrip("_").startswith("build_") for name in [*owners, function.name])
        assert "cfg" not in arguments or builder, f"{function.name} takes cfg"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_decoders_are_imported_by_the_reader_alone(path):
    if layer_of(path) in ("video", "cli"):
        return
    assert not {"av", "decord", "torchcodec"} & set(imported_packages(path))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_product_does_not_depend_on_an_oracle(path):
    assert not {"hiera", "timm", "skimage"} & set(imported_packages(path))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_readable(path):
    text = path.read_text()
    assert text.count("\n") <= 410, "about 400 lines"
    for function, _ in functions_with_owner(ast.parse(text)):
        statements = function.body[1:] if ast.get_docstring(function) else function.body
        length = function.end_lineno - statements[0].lineno + 1 if statements else 0
        assert length <= 60, f"{function.name} has {length} lines of code, 60 are allowed"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_public_names_have_docstrings_and_nothing_prints(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a module says what it holds"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name
    for node in ast.walk(tree):
        prints = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
        assert not prints or layer_of(path) == "cli", "use the logger"
        assert not isinstance(node, ast.Assert), "users get ValueError"


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_tests_mirror_the_package(path):
    """Who looks for the tests of a module finds them under its own name."""
    place = path.relative_to(ROOT / "tests")
    module = PACKAGE / place.parent / place.name.removeprefix("test_")
    assert module.is_file() or place.as_posix() in TESTS_OF_SEVERAL_MODULES


@pytest.mark.parametrize("path", [*FILES, *PACKAGE.glob("*.py")], ids=name_of)
def test_importing_a_module_leaves_the_environment_alone(path):
    """A program that imports us decides about its environment variables. Commands may set some when they start."""
    nodes = list(nodes_run_at_import(ast.parse(path.read_text())))
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    names |= {node.id for node in nodes if isinstance(node, ast.Name)}
    assert not names & {"environ", "putenv", "unsetenv"}


@pytest.mark.parametrize("path", [path for path in FILES if path.name != "__init__.py"], ids=name_of)
def test_every_module_is_on_the_map(path):
    words = set(re.findall(r"\w+", (ROOT / "ARCHITECTURE.md").read_text()))
    assert path.stem in words or layer_of(path) == "cli"  # of cli the map names the folder

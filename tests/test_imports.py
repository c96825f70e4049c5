"""The shape of the code: imports point one way, and modules and functions stay small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STAGES = ("loop", "sca", "train", "generate", "segment", "data_cards")
MAY_MEET = {("generate", "sca"), ("train", "loop"), ("segment", "loop"), ("train", "sca")}
NAME_STAGES = {
    *("cli", "recipe", "recipe_chain", "recipe_segmenters"),
    *("demo", "demo_engines", "demo_figures", "demo_pairs"),
}
"""Core modules that run stages; they import them inside functions only."""
DEEP = {
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "peft",
    "lycoris",
    "accelerate",
    "monai",
}
LONGEST_MODULE = 400
LONGEST_FUNCTION = 60
LONG_KERNELS = {("sca/growth.py", "_grow"), ("sca/venation.py", "_grow_closed")}
"""Compiled loops whose state is many arrays; cutting them up would only move the arrays."""

SOURCES = sorted(
    path
    for folder in ("univg", *STAGES)
    for path in (ROOT / folder).rglob("*.py")
    if "__pycache__" not in path.parts
)


def place_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def package_of(path: Path) -> list[str]:
    """Return the dotted package in which `path` is imported."""
    parts = list(path.relative_to(ROOT).parent.parts)
    return parts if parts[0] == "univg" else ["univg", *parts]


def imports_of(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield each imported module as an absolute dotted name, and whether at module level."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(inner)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(function)
    }
    for node in ast.walk(tree):
        at_top = id(node) not in inside
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package_of(path)[: len(package_of(path)) + 1 - node.level] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{whole}.{alias.name}" if whole else alias.name, at_top


def stage_in(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "univg" and parts[1] in STAGES else ""


def test_there_is_something_to_check():
    assert len(SOURCES) > 20
    assert ("univg.errors.UserError", True) in set(imports_of(ROOT / "univg" / "cli.py"))


@pytest.mark.parametrize("path", SOURCES, ids=place_of)
def test_imports_point_one_way(path):
    folder = path.relative_to(ROOT).parts[0]
    for name, at_top in imports_of(path):
        target = stage_in(name)
        if not target or target == folder or (folder, target) in MAY_MEET:
            continue
        lazily = folder == "univg" and path.stem in NAME_STAGES and not at_top
        assert lazily, f"{place_of(path)} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=place_of)
def test_stages_are_imported_under_their_installed_name(path):
    tops = {name.split(".")[0] for name, _ in imports_of(path)}
    assert not tops & set(STAGES), "a stage folder is univg.<stage>, never top level"


@pytest.mark.parametrize("path", SOURCES, ids=place_of)
def test_deep_learning_stays_where_it_belongs(path):
    place = place_of(path)
    deep = {(name, top) for name, top in imports_of(path) if name.split(".")[0] in DEEP}
    if place.startswith(("sca/", "data_cards/")):
        assert not deep
    else:
        assert not {name for name, top in deep if top and place.startswith("univg/")} or (
            path.stem.split("_")[0] in {"sd", "testing"}
        )


@pytest.mark.parametrize("path", SOURCES, ids=place_of)
def test_a_module_is_one_idea_with_a_name_of_its_own(path):
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc"}
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LONGEST_MODULE
    tree = ast.parse("\n".join(lines))
    assert ast.get_docstring(tree) or not lines


@pytest.mark.parametrize("path", SOURCES, ids=place_of)
def test_a_function_fits_a_screen(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
        and (place_of(path), node.name) not in LONG_KERNELS
    ]
    assert not long


@pytest.mark.parametrize("path", SOURCES, ids=place_of)
def test_no_global_randomness(path):
    """Generators are handed down; the global ones would make workers and order matter."""
    text = path.read_text(encoding="utf-8")
    for name, _ in imports_of(path):
        assert name.split(".")[0] != "random"
    for word in ("np.random.seed", "np.random.rand", "np.random.normal", "torch.manual_seed"):
        assert word not in text

"""The rooms of the house: no file imports upward."""

import ast
from pathlib import Path

import pytest
from conftest import REPOSITORY

# What a file may import of this project: files of its own floor and of those below.
FLOORS = {
    "convs": ("convs",),
    "settings and data": (
        *("models.methods", "utils.augment", "utils.budget", "utils.catalog", "utils.command"),
        *("utils.config", "utils.data", "utils.data_manager", "utils.file_loader", "utils.files"),
        *("utils.folders", "utils.images", "utils.launch", "utils.loader", "utils.metrics"),
        *("utils.pixels", "utils.published", "utils.seeds", "utils.settings", "utils.tables"),
    ),
    "network": ("utils.exemplars", "utils.folding", "utils.inc_net", "utils.precision"),
    "engine": (
        *("utils.engine", "utils.blocks", "utils.checkpoint", "utils.checkpoint_form"),
        *("utils.control", "utils.cuda_graph", "utils.devices", "utils.distributed"),
        *("utils.progress", "utils.runs"),
    ),
    "models": ("models", "models.base", "models.parts"),
    "run": (
        *("utils.analysis", "utils.count", "utils.evaluation", "utils.experiment"),
        *("utils.logbook", "utils.pictures", "utils.plots", "utils.report", "utils.reproduction"),
        "utils.resume",
    ),
    "main": ("main_memo", "utils.sweep"),
}


def floor(module: str) -> int:
    """Return the floor of a module of this project: its own, or else its package's."""
    for name in (module, module.rpartition(".")[0]):
        for number, members in enumerate(FLOORS.values()):
            if name in members:
                return number
    raise LookupError(f"{module} is on no floor: put it on one in tests/test_layers.py")


def modules() -> dict[str, Path]:
    """Return every module of the product and its file."""
    files = [REPOSITORY / "main_memo.py"]
    for package in ("convs", "models", "utils"):
        files += (REPOSITORY / package).rglob("*.py")
    files.remove(REPOSITORY / "utils" / "__init__.py")  # which is empty
    names = (".".join(path.relative_to(REPOSITORY).with_suffix("").parts) for path in files)
    return {name.removesuffix(".__init__"): path for name, path in zip(names, files, strict=True)}


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Return the modules of this project that a file imports, but for types only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & known.keys()


@pytest.mark.parametrize("module", modules())
def test_no_file_imports_upward(module):
    known = modules()
    assert [each for each in imports(known[module], known) if floor(each) > floor(module)] == []

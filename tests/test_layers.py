"""The rooms of the house: no file imports upward."""

import ast
from pathlib import Path

import pytest
from conftest import REPOSITORY

# What a file may import of this project: files of its own floor and of those below. One that is
# not named here is on the floor of settings and data.
FLOORS = {
    "convs": ("convs",),
    "settings": (),
    "inc_net": ("utils.inc_net", "utils.folding", "utils.exemplars", "utils.precision"),
    "engine": (
        *("utils.engine", "utils.blocks", "utils.cuda_graph", "utils.progress", "utils.control"),
        *("utils.distributed", "utils.checkpoint", "utils.checkpoint_form", "utils.devices"),
    ),
    "models": ("models",),
    "run": ("utils.experiment", "utils.resume", "utils.evaluation", "utils.analysis"),
    "main": ("main_memo", "utils.sweep"),
}
ORDER = list(FLOORS)


def floor(module: str) -> int:
    """Return the floor of a module of this project."""
    if module == "models.methods":
        return ORDER.index("settings")
    for name, members in FLOORS.items():
        if any(module == member or module.startswith(f"{member}.") for member in members):
            return ORDER.index(name)
    return ORDER.index("settings")


def modules() -> dict[str, Path]:
    """Return every module of the product and its file."""
    files = [REPOSITORY / "main_memo.py"]
    for package in ("convs", "models", "utils"):
        files += (REPOSITORY / package).rglob("*.py")
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
    above = [each for each in imports(known[module], known) if floor(each) > floor(module)]
    # `models` itself finds a learner by its name, and is asked for rows by all floors.
    assert [each for each in above if each != "models"] == []

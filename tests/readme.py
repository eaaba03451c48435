"""Bring README.md's table of settings up to date, after a method, backbone or setting was added.

python -m tests.readme
"""

from pathlib import Path

from utils.config import markdown_table

README = Path(__file__).resolve().parent.parent / "README.md"


def with_table(text: str) -> str:
    """Return README with the program's table of settings in the place of its own."""
    table = markdown_table()
    header = table.splitlines()[0]
    before, after = text.split(f"{header}\n")
    return before + table + after[after.index("\n\n") + 1 :]


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")

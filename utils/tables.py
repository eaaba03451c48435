"""Text for people: tables (Markdown, aligned to read well in a terminal; CSV; LaTeX) and times."""

import csv
import io
import re
from collections.abc import Iterable, Sequence

# What LaTeX would take for a command, and the plus-minus that our cells may hold.
_LATEX = {**{c: f"\\{c}" for c in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
_LATEX |= {"^": r"\textasciicircum{}", "±": r"$\pm$", "−": r"$-$", "<": r"$<$", ">": r"$>$"}


def markdown_text(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is aligned left, the others right."""
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        padded = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(padded)} |"

    first, *others = widths
    rule = "|".join([":" + "-" * (first + 1), *("-" * (width + 1) + ":" for width in others)])
    return "\n".join([line(lines[0]), f"|{rule}|", *map(line, lines[1:])]) + "\n"


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a CSV; None is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def latex_text(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""Return a LaTeX tabular with the rules of the booktabs package (`\usepackage{booktabs}`)."""

    def line(cells: Sequence[str]) -> str:
        minus = [re.sub(r"^-(?=\d)", "−", cell) for cell in cells]  # of a number, not a hyphen
        return " & ".join("".join(_LATEX.get(c, c) for c in cell) for cell in minus) + r" \\"

    return "\n".join(
        [
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"\toprule",
            line(header),
            r"\midrule",
            *map(line, rows),
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def duration(seconds: float) -> str:
    """Return a time as people say it: "42 s", "3 min 05 s", "1 h 02 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"

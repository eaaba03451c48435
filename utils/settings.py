"""Settings in general: declare one in a line, read it from flags and JSON, report every mistake.

What a run of this project can be told is declared in utils/config.py; this file is the machinery
beneath and knows nothing of the method. A setting is a dataclass field made by `setting(...)`: its
default, its `Kind` (what values it takes), its meaning, its short flags. From those lines come

* the flags: `parse_flags`. Every setting is a flag of its own name; one that is true or false is
  `--name` and `--no-name`. Several values: `80 120 150` or `80,120,150`. Given twice: the last
  wins;
* the JSON file, one flat object of the same names: `read_json`. Keys that begin with "_" are notes;
* the checks: `check` for each value by itself, `ask` for what must hold between them;
* the help and the table for the README: `overview_lines`, `help_lines`, `table_lines`.

Nothing here stops at a first mistake. Every function returns what was good and a list of
`Problem`s, so that the caller can report all of them in one message. That is why argparse is not
used: it leaves at the first mistake, reads `-debug` as `-d ebug`, and cannot tell a typed value
from a default.
"""

import inspect
import json
import os
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from utils import files

# --- What values a setting takes ------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """What values a setting takes, on the command line and in a JSON file alike.

    `check` turns a value as JSON holds it into the value to use and raises ValueError where it is
    wrong: without a text, the message is "must be {what}, got ...".
    """

    what: str
    check: Callable[[Any], Any]
    read: Callable[[str], Any] = str  # one word of the command line -> a value as JSON holds it
    many: bool = False  # takes several words
    bare: Any = None  # the value of the flag typed without a word, where that is allowed
    switch: bool = False  # takes no word: --name is true ...
    off: bool = False  # ... and --no-name is false


def require(condition: bool) -> None:
    """Refuse a value inside a Kind's check."""
    if not condition:
        raise ValueError


def read_number(word: str) -> int | float | str:
    """Read a number; a word that is none stays as it is, for the check to name it."""
    for read in (int, float):
        try:
            return read(word)
        except ValueError:
            continue
    return word


# Far above any sensible value: a slip of the keyboard shall not overflow something further down.
_MOST = 10**9


def whole(least: int = 0, most: int = _MOST) -> Kind:
    """Whole numbers from `least` to `most`."""

    def check(value: Any) -> int:
        require(type(value) is int and value >= least)
        if value > most:
            raise ValueError(f"must be at most {most}, got {shown(value)}")
        return value

    what = "a whole number " + (
        f"of at least {least}" if most == _MOST else f"from {least} to {most}"
    )
    return Kind(what, check, read_number)


def number(what: str, fits: Callable[[float], bool]) -> Kind:
    """Finite real numbers that fit."""

    def check(value: Any) -> float:
        require(type(value) in (int, float) and abs(value) <= sys.float_info.max and fits(value))
        return float(value)

    return Kind(what, check, read_number)


def choice(*names: str) -> Kind:
    """One of a few names, in capitals or not."""
    what = f"one of {', '.join(names)}" if len(names) > 1 else names[0]

    def check(value: Any) -> str:
        require(isinstance(value, str))
        if value.lower() not in names:
            near = nearest(value, names)
            hint = f"; did you mean {near}?" if near else ""
            raise ValueError(f"must be {what}, got {shown(value)}{hint}")
        return value.lower()

    return Kind(what, check)


def text(what: str) -> Kind:
    """Any text but an empty one."""

    def check(value: Any) -> str:
        require(isinstance(value, str) and value.strip() != "" and "\0" not in value)
        # Bytes that are no UTF-8 come in as lone surrogates, which no file of ours could hold.
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise ValueError(f"must be {what}, in UTF-8, got {shown(value)}")
        return value

    return Kind(what, check)


def path(what: str) -> Kind:
    """Any path; a leading ~ is the home folder, also where no shell has replaced it."""

    def check(value: Any) -> str:
        return os.path.expanduser(text(what).check(value))

    return Kind(what, check)


def several(
    what: str, each: Kind, fits: Callable[[list], bool] = lambda values: True, single: bool = False
) -> Kind:
    """Lists whose members are of one kind and that fit as a whole.

    With `single`, a value that is no list stands for a list of one.
    """

    def check(value: Any) -> list:
        value = [value] if single and not isinstance(value, list) else value
        require(isinstance(value, list))
        checked = [each.check(member) for member in value]
        require(fits(checked))
        return checked

    return Kind(what, check, each.read, many=True)


def entries(needed: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None) -> Kind:
    """Objects with entries of these kinds; what else is in them is not looked at.

    What is wrong is said of the entry, by its name.
    """

    kinds = {**needed, **(optional or {})}

    def check(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError(f"must be an object, got {shown(value)}")
        lacking = [key for key in needed if key not in value]
        if lacking:
            raise ValueError(f"lacks {', '.join(lacking)}")
        for key in [key for key in kinds if key in value]:
            try:
                kinds[key].check(value[key])
            except ValueError as error:
                reason = str(error) or f"must be {kinds[key].what}, got {shown(value[key])}"
                raise ValueError(f"{key} {reason}") from error
        return value

    return Kind("an object", check)


def or_none(kind: Kind) -> Kind:
    """Let a setting be left open: null in JSON."""
    return replace(
        kind,
        what=f"{kind.what}, or null",
        check=lambda value: None if value is None else kind.check(value),
    )


def _check_switch(value: Any) -> bool:
    require(type(value) is bool)
    return value


SWITCH = Kind("true or false", _check_switch, switch=True, off=True)
# A switch for this one call of the program, which no file turns on and so no flag turns off.
ACTION = replace(SWITCH, off=False)

# --- Declaring settings ---------------------------------------------------------------------------


# What a setting decides, and so what changing it in the middle of a run would do.
RESULTS = "results"  # the run would be another one
MACHINE = "machine"  # the same run, but perhaps not to the last bit
NOTHING = "nothing"  # nothing that is measured


def setting(
    default: Any,
    kind: Kind,
    meaning: str,
    *short: str,
    section: str = "",
    decides: str = RESULTS,
    of: Sequence[str] = (),
) -> Any:
    """Declare a dataclass field as a setting; a section named once holds for those that follow.

    `of` names the only ones that have it, where not all do.
    """
    about = {
        "kind": kind,
        "meaning": meaning,
        "short": short,
        "section": section,
        "decides": decides,
        "of": of,
    }
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=about)
    return field(default=default, metadata=about)


class Setting(NamedTuple):
    """One declared setting, as the parser, the help and the table see it."""

    name: str
    default: Any
    kind: Kind
    meaning: str
    short: tuple[str, ...]
    decides: str
    of: Sequence[str]
    section: str

    @property
    def flags(self) -> list[str]:
        """The flags that set it: long, short, and the one that switches it off."""
        off = [f"--no-{self.name}"] if self.kind.off else []
        return [f"--{self.name}", *self.short, *off]


def declared(dataclass_: type) -> dict[str, Setting]:
    """Return the settings that a dataclass declares, by name and in order."""
    found, section = {}, ""
    for f in fields(dataclass_):
        section = f.metadata["section"] or section
        default = f.default_factory() if callable(f.default_factory) else f.default
        about = (f.metadata[key] for key in ("kind", "meaning", "short", "decides", "of"))
        found[f.name] = Setting(f.name, default, *about, section)
    return found


# --- Reading --------------------------------------------------------------------------------------


class Given(NamedTuple):
    """A value somebody gave, and the place to name when it is wrong."""

    value: Any
    where: str


class Problem(NamedTuple):
    """A mistake, and the setting that it leaves in doubt, where there is one."""

    key: str | None
    sentence: str


# The key of a problem with a file as a whole: what its settings were meant to be is not known.
WHOLE_FILE = "the whole file"

# More of them are counted, not shown.
MOST_PROBLEMS = 20

_NOTHING = object()  # the value of a flag typed without one: no kind accepts it


def parse_flags(
    argv: Sequence[str], settings: Mapping[str, Setting]
) -> tuple[dict[str, Given], list[Problem]]:
    """Sort the words of a command line by the setting they belong to; values are not checked."""
    by_flag = {flag: each for each in settings.values() for flag in each.flags}
    # As the names of settings are written: --no_titles is --no-titles.
    by_flag |= {f"--no_{each.name}": each for each in settings.values() if each.kind.off}
    typed, problems = {}, []
    words: dict[str, list[str]] = {}
    takes = None  # where the words that follow go: a list; or None, where none may follow
    for token in argv:
        # A dash before a digit is a minus sign: -d -1.
        if token.startswith("-") and not re.match(r"-[\d.]", token):
            flag, has_value, value = token.partition("=")
            if flag not in by_flag:
                near = nearest(flag, by_flag) if len(problems) < MOST_PROBLEMS else None
                hint = f"did you mean {near}?" if near else "--help lists the flags"
                meant = by_flag[near].name if near else None
                problems.append(Problem(meant, f"{flag}: there is no such flag; {hint}"))
                takes = []  # the values of a flag that does not exist are nobody's
            elif by_flag[flag].kind.switch and not has_value:
                key, takes = by_flag[flag].name, None
                typed[key] = Given(not flag.startswith(("--no-", "--no_")), flag)
            elif by_flag[flag].kind.switch:
                sentence = f"{flag}: takes no value, got {shown(value)}"
                problems.append(Problem(by_flag[flag].name, sentence))
                takes = []
            else:
                key = by_flag[flag].name
                takes = words[key] = [value] if has_value else []
                typed[key] = Given(_NOTHING, flag)
        elif takes is not None:
            takes.append(token)
        else:
            sentence = "it belongs to no flag; flags that are on or off take no value"
            problems.append(Problem(None, f"{shown(token)} cannot be understood, {sentence}"))
    for key, found in words.items():
        kind = settings[key].kind
        if kind.many:
            found = [part for word in found for part in word.split(",") if part]
        read = [kind.read(word) for word in found]
        if read:
            value = read if kind.many or len(read) > 1 else read[0]
            typed[key] = typed[key]._replace(value=value)
        elif kind.bare is not None:
            typed[key] = typed[key]._replace(value=kind.bare)
    return typed, problems


def read_json(
    path: Path, name: str, settings: Mapping[str, Setting]
) -> tuple[dict[str, Given], list[Problem]]:
    """Read a file of settings; values are not checked.

    Args:
        path: the file.
        name: what to call it in messages.
        settings: the settings it may set.
    """
    problems = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        times = Counter(key for key, _ in pairs)
        for key in sorted(key for key, count in times.items() if count > 1):
            problems.append(Problem(key, f"{name}: {shown(key)} is there twice; keep one"))
        return dict(pairs)

    def unusable(sentence: str) -> tuple[dict[str, Given], list[Problem]]:
        return {}, [Problem(WHOLE_FILE, f"{name}: {sentence}")]

    try:
        values = files.read_json(path, unique)
    except FileNotFoundError:
        return unusable("there is no such file; a JSON file with settings is needed")
    except IsADirectoryError:
        return unusable("this is a folder; a JSON file with settings is needed")
    except OSError as error:
        return unusable(f"the file cannot be read ({error.strerror or error})")
    except ValueError as error:
        return unusable(str(error))
    given, unknown = name_keys(values, f"{name}: ", settings)
    return given, problems + unknown


def name_keys(
    values: Mapping[str, Any], place: str, settings: Mapping[str, Setting]
) -> tuple[dict[str, Given], list[Problem]]:
    """Keep the values whose keys are settings; others are problems, notes ("_...") excepted."""
    given, problems = {}, []
    for key, value in values.items():
        if key in settings:
            given[key] = Given(value, f"{place}{key}")
        elif not key.startswith("_"):
            near = nearest(key, settings) if len(problems) < MOST_PROBLEMS else None
            hint = f"did you mean {near}?" if near else "--help lists them"
            problems.append(Problem(near, f"{place}there is no setting {shown(key)}; {hint}"))
    return given, problems


# --- Checking -------------------------------------------------------------------------------------


def check(
    given: Mapping[str, Given], settings: Mapping[str, Setting]
) -> tuple[dict[str, Any], list[Problem]]:
    """Check each value by itself; return the good ones, and a problem for each other."""
    values, problems = {}, []
    for key, (value, where) in given.items():
        kind = settings[key].kind
        try:
            values[key] = kind.check(value)
        except ValueError as error:
            sentence = str(error) or f"must be {kind.what}, got {shown(value)}"
            problems.append(Problem(key, f"{where}: {sentence}"))
    return values, problems


def ask(
    rules: Iterable[Callable[..., str | None]],
    values: Mapping[str, Any],
    given: Mapping[str, Given],
    in_doubt: Iterable[str | None] = (),
    typed_first: bool = False,
) -> list[Problem]:
    """Ask each rule about the settings that its parameters name.

    A rule returns the sentence that says what is wrong, or None. The sentence is shown behind the
    place that the first parameter came from. A rule about a setting in doubt is not asked.

    With `typed_first`, it is rather the first flag typed among the parameters, if there is one:
    what the user has just done, and not a file that was never touched.
    """
    problems = []
    for rule in rules:
        about = list(inspect.signature(rule).parameters)
        sentence = None if set(in_doubt) & set(about) else rule(*(values[key] for key in about))
        if sentence:
            places = [given[key].where if key in given else f"{key} (default)" for key in about]
            typed = (place for place in places if typed_first and place.startswith("-"))
            where = next(typed, places[0])
            problems.append(Problem(about[0], f"{where}: {sentence}"))
    return problems


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that was probably meant, if there is one."""

    def plain(name: str) -> str:
        return name.lower().replace("-", "_").strip("_")

    by_plain = {plain(name): name for name in reversed(list(known))}
    near = get_close_matches(plain(word[:100]), by_plain, n=1, cutoff=0.7)
    return by_plain[near[0]] if near else None


def shown(value: Any) -> str:
    """Return a value as a message shows it: as JSON, cut where it is long."""
    if value is _NOTHING:
        return "nothing"
    as_json = json.dumps(
        value, ensure_ascii=False, default=lambda other: f"a {type(other).__name__}"
    )
    return escaped(as_json if len(as_json) <= 60 else f"{as_json[:50]}...")


def printable(message: str) -> str:
    """Return a message fit for a terminal, whatever names and values somebody put into it.

    Lines of more than 1000 characters lose their middle; see also `escaped`.
    """

    def short(line: str) -> str:
        if len(line) <= 1000:
            return line
        return f"{line[:500]} ... ({len(line) - 800:,} characters left out) ... {line[-300:]}"

    return escaped("\n".join(map(short, message.split("\n"))))


def escaped(text: str) -> str:
    """Return a text whose control characters (a terminal would obey them) are written as \\x1b.

    Line ends stay. Bytes that were no UTF-8 and hidden letters are written so too.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text
    )


# --- Showing --------------------------------------------------------------------------------------


def overview_lines(settings: Iterable[Setting]) -> list[str]:
    """Return a line a setting, by section: flags, the beginning of its meaning, default."""

    def about(each: Setting) -> list[str]:
        long, *short = [flag for flag in each.flags if not flag.startswith("--no-")]
        flags = ", ".join([long.replace("--", "--[no-]") if each.kind.off else long, *short])
        default = "" if each.default in (None, False) else f" ({_plainly(each.default)})"
        default += f" [{', '.join(each.of)}]" if each.of else ""
        meaning = re.split("; |: `", each.meaning)[0].replace("`", "")
        meaning = textwrap.shorten(meaning, 68 - len(default), placeholder=" ...")
        return [f"  {flags:<30}{meaning}{default}"]

    return _by_section(settings, about)


def help_lines(settings: Iterable[Setting]) -> list[str]:
    """Return the text about each setting, by section: flags, meaning, values, default."""

    def about(each: Setting) -> list[str]:
        takes = [] if each.kind.switch else [each.kind.what]
        if each.kind is not ACTION and each.default is not None:
            takes.append(f"default {_plainly(each.default)}")
        takes += [f"only {', '.join(each.of)}"] if each.of else []
        meaning = each.meaning + (f" ({'; '.join(takes)})" if takes else "")
        indent = " " * 6
        wrapped = textwrap.wrap(meaning, 96, initial_indent=indent, subsequent_indent=indent)
        return ["  " + ", ".join(each.flags), *wrapped]

    return _by_section(settings, about)


def _by_section(settings: Iterable[Setting], about: Callable[[Setting], list[str]]) -> list[str]:
    """Return the lines about each setting, those of a section under its name."""
    lines, section = [], ""
    for each in settings:
        if each.section != section:
            section = each.section
            lines += ["", f"{section}:"]
        lines += about(each)
    return lines


def table_lines(keys: Iterable[Setting], flags_only: Iterable[Setting]) -> list[str]:
    """Return a Markdown table of settings that are flags and JSON keys, then of mere flags."""
    lines = ["| JSON key | flags | meaning | takes | default |", "|---|---|---|---|---|"]
    for each in keys:
        flags = ", ".join(f"`{flag}`" for flag in each.flags)
        default = "none" if each.default is None else f"`{_plainly(each.default)}`"
        whose = f" (only {', '.join(each.of)})" if each.of else ""
        cells = (f"`{each.name}`", flags, each.meaning + whose, each.kind.what, default)
        lines.append(f"| {' | '.join(cells)} |")
    for each in flags_only:
        flags = ", ".join(f"`{flag}`" for flag in each.flags)
        takes = "nothing" if each.kind.switch else each.kind.what
        lines.append(f"| | {flags} | {each.meaning} | {takes} | |")
    return lines


def _plainly(default: Any) -> str:
    return default if isinstance(default, str) else json.dumps(default)

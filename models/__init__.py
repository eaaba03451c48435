"""The methods: a class-incremental learner per file, and a row of facts each in models/methods.py.

Torch is imported only when a learner is asked for, so that settings and reports can read the rows.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from models.methods import find_method

if TYPE_CHECKING:
    from models.base import Learner


def find_learner(name: str) -> "type[Learner]":
    """Return the learner of a method: the class in `models/<name>.py` that is a `Learner`.

    Raises:
        ValueError: there is no method of that name, or not one such class in its file.
    """
    from models.base import Learner

    module = import_module(f"models.{find_method(name).name}")
    found = [
        each
        for each in vars(module).values()
        if isinstance(each, type)
        and issubclass(each, Learner)
        and each.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ValueError(
            f"models/{name}.py must have one class that is a Learner, not {len(found)}"
        )
    return found[0]

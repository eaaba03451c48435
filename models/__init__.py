"""The methods: one class-incremental learner per file, found by name.

To add a method, write `models/<name>.py` with a subclass of `models.base.Learner`, add it to
`METHODS` here, name it in `utils.catalog.METHODS` (which the config check reads without importing
torch) and give it an `exps/<name>.json`.
"""

from models.base import Learner
from models.memo import Memo

METHODS: dict[str, type[Learner]] = {"memo": Memo}

__all__ = ["METHODS", "Learner", "Memo"]

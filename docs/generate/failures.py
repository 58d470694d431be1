"""The page of errors, from the one tree of them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from tables import cell, code, table

from understudy import errors

__all__ = ["page"]

INTRO = """\
# Errors

Made from `understudy/errors.py`. Every service answers an error in one shape, which is OpenAI's:

```json
{"error": {"message": "what was wrong, and what would be right", "type": "invalid_request_error",
           "param": "the field at fault", "code": "invalid_request"}}
```

`UnderstudyError` in Python, and the clients of the package, raise the class of the code again. *Again* says whether the
same request may succeed later without a change; where the time is known, `Retry-After` has it in seconds.
What to do about them is told [by symptom](../../howto/troubleshooting.md).

"""


def page() -> str:
    meaning = dict(re.findall(r"^[ │├└─]*(\w+)  +(\S.*)$", inspect.getdoc(errors) or "", re.MULTILINE))
    rows = [
        (
            "· " * (depth - 1) + code(one.__name__),
            code(one.code),
            str(one.status),
            "yes" if one.retryable else "",
            cell(meaning.get(one.__name__, inspect.cleandoc(one.__dict__.get("__doc__") or ""))),
        )
        for depth, one in _tree(errors.UnderstudyError)
    ]
    return INTRO + table(("Class", "`code`", "HTTP", "Again", "When"), rows)


def _tree(root: type[errors.UnderstudyError], depth: int = 0) -> Iterator[tuple[int, type[errors.UnderstudyError]]]:
    if depth:
        yield depth, root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _tree(child, depth + 1)

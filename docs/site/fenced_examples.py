"""A Griffe extension: doctests of docstrings become blocks of code in the reference."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_EXAMPLE = re.compile(r"^([ ]*)>>> .*(?:\n\1.*\S.*)*", re.MULTILINE)


class FencedExamples(Extension):
    """Fences each run of lines that begins with ``>>>``; Markdown would read it as a quotation."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the object's docstring."""
        if obj.docstring is not None and ">>> " in obj.docstring.value:
            obj.docstring.value = _EXAMPLE.sub(lambda m: f"{m[1]}```python\n{m[0]}\n{m[1]}```", obj.docstring.value)

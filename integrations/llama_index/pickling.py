"""Components that pickle as what they were constructed with."""

from __future__ import annotations

from typing import Any

from llama_index.core.schema import BaseComponent


class PicklesAsConfig(BaseComponent):
    """Leaves handles behind when it is pickled: a worker process loads its own model at first use.

    LlamaIndex's own ``__getstate__`` would ship every private attribute that pickle accepts (a whole model, say) and
    its ``__setstate__`` would then construct the object anew and drop it.
    """

    def __getstate__(self) -> dict[str, Any]:
        values = dict(self.__dict__)
        # Handlers hold sockets and locks, and what they collect in another process nobody reads.
        values.pop("callback_manager", None)
        return {
            "__dict__": values,
            "__pydantic_extra__": None,
            "__pydantic_fields_set__": set(self.__pydantic_fields_set__),
            "__pydantic_private__": None,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state["__dict__"])  # type: ignore[misc]

"""What an index stores of a chunk and a search compares: one module a signal; its name is the signal's ``kind``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.retrievers.signals.base import Signal as Signal, signal_from_json as signal_from_json
    from situate.retrievers.signals.dense import Dense as Dense
    from situate.retrievers.signals.document import DocumentVector as DocumentVector
    from situate.retrievers.signals.muvera import Muvera as Muvera
    from situate.retrievers.signals.propositions import Propositions as Propositions
    from situate.retrievers.signals.questions import Questions as Questions
    from situate.retrievers.signals.sparse import Sparse as Sparse
    from situate.retrievers.signals.tokens import Tokens as Tokens
    from situate.retrievers.signals.views import Views as Views

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "situate.retrievers.signals.base": ("Signal", "signal_from_json"),
        "situate.retrievers.signals.dense": ("Dense",),
        "situate.retrievers.signals.document": ("DocumentVector",),
        "situate.retrievers.signals.muvera": ("Muvera",),
        "situate.retrievers.signals.propositions": ("Propositions",),
        "situate.retrievers.signals.questions": ("Questions",),
        "situate.retrievers.signals.sparse": ("Sparse",),
        "situate.retrievers.signals.tokens": ("Tokens",),
        "situate.retrievers.signals.views": ("Views",),
    },
)

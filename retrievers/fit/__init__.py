"""Does another setting, or an adapter of queries, find more in one's own documents?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.retrievers.fit.fitting import fit as fit
    from situate.retrievers.fit.lora import fit_lora as fit_lora
    from situate.retrievers.fit.questions import Question as Question, ask_corpus as ask_corpus
    from situate.retrievers.fit.report import Fit as Fit, Verdict as Verdict

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "situate.retrievers.fit.fitting": ("fit",),
        "situate.retrievers.fit.lora": ("fit_lora",),
        "situate.retrievers.fit.questions": (
            "Question",
            "ask_corpus",
        ),
        "situate.retrievers.fit.report": (
            "Fit",
            "Verdict",
        ),
    },
)

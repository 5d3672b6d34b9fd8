"""How good is retrieval on a set of judged queries, and is one configuration really better than another?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate.chunkers._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.retrievers.evaluation.cached_encoder import CachedEncoder
    from situate.retrievers.evaluation.comparison import Comparison, Interval, compare
    from situate.retrievers.evaluation.encoding_store import EncodingStore
    from situate.retrievers.evaluation.judgements import EvaluationSet, Judgement, load_beir, load_jsonl
    from situate.retrievers.evaluation.measures import evaluate
    from situate.retrievers.evaluation.mteb_models import MtebEncoder, MtebSearch
    from situate.retrievers.evaluation.synthetic import write_questions

__all__ = [
    "CachedEncoder",
    "Comparison",
    "EncodingStore",
    "EvaluationSet",
    "Interval",
    "Judgement",
    "MtebEncoder",
    "MtebSearch",
    "compare",
    "evaluate",
    "load_beir",
    "load_jsonl",
    "write_questions",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "CachedEncoder": "cached_encoder",
        "EncodingStore": "encoding_store",
        "Comparison": "comparison",
        "Interval": "comparison",
        "compare": "comparison",
        "EvaluationSet": "judgements",
        "Judgement": "judgements",
        "load_beir": "judgements",
        "load_jsonl": "judgements",
        "evaluate": "measures",
        "MtebEncoder": "mteb_models",
        "MtebSearch": "mteb_models",
        "write_questions": "synthetic",
    },
)

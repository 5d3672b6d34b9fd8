"""How good is retrieval on a set of judged queries, and is one configuration really better than another?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate._lazy import lazy_exports

if TYPE_CHECKING:
    from situate.retrievers.evaluation.cached_encoder import CachedEncoder as CachedEncoder
    from situate.retrievers.evaluation.comparison import (
        Comparison as Comparison,
        Interval as Interval,
        compare as compare,
    )
    from situate.retrievers.evaluation.encoding_store import EncodingStore as EncodingStore
    from situate.retrievers.evaluation.judgements import (
        EvaluationSet as EvaluationSet,
        Judgement as Judgement,
        load_beir as load_beir,
        load_jsonl as load_jsonl,
    )
    from situate.retrievers.evaluation.measures import evaluate as evaluate
    from situate.retrievers.evaluation.mteb_models import MtebEncoder as MtebEncoder, MtebSearch as MtebSearch
    from situate.retrievers.evaluation.perturbations import Perturbation as Perturbation, perturbed as perturbed
    from situate.retrievers.evaluation.synthetic import write_questions as write_questions

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "situate.retrievers.evaluation.cached_encoder": ("CachedEncoder",),
        "situate.retrievers.evaluation.comparison": (
            "Comparison",
            "Interval",
            "compare",
        ),
        "situate.retrievers.evaluation.encoding_store": ("EncodingStore",),
        "situate.retrievers.evaluation.judgements": (
            "EvaluationSet",
            "Judgement",
            "load_beir",
            "load_jsonl",
        ),
        "situate.retrievers.evaluation.measures": ("evaluate",),
        "situate.retrievers.evaluation.mteb_models": (
            "MtebEncoder",
            "MtebSearch",
        ),
        "situate.retrievers.evaluation.perturbations": (
            "Perturbation",
            "perturbed",
        ),
        "situate.retrievers.evaluation.synthetic": ("write_questions",),
    },
)

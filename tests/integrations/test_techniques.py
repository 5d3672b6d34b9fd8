"""Every technique of an index and of a query, by one parameter in LlamaIndex and in LangChain, with its page.

`BUILT` are those that decide what is stored, each indexed and searched through both frameworks here. `ELSEWHERE` are
those that other tests reach in both frameworks, with the test that does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document as LangChainDocument
from llama_index.core.schema import Document as LlamaDocument

from situate.chunkers import KeyphraseSituator, PruningChunker, TextChunker
from situate.embedders import ChunkScheme
from situate.integrations.langchain import SituateEmbeddings, SituateRetriever
from situate.integrations.llama_index import SituateEmbedding, SituateRetriever as LlamaRetriever
from situate.retrievers import Index, PipelineConfig
from situate.retrievers.config import LexicalScheme
from situate.retrievers.index import projection
from situate.types import Document
from tests.integrations.test_signals import QUERY, SITUATORS, TEXTS

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::situate.errors.TruncationWarning"),  # of the tiny ColBERT
]

REPOSITORY = Path(__file__).parents[2]
MODEL = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Row:
    """A technique.

    Attributes:
        page: Its page and heading below docs/, where its effect stands, or that it was not measured.
        shows: Whether the index, and a search for `QUERY`, show it.
        model: Parameters of the embedding class of both frameworks.
        built: Parameters of ``from_documents`` of both retrievers.
    """

    page: str
    shows: Callable[[Index], Any]
    model: dict[str, Any] = field(default_factory=dict)
    built: dict[str, Any] = field(default_factory=dict)


def scored(step: str) -> Callable[[Index], bool]:
    """The first hit has a score of this step."""
    return lambda index: step in index.search(QUERY, 3)[0].scores


def matched(value: str) -> Callable[[Index], bool]:
    """The first hit says which of its questions, or statements, matched."""
    return lambda index: getattr(index.search(QUERY, 3)[0], value) is not None


def few_words(texts: Sequence[str]) -> list[float]:
    """A scorer: of two sentences the shorter holds less."""
    return [min(1.0, len(text) / 40) for text in texts]


BUILT: dict[str, Row] = {
    "learned sparse": Row(
        "signals.md#learned-sparse-vectors",
        scored("sparse"),
        built={"signals": [{"kind": "sparse", "model": "SPLADE", "weight": 0.05, "options": {"device": "cpu"}}]},
    ),
    "dense and sparse by one prompt": Row(
        "signals.md#sparse-vectors-by-a-prompt",
        scored("promptreps"),
        built={"signals": [{"kind": "promptreps", "model": "DECODER", "weight": 0.05, "options": {"device": "cpu"}}]},
    ),
    "tokens of a trained ColBERT": Row(
        "signals.md#token-vectors",
        scored("maxsim"),
        built={"signals": [{"kind": "tokens", "model": "COLBERT", "options": {"device": "cpu"}}]},
    ),
    "three heads in one pass": Row(
        "signals.md#three-heads-of-one-model",
        lambda index: {"sparse", "maxsim"} <= index.search(QUERY, 3)[0].scores.keys(),
        model={
            "model": "M3",
            "pooling": "cls",
            "token_heads": True,
            "allow_pickle": True,
            "query_instruction": "",
            "document_instruction": "",
        },
        built={"signals": [{"kind": "sparse", "weight": 0.2}, "tokens"]},
    ),
    "MUVERA": Row(
        "signals.md#muvera",
        scored("muvera"),
        built={"signals": [{"kind": "muvera", "repetitions": 4, "bits": 3, "weight": 0.5}]},
    ),
    "tokens pooled, pruned and in bytes": Row(
        "signals.md#token-vectors",
        scored("maxsim"),
        built={"signals": [{"kind": "tokens", "pool": 2, "prune": 0.2, "datatype": "int8"}]},
    ),
    "aspects": Row(
        "signals.md#further-dense-vectors",
        scored("dense_2"),
        built={"signals": [{"kind": "dense", "scheme": {"context": ["title"], "pool_context": True}}]},
    ),
    "ensemble of two embedders": Row(
        "signals.md#further-dense-vectors",
        scored("dense_2"),
        built={"signals": [{"kind": "dense", "model": MODEL, "options": {"layers": 3}}]},
    ),
    "views": Row("signals.md#views", scored("views"), built={"signals": ["views"]}),
    "document": Row("document-scores.md", scored("document"), built={"signals": [{"kind": "document", "weight": 0.2}]}),
    "questions in languages, with answers": Row(
        "signals.md#questions-and-propositions",
        matched("answer"),
        built={"signals": [{"kind": "questions", "weight": 0.9}], "situators": SITUATORS},
    ),
    "propositions": Row(
        "signals.md#questions-and-propositions",
        matched("proposition"),
        built={"signals": [{"kind": "propositions", "weight": 0.9}], "situators": SITUATORS},
    ),
    "keyphrases": Row(
        "situated-context.md#keyphrases-keyphrasesituator",
        lambda index: index.get_chunks(["orchard"])[0].context.keyphrases,
        built={"situators": [KeyphraseSituator(list(TEXTS.values()), common=0.5)]},
    ),
    **{
        f"compression {kind}": Row(
            "signals.md#compressed-vectors",
            lambda index, kind=kind: index.open().config.compression == kind and index.search(QUERY).hits,
            built={"compression": kind},
        )
        for kind in ("int8", "binary", "signs", "product")
    },
    "compression pca": Row(
        "signals.md#compressed-vectors",
        lambda index: index.gateway.codes is not None and index.search(QUERY).hits,
        built={"compression": "pca:2"},
    ),
    "mean of layers": Row(
        "geometry.md#what-it-gives",
        lambda index: index.embedder.settings.mean_layers == (1, -1),
        model={"mean_layers": [1, -1]},
    ),
    "lexical search in any language": Row(
        "languages.md#what-it-gives",
        lambda index: scored("bm25")(index) and index.config.lexical.language == ("german", "thai"),
        built={"config": PipelineConfig(lexical=LexicalScheme(language=("german", "thai")))},
    ),
    "late chunking": Row(
        "late-chunking.md",
        lambda index: index.config.dense.late,
        built={"config": PipelineConfig(dense=ChunkScheme(late=True))},
    ),
    "pruning by quality": Row(
        "chunkers.md#leaving-out-what-holds-nothing",
        lambda index: index.count() < sum(len(TextChunker(size=40).split(Document(*each))) for each in TEXTS.items()),
        built={"chunker": PruningChunker(TextChunker(size=40), threshold=0.3, scorer=few_words)},
    ),
}

#: Technique -> its page, and the file and the words in it that reach it in both frameworks.
ELSEWHERE: dict[str, tuple[str, str, str]] = {
    "bridge of versions": (
        "encoder.md#another-model-for-an-index",
        "tests/embedders/test_bridge.py",
        "def test_both_frameworks_take_a_bridge",
    ),
    "two encoders": (
        "encoder.md#two-encoders",
        "tests/embedders/test_querier.py",
        "def test_both_frameworks_take_a_query_model",
    ),
    **dict.fromkeys(
        ("hubness", "whitening"),
        (
            "geometry.md#what-it-gives",
            "tests/retrievers/search/test_geometry.py",
            "def test_one_parameter_reaches_them_from_both_frameworks_and_yaml",
        ),
    ),
    "semantic cache": ("semantic-cache.md", "tests/integrations/test_caches.py", "class TestLangChainsSuite"),
    "attribution": ("highlights.md#attribution", "tests/integrations/test_steps_of_both.py", "step.attribute("),
    "topical chunks": ("chunkers.md#which-one", "tests/integrations/test_steps_of_both.py", "TopicChunker("),
    "query likelihood": ("reranking.md#query-likelihood", "tests/integrations/test_steps_of_both.py", "Overlap()"),
    **{
        name: (page, "tests/integrations/test_steps_of_both.py", f'    "{step}": lambda')
        for name, page, step in (
            ("the score before", "reranking.md#the-score-before-and-sentences", "prior"),
            ("sentences of passages", "reranking.md#the-score-before-and-sentences", "sentences"),
            ("spread as confidence", "reranking.md#query-likelihood", "a scorer that knows how sure it is"),
            ("soft grades", "reranking.md#language-models", "soft grades"),
            ("soft choices", "reranking.md#language-models", "soft choices"),
            ("diffusion", "reranking.md#scores-spread-among-hits-that-are-alike", "diffusion"),
            ("links", "reranking.md#scores-along-links", "links"),
            ("several hops", "hyde.md#several-hops", "several hops"),
            ("instruction of a query", "reranking.md#language-models", "instruction"),
            ("highlight", "highlights.md#the-marks", "highlight"),
        )
    },
}


def by_llama_index(model: dict[str, Any], built: dict[str, Any]) -> tuple[Index, list[str]]:
    embed_model = SituateEmbedding(**{"model_name": MODEL, "device": "cpu", **_renamed(model, "model", "model_name")})
    documents = [LlamaDocument(id_=name, text=text) for name, text in TEXTS.items()]
    retriever = LlamaRetriever.from_documents(documents, embed_model=embed_model, **built)
    return retriever.index, [node.node.ref_doc_id or "" for node in retriever.retrieve(QUERY)]


def by_langchain(model: dict[str, Any], built: dict[str, Any]) -> tuple[Index, list[str]]:
    embeddings = SituateEmbeddings(**{"model": MODEL, "device": "cpu", **model})
    documents = [LangChainDocument(text, id=name) for name, text in TEXTS.items()]
    retriever = SituateRetriever.from_documents(documents, embeddings, **_renamed(built, "chunker", "splitter"))
    return retriever.index, [document.page_content for document in retriever.invoke(QUERY)]


def _renamed(values: dict[str, Any], name: str, other: str) -> dict[str, Any]:
    return {other if key == name else key: value for key, value in values.items()}


@pytest.fixture
def tiny(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Puts the folders of tiny models in place of their names."""
    fixtures = {"SPLADE": "splade_path", "DECODER": "decoder_path", "COLBERT": "colbert_path", "M3": "m3_path"}

    def placed(value: Any) -> Any:
        if isinstance(value, str) and value in fixtures:
            return str(request.getfixturevalue(fixtures[value]))
        if isinstance(value, dict):
            return {name: placed(each) for name, each in value.items()}
        return [placed(each) for each in value] if isinstance(value, list) else value

    return placed


@pytest.mark.parametrize(
    ("name", "way"),
    [
        # The short form tries each by one framework, in turn.
        pytest.param(name, way, marks=[] if i % 2 == j else pytest.mark.full)
        for i, name in enumerate(BUILT)
        for j, way in enumerate((by_llama_index, by_langchain))
    ],
)
def test_each_is_one_parameter_of_both_frameworks(
    name: str, way: Any, tiny: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "least", lambda size: 2)
    row = BUILT[name]
    index, found = way(tiny(row.model), tiny(row.built))
    with index:
        assert found
        assert row.shows(index)


@pytest.mark.parametrize("name", [*BUILT, *ELSEWHERE])
def test_each_has_a_page_that_says_what_it_brings(name: str) -> None:
    page = BUILT[name].page if name in BUILT else ELSEWHERE[name][0]
    file, _, anchor = page.partition("#")
    text = (REPOSITORY / "docs" / file).read_text(encoding="utf-8")
    if anchor:
        sections = re.split(r"^(?=##+ )", text, flags=re.MULTILINE)
        (text,) = (part for part in sections if _anchor(part.partition("\n")[0]) == anchor)
    assert re.search(r"measured|%|nDCG|recall", text, re.IGNORECASE), f"{page} does not say what {name} brings"


@pytest.mark.parametrize("name", ELSEWHERE)
def test_each_that_is_elsewhere_is_there(name: str) -> None:
    _, file, words = ELSEWHERE[name]
    assert words in (REPOSITORY / file).read_text(encoding="utf-8")


def _anchor(heading: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.lstrip("#").strip().lower()).replace(" ", "-")

"""Hubness and whitening, against their formulas over a whole collection, and all that reaches or refuses them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document as LangChainDocument
from llama_index.core.schema import Document as LlamaDocument

from situate.chunkers import Document
from situate.configuration import load
from situate.embedders import Embedder
from situate.embedders.types import Vectors
from situate.errors import ConventionError, FallbackWarning, InputError
from situate.integrations.langchain import SituateDocumentIndex, SituateEmbeddings, SituateRetriever, SituateVectorStore
from situate.integrations.llama_index import SituateEmbedding, SituateRetriever as LlamaRetriever
from situate.retrievers import Feedback, Hubness, Index, PipelineConfig, Whitening
from situate.retrievers.index.payload import DENSE
from situate.retrievers.search.hybrid import HybridSearch
from situate.vectors import unit

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:models of the family"),  # which was not trained to be cut to 12 numbers
]

NAMES = ("ferry", "orchard", "council", "violin", "harbour", "oven", "engine", "whale", "contract", "museum")
TEXTS = {f"{name}-{i}": f"Of the {name}, and of what is {i} miles from it." for name in NAMES for i in range(4)}
QUERY = "How far away is the museum?"
ASKED = tuple(f"What is near the {name}?" for name in NAMES)


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    """Few dimensions, so that few chunks have directions enough."""
    return Embedder(dtype="float32", dimensions=12)


def index_of(embedder: Embedder, **fields: Any) -> Index:
    index = Index(embedder, config=replace(PipelineConfig.plain(), **fields))
    index.add([Document(name, text) for name, text in TEXTS.items()])
    return index


def found(index: Index) -> dict[str, float]:
    return {hit.chunk.document_id: hit.scores[DENSE] for hit in index.search(QUERY, k=len(TEXTS))}


def white(rows: Vectors, ridge: float) -> tuple[Vectors, Vectors]:
    """The kernel of BERT-whitening (Su et al. 2021), by a singular value decomposition."""
    covariance = np.cov(rows.T)
    u, s, _ = np.linalg.svd(covariance)
    return rows.mean(0), u @ np.diag(1 / np.sqrt(s + ridge * s.mean()))


def without_top(rows: Vectors, count: int) -> tuple[Vectors, Vectors]:
    """All but the top (Mu and Viswanath 2018): the projection that takes the first principal components off."""
    _, _, axes = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    return rows.mean(0), np.eye(rows.shape[1]) - axes[:count].T @ axes[:count]


@pytest.mark.parametrize("feedback", [None, Feedback()])
@pytest.mark.parametrize("ridge", [0.0, 1.0])
def test_whitened_similarities_are_those_of_the_paper(
    embedder: Embedder, ridge: float, feedback: Feedback | None
) -> None:
    rows, query = embedder.embed_documents(list(TEXTS.values())), embedder.embed_queries([QUERY])[0]
    mean, kernel = white(rows, ridge)
    placed = unit((rows - mean) @ kernel)
    wanted = placed @ unit((query - mean) @ kernel)
    if feedback is not None:
        nearest = rows[np.argsort(-wanted)[: feedback.top]].mean(0)
        wanted = placed @ unit((unit(query + feedback.beta * nearest) - mean) @ kernel)
    with index_of(embedder, whitening=Whitening(ridge=ridge), feedback=feedback) as index:
        assert found(index) == pytest.approx(dict(zip(TEXTS, wanted, strict=True)), abs=2e-4)


def test_all_but_the_top(embedder: Embedder) -> None:
    rows, query = embedder.embed_documents(list(TEXTS.values())), embedder.embed_queries([QUERY])[0]
    with index_of(embedder, whitening={"remove": 2}) as index:
        mean, kept = without_top(rows, 2)
        wanted = unit((rows - mean) @ kept) @ unit((query - mean) @ kept)
        assert found(index) == pytest.approx(dict(zip(TEXTS, wanted, strict=True)), abs=2e-4)


@pytest.mark.parametrize("whitening", [None, Whitening()])
def test_csls_subtracts_the_mean_of_the_nearest_queries(embedder: Embedder, whitening: Whitening | None) -> None:
    rows = embedder.embed_documents(list(TEXTS.values()))
    asked, query = embedder.embed_queries(ASKED), embedder.embed_queries([QUERY])[0]
    if whitening is not None:
        mean, kernel = white(rows, whitening.ridge)
        rows, asked, query = (unit((each - mean) @ kernel) for each in (rows, asked, query))
    nearest = np.sort(rows @ asked.T, axis=1)[:, -4:].mean(1)
    # Twice the similarity less both means, whose half is this and what is the same for all chunks.
    csls = 2 * rows @ query - nearest - np.sort(asked @ query)[-4:].mean()
    hubness = Hubness(weight=0.5, neighbours=4, queries=ASKED)
    with index_of(embedder, hubness=hubness, whitening=whitening) as index:
        scores = found(index)
    wanted = dict(zip(TEXTS, csls / 2, strict=True))
    shift = np.mean([scores[name] - wanted[name] for name in TEXTS])
    assert {name: score - shift for name, score in scores.items()} == pytest.approx(wanted, abs=2e-4)


def test_without_queries_the_first_words_of_other_chunks_are_asked(embedder: Embedder) -> None:
    rows, query = embedder.embed_documents(list(TEXTS.values())), embedder.embed_queries([QUERY])[0]
    asked = embedder.embed_queries([" ".join(text.split()[:12]) for text in TEXTS.values()])
    near = rows @ asked.T
    np.fill_diagonal(near, -1)
    wanted = rows @ query - 0.25 * np.sort(near, axis=1)[:, -10:].mean(1)
    with index_of(embedder, hubness=Hubness()) as index:
        assert found(index) == pytest.approx(dict(zip(TEXTS, wanted, strict=True)), abs=2e-4)


async def test_relevance_stays_and_so_does_what_is_stored(embedder: Embedder) -> None:
    fast = PipelineConfig.fast()
    with index_of(embedder, **vars_of(fast)) as index:
        before = {hit.chunk.id: hit.relevance for hit in index.search(QUERY, k=5)}
        changed = replace(fast, hubness=Hubness(queries=ASKED), whitening=Whitening())
        assert changed.stored() == fast.stored()
        with Index(embedder, client=index.client, config=changed) as other:
            hits = other.search(QUERY, k=20).hits
            assert {h.chunk.id: h.relevance for h in hits if h.chunk.id in before} == pytest.approx(before, abs=1e-4)
            assert [hit.chunk.id for hit in (await other.asearch(QUERY, k=20)).hits] == [hit.chunk.id for hit in hits]


def vars_of(config: PipelineConfig) -> Mapping[str, Any]:
    return {name: getattr(config, name) for name in ("dense", "lexical")}


@pytest.mark.parametrize("fields", [{"hubness": Hubness()}, {"whitening": Whitening()}])
def test_a_collection_that_is_too_small_says_so(embedder: Embedder, fields: dict[str, Any]) -> None:
    with Index(embedder, config=replace(PipelineConfig.plain(), **fields)) as index:
        index.add([Document("a", "The ferry leaves at nine.")])
        with pytest.warns(FallbackWarning, match="fewer than 1[12] chunks"):
            score = index.search(QUERY)[0].score
    cosine = embedder.embed_documents(["The ferry leaves at nine."]) @ embedder.embed_queries([QUERY])[0]
    assert score == pytest.approx(float(cosine[0]), abs=1e-5)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"hubness": {"weight": 1.5}}, "between 0 and 1"),
        ({"hubness": {"neighbours": 0}}, "at least"),
        ({"hubness": {"queries": ["one", "two"]}}, "2 different queries"),
        ({"hubness": {"queries": "one text"}}, "no list of questions"),
        ({"hubness": {"share": 0.5}}, "share"),
        ({"hubness": 0.5}, "is no Hubness"),
        ({"hubness": {"weight": "much"}}, r"weight=\) is .much"),
        ({"hubness": {"queries": [1, 2]}}, "no list of questions"),
        ({"whitening": {"remove": -1}}, "0 or more"),
        ({"whitening": {"ridge": -1}}, "0 or more"),
        ({"whitening": True}, "is no Whitening"),
        ({"whitening": {}, "fusion": "rrf"}, "need fusion='minmax'"),
    ],
)
def test_wrong_values_are_refused(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        PipelineConfig(**fields)


def test_models_and_collections_that_it_does_not_fit_are_refused(embedder: Embedder) -> None:
    with index_of(embedder, whitening={"remove": 12}) as index, pytest.raises(InputError, match="leaves nothing of 12"):
        index.search(QUERY)
    dot = replace(embedder.family, similarity="dot")
    with (
        Index(Embedder(family=dot), config=PipelineConfig(hubness=Hubness())) as index,
        pytest.raises(ConventionError, match="compared by their dot product"),
    ):
        index.open()
    with index_of(embedder) as index, pytest.raises(InputError, match="give geometry="):
        HybridSearch(index.gateway, PipelineConfig(whitening=Whitening()))


def test_one_parameter_reaches_them_from_both_frameworks_and_yaml(embedder: Embedder) -> None:
    given: dict[str, Any] = {"hubness": {"weight": 0.4, "queries": list(ASKED)}, "whitening": {"remove": 1}}
    model, embeddings = SituateEmbedding.from_embedder(embedder), SituateEmbeddings.from_embedder(embedder)
    items = [LangChainDocument(text, id=name) for name, text in TEXTS.items()]
    llama = LlamaRetriever.from_documents(
        [LlamaDocument(id_=name, text=text) for name, text in TEXTS.items()], embed_model=model, **given
    )
    retriever = SituateRetriever.from_documents(items, embeddings, **given)
    indices = [llama.index, retriever.index, SituateVectorStore(embeddings, **given).index]
    indices.append(SituateDocumentIndex(embeddings=embeddings, **given).index)
    indices.append(load({"config": given}).index(embedder=embedder))
    for index in indices:
        assert index.config.hubness == Hubness(weight=0.4, queries=ASKED)
        assert index.config.whitening == Whitening(remove=1)
    assert "museum" in llama.retrieve(QUERY)[0].node.get_content()
    assert "museum" in retriever.invoke(QUERY)[0].page_content

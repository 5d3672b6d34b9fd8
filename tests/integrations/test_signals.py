"""Every signal, by its kind, through `Index`, LlamaIndex and LangChain: stored, searched, its score on the hit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document as LangChainDocument
from llama_index.core.schema import Document as LlamaDocument

from situate.chunkers import PropositionSituator, QuestionSituator, TextChunker
from situate.embedders import Embedder
from situate.errors import FallbackWarning, IncompatibleIndexError, InputError
from situate.integrations.langchain import SituateDocumentIndex, SituateEmbeddings, SituateRetriever, SituateVectorStore
from situate.integrations.llama_index import SituateEmbedding, SituateRetriever as LlamaRetriever
from situate.retrievers import Index, PipelineConfig, Retriever
from situate.retrievers.signals.base import Signal, kinds, signal_from_json
from situate.retrievers.signals.dense import Dense
from situate.retrievers.signals.tokens import Tokens
from situate.types import Document, Prompt

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TEXTS = {
    "ferry": "The ferry to the island leaves at nine. It is back by noon. Tickets are sold on board.",
    "orchard": "Apples ripen in autumn. Pears keep in a cool cellar for months. Plums are dried or made into jam.",
    "council": "The council met on Tuesday. It voted for the new bridge. Work begins in spring.",
}
QUERY = "How long can I store pears?"
#: A signal as JSON, and the score that a hit has of it.
SIGNALS: dict[str, tuple[Any, str]] = {
    "tokens": ({"kind": "tokens", "weight": 0.4, "pool": 2, "datatype": "int8"}, "maxsim"),
    "sparse": ({"kind": "sparse", "model": "SPLADE", "weight": 0.05, "max_active": 20}, "sparse"),
    "promptreps": ({"kind": "promptreps", "model": "DECODER", "weight": 0.05, "max_active": 20}, "promptreps"),
    "dense": ({"kind": "dense", "scheme": {"late": True}, "weight": 0.3}, "dense_2"),
    "muvera": ({"kind": "muvera", "repetitions": 8, "bits": 4, "weight": 0.5}, "muvera"),
    "views": ("views", "views"),
    "document": ({"kind": "document", "weight": 0.2}, "document"),
    "questions": ({"kind": "questions", "weight": 0.5}, "questions"),
    "propositions": ({"kind": "propositions", "weight": 0.5}, "propositions"),
}


class Writes:
    """A stand-in for a language model: asks and states what a text about pears answers, in two languages."""

    def generate(self, prompts: Sequence[Prompt]) -> list[str]:
        return [self.answer(prompt) for prompt in prompts]

    async def agenerate(self, prompts: Sequence[Prompt]) -> list[str]:
        return self.generate(prompts)

    def answer(self, prompt: Prompt) -> str:
        if "Pears" not in prompt.text:
            return "What is it? => A passage." if "questions" in prompt.text else "Something is stated."
        if "questions" in prompt.text:
            return "When do apples ripen? => In autumn.\nWie lange halten sich Birnen? => Monate, kühl.\n"
        return "Pears can be stored for months in a cellar.\nApples ripen in autumn."


SITUATORS = (
    QuestionSituator(Writes(), languages=("English", "German"), count=1, answers=True),
    PropositionSituator(Writes()),
)


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(dtype="float32")


@pytest.fixture
def signals(splade_path: Path, decoder_path: Path) -> dict[str, tuple[Any, str]]:
    """`SIGNALS`, with the folders of tiny models in place of their names."""
    folders = {"SPLADE": str(splade_path), "DECODER": str(decoder_path)}

    def placed(value: Any) -> Any:
        if isinstance(value, dict) and "model" in value:
            return {**value, "model": folders[value["model"]], "options": {"device": "cpu"}}
        return value

    return {kind: (placed(value), step) for kind, (value, step) in SIGNALS.items()}


def by_index(embedder: Embedder, signals: Sequence[Any]) -> Index:
    index = Index(embedder, situators=SITUATORS, config=PipelineConfig(signals=tuple(signals)))
    index.add([Document(name, text) for name, text in TEXTS.items()])
    return index


def by_llama_index(embedder: Embedder, signals: Sequence[Any]) -> Index:
    documents = [LlamaDocument(id_=name, text=text) for name, text in TEXTS.items()]
    model = SituateEmbedding.from_embedder(embedder)
    retriever = LlamaRetriever.from_documents(documents, embed_model=model, situators=SITUATORS, signals=signals)
    assert retriever.retrieve(QUERY)[0].node.ref_doc_id == "orchard"
    return retriever.index


def langchain_documents() -> list[LangChainDocument]:
    return [LangChainDocument(text, id=name) for name, text in TEXTS.items()]


def by_store(embedder: Embedder, signals: Sequence[Any]) -> Index:
    store = SituateVectorStore(
        SituateEmbeddings.from_embedder(embedder), splitter=TextChunker(size=60), situators=SITUATORS, signals=signals
    )
    store.add_documents(langchain_documents())
    assert "Pears" in store.similarity_search(QUERY)[0].page_content
    return store.index


def by_retriever(embedder: Embedder, signals: Sequence[Any]) -> Index:
    embeddings = SituateEmbeddings.from_embedder(embedder)
    retriever = SituateRetriever.from_documents(langchain_documents(), embeddings, signals=signals)
    assert "Pears" in retriever.invoke(QUERY)[0].page_content
    return retriever.index


def by_document_index(embedder: Embedder, signals: Sequence[Any]) -> Index:
    made = SituateDocumentIndex(embeddings=SituateEmbeddings.from_embedder(embedder), signals=signals)
    made.upsert(langchain_documents())
    assert "Pears" in made.invoke(QUERY)[0].page_content
    return made.index


WAYS: dict[str, Callable[[Embedder, Sequence[Any]], Index]] = {
    "Index": by_index,
    "LlamaIndex": by_llama_index,
    "LangChain store": by_store,
    "LangChain retriever": by_retriever,
    "LangChain document index": by_document_index,
}


#: The ways that every kind is tried by; the others share their code.
SHORT = ("Index", "LlamaIndex", "LangChain store")
#: Kinds that are filled in by different code: tokens of the document's text, weights, a vector of another scheme.
FILLED = [kind if kind in ("tokens", "sparse") else pytest.param(kind, marks=pytest.mark.full) for kind in SIGNALS]


def test_every_kind_is_tried() -> None:
    assert set(SIGNALS) == set(kinds())


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        *(("tokens", way) for way in WAYS),
        # The short form tries each kind by one way, and each way with several kinds.
        *(
            pytest.param(kind, way, marks=[] if i % len(SHORT) == j else pytest.mark.full)
            for i, kind in enumerate(kind for kind in SIGNALS if kind != "tokens")
            for j, way in enumerate(SHORT)
        ),
    ],
)
def test_each_is_reached_by_name_and_scores_its_hits(
    embedder: Embedder, signals: dict[str, tuple[Any, str]], kind: str, way: str
) -> None:
    signal, step = signals[kind]
    with WAYS[way](embedder, [signal]) as index:
        (hit, *_) = index.search(QUERY, 3)
        assert hit.chunk.document_id == "orchard"
        assert step in hit.scores
        named = signal_from_json(signal).name
        params = index.client.get_collection(index.collection).config.params
        assert named in {**(params.vectors or {}), **(params.sparse_vectors or {})}


@pytest.mark.parametrize("kind", SIGNALS)
def test_each_is_written_as_json_and_read_again(signals: dict[str, tuple[Any, str]], kind: str) -> None:
    signal = signal_from_json(signals[kind][0])
    assert signal_from_json(signal.to_json()) == signal
    assert signal_from_json(signal) is signal


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("sparce", "there is no signal of the kind 'sparce': there are .*tokens"),
        ({"kind": "base"}, "no signal of the kind 'base'"),
        ({"weight": 0.3}, "is no signal"),
        ({"kind": "tokens", "wieght": 0.3}, "'tokens' signal has no wieght: it takes weight, name"),
        ({"kind": "tokens", "weight": 1.5}, "weight of 'tokens' is 1.5"),
        ({"kind": "tokens", "datatype": "int2"}, "int2"),
        ({"kind": "tokens", "depth": 0}, "at least 1"),
        ({"kind": "tokens", "depth": "50"}, "depth='50' of a Tokens signal is no int"),
        ({"kind": "tokens", "weight": None}, "weight=None of a Tokens signal is no float"),
        ({"kind": "muvera", "bits": True}, "bits=True of a Muvera signal is no int"),
        ({"kind": "tokens", "name": 3}, "name=3 of a Tokens signal is no str"),
        ({"kind": "tokens", "context": "title"}, "context='title' of a Tokens signal is no tuple"),
        ({"kind": "tokens", "context": ["titel"]}, "context names 'titel', which is no field of Context: title"),
        ({"kind": "dense", "scheme": "late"}, "scheme='late' is no scheme"),
    ],
)
def test_a_signal_that_cannot_be_read_is_refused(given: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        PipelineConfig(signals=(given,))


def test_configurations_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(InputError, match="two signals have the name 'tokens'"):
        PipelineConfig(token_vectors="float16", signals=("tokens",))  # type: ignore[arg-type]
    for one in ("tokens", {"kind": "tokens"}, 3):
        with pytest.raises(InputError, match="is no list of signals"):
            PipelineConfig(signals=one)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="signals need fusion='minmax'"):
        PipelineConfig(fusion="rrf", signals=(Tokens(),))
    with pytest.raises(InputError, match="no signal named 'sparse' to weigh: there are \\['tokens'\\]"):
        PipelineConfig(signals=(Tokens(),)).weighted({"sparse": 0.3})


def test_an_unused_signal_is_stored_and_costs_a_search_nothing(embedder: Embedder) -> None:
    unused = Tokens(weight=0.0)
    with by_index(embedder, [unused]) as index, by_index(embedder, []) as plain:
        assert not any(signal.needs_tokens for signal in index.config.searched)
        assert [(h.chunk.id, h.score, h.scores) for h in index.search(QUERY)] == [
            (h.chunk.id, h.score, h.scores) for h in plain.search(QUERY)
        ]


async def test_a_query_and_a_retriever_have_weights_of_their_own(embedder: Embedder) -> None:
    """A signal that is stored without a weight is asked where a query gives it one; its model is, too."""
    stored = (Tokens(weight=0.0), Dense(embedder, name="second", weight=0.0))
    weights = {"second": 1.0, "tokens": 0.5}
    steps = {"second", "maxsim"}
    with by_index(embedder, stored) as index:
        assert "second" not in index.search(QUERY)[0].scores
        found = index.search(QUERY, weights=weights)
        assert set(found[0].scores) == steps
        assert (await index.asearch(QUERY, weights=weights)).hits == found.hits
        assert set(Retriever(index, weights=weights).retrieve(QUERY)[0].scores) == steps
        nodes = LlamaRetriever(index, weights=weights, similarity_top_k=2).retrieve(QUERY)
        documents = SituateRetriever(index=index, weights=weights, k=2).invoke(QUERY)
        assert [n.node.node_id for n in nodes] == [d.id for d in documents] == [h.chunk.id for h in found.hits[:2]]
        with pytest.raises(InputError, match="no signal named 'third' to weigh"):
            index.search(QUERY, weights={"third": 0.5})


def test_what_a_signal_stores_is_in_the_fingerprint(embedder: Embedder, tmp_path: Path) -> None:
    def opened(*signals: Signal) -> Index:
        return Index(embedder, path=tmp_path, config=PipelineConfig(signals=signals))

    with opened(Tokens()) as index:
        index.add([Document("ferry", TEXTS["ferry"])])
    with opened(Tokens(weight=0.1, depth=5)) as index:  # how it is searched may change
        assert index.count() == 1
    with opened(Tokens(datatype="float32")) as index, pytest.raises(IncompatibleIndexError, match=r"signals\.tokens"):
        index.open()
    with opened() as index, pytest.raises(IncompatibleIndexError, match="signals="):
        index.open()


@pytest.mark.parametrize("kind", FILLED)
def test_a_signal_that_is_added_later_is_filled_in_from_the_stored_text(
    embedder: Embedder,
    tmp_path: Path,
    signals: dict[str, tuple[Any, str]],
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Interrupted after the first document and resumed; searches work without it meanwhile, and additions have it."""
    signal, step = signal_from_json(signals[kind][0]), signals[kind][1]
    documents = [Document(name, text) for name, text in TEXTS.items()]
    with Index(embedder, path=tmp_path, situators=SITUATORS, config=PipelineConfig()) as index:
        index.add(documents[:2])
    config = PipelineConfig(signals=(signal,))
    monkeypatch.setattr("situate.retrievers.index.index.BATCH_DOCUMENTS", 1)
    with Index(embedder, path=tmp_path, situators=SITUATORS, config=config) as index:
        with pytest.warns(FallbackWarning, match=f"lack the signals \\['{signal.name}'\\].*fill_signals"):
            assert step not in index.search(QUERY)[0].scores
        index.add([Document("fish", "Carp live in ponds.")])
        with monkeypatch.context() as broken:
            broken.setattr(index.client, "update_vectors", Once(index.client.update_vectors))
            with pytest.raises(KeyboardInterrupt):
                index.fill_signals()
        index.add(documents[2:])
    with Index(embedder, path=tmp_path, situators=SITUATORS, config=config) as index:
        with pytest.warns(FallbackWarning, match="lack the signals"):
            assert step not in index.search(QUERY)[0].scores
        assert asyncio.run(index.afill_signals()) == 2  # "ferry" was filled in before
        assert index.fill_signals() == 0
        late = {hit.chunk.id: hit.scores[step] for hit in index.search(QUERY, 4) if step in hit.scores}
    with Index(embedder, path=tmp_path, situators=SITUATORS, config=config) as index:
        assert index.fill_signals() == 0
        assert step in index.search(QUERY)[0].scores
    with Index(embedder, situators=SITUATORS, config=config) as fresh:
        fresh.add([*documents, Document("fish", "Carp live in ponds.")])
        made = {hit.chunk.id: hit.scores[step] for hit in fresh.search(QUERY, 4) if step in hit.scores}
        assert made == pytest.approx(late, rel=1e-2)  # bytes, and other batches


class Once:
    """A call that is interrupted at its second use."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call, self.used = call, False

    def __call__(self, *args: Any, **more: Any) -> Any:
        if self.used:
            raise KeyboardInterrupt
        self.used = True
        return self.call(*args, **more)


def test_a_hit_tells_which_question_and_statement_matched(embedder: Embedder) -> None:
    asked = "Wie lange sind Birnen haltbar?"
    signals = [{"kind": "questions", "weight": 0.5}, {"kind": "propositions", "weight": 0.5}]
    with by_index(embedder, signals) as index:
        hit = next(hit for hit in index.search(asked, 3) if hit.chunk.document_id == "orchard")
        assert hit.question == "Wie lange halten sich Birnen?"
        assert hit.answer == "Monate, kühl."
        hit = next(hit for hit in index.search(QUERY, 3) if hit.chunk.document_id == "orchard")
        assert hit.proposition is not None
        assert hit.proposition.text == "Pears can be stored for months in a cellar."
        span = TEXTS["orchard"][hit.proposition.start : hit.proposition.end]
        assert span == "Pears keep in a cool cellar for months."
        vectors = embedder.embed_documents([p.text for p in hit.chunk.context.propositions])
        nearest = float((vectors @ embedder.embed_queries([QUERY])[0]).max())
        assert hit.scores["propositions"] == pytest.approx(nearest, abs=1e-5)
    with by_index(embedder, []) as index:
        assert index.search(asked)[0].question is None


def test_it_stands_in_both_frameworks_metadata(embedder: Embedder) -> None:
    wanted = {"question": "Wie lange halten sich Birnen?", "answer": "Monate, kühl."}
    with by_index(embedder, ["questions"]) as index:
        asked = "Wie lange sind Birnen haltbar?"
        documents = SituateRetriever(index=index, k=3).invoke(asked)
        nodes = LlamaRetriever(index, similarity_top_k=3).retrieve(asked)
        assert [d.metadata["situate_matched"] for d in documents if "Pears" in d.page_content] == [wanted]
        assert [n.node.metadata["situate_matched"] for n in nodes if n.node.ref_doc_id == "orchard"] == [wanted]

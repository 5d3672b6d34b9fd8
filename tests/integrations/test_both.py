"""Properties of the classes of both frameworks: their parameters, their copies, their pickles."""

from __future__ import annotations

import copy
import inspect
import pickle
import traceback
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import NodeWithScore, TextNode
from pydantic import ValidationError

from situate.chunkers import HeadingSituator
from situate.embedders.models.settings import EmbedderSettings
from situate.errors import InputError
from situate.integrations import langchain, llama_index
from situate.integrations._shared.settings import (
    CrossEncoderOptions,
    EmbedderOptions,
    HydeOptions,
    RetrieverOptions,
    StoreOptions,
)
from situate.retrievers.expand.hyde import HydeSettings
from situate.retrievers.index.index import Index
from situate.retrievers.rerank import Mmr
from situate.retrievers.retriever import RetrieverSettings

Make = Callable[[], Any]


def embed_model() -> llama_index.SituateEmbedding:
    return llama_index.SituateEmbedding(device="cpu", dtype="float32")


def embeddings() -> langchain.SituateEmbeddings:
    return langchain.SituateEmbeddings(device="cpu", dtype="float32")


#: Pydantic classes, each with settings that are not the defaults.
MODELS: dict[str, Make] = {
    "llama_index.SituateEmbedding": lambda: llama_index.SituateEmbedding(
        max_tokens=64, callback_manager=CallbackManager([TokenCountingHandler(tokenizer=str.split)])
    ),
    "llama_index.LateChunkingNodeParser": lambda: llama_index.LateChunkingNodeParser(
        embed_model=embed_model(),
        splitter=SentenceSplitter(chunk_size=64, chunk_overlap=0),
        situators=[HeadingSituator()],
    ),
    "llama_index.SituatedContext": lambda: llama_index.SituatedContext(situators=[HeadingSituator()], llm=False),
    "llama_index.CrossEncoderRerank": lambda: llama_index.CrossEncoderRerank(top_n=3, output="logit", prior=0.5),
    "llama_index.LateInteractionRerank": lambda: llama_index.LateInteractionRerank(
        embed_model=embed_model(), prior=0.5
    ),
    "llama_index.SituateLLMRerank": lambda: llama_index.SituateLLMRerank(llm=MockLLM(), method="listwise"),
    "llama_index.SituateRerank": lambda: llama_index.SituateRerank(using=Mmr(embed_model().embedder)),
    "llama_index.SituateHighlighter": lambda: llama_index.SituateHighlighter(embed_model=embed_model(), at_most=3),
    "langchain.SituateHighlighter": lambda: langchain.SituateHighlighter(embeddings=embeddings(), at_most=3),
    "langchain.SituateEmbeddings": lambda: langchain.SituateEmbeddings(max_tokens=64),
    "langchain.SituateCrossEncoder": lambda: langchain.SituateCrossEncoder(output="logit"),
    "langchain.CrossEncoderReranker": lambda: langchain.CrossEncoderReranker(top_n=3, prior=0.5, sentences=2),
    "langchain.LateInteractionReranker": lambda: langchain.LateInteractionReranker(embeddings=embeddings(), prior=0.5),
    "langchain.SituateReranker": lambda: langchain.SituateReranker(reranker=Mmr(embed_model().embedder)),
    "langchain.HyDEEmbeddings": lambda: langchain.HyDEEmbeddings(
        embeddings=embeddings(), llm=FakeListChatModel(responses=["x"]), drafts=2
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_copies_and_pickles_have_the_same_settings(name: str) -> None:
    made = MODELS[name]()
    settings = {field: getattr(made, field) for field in type(made).model_fields}
    plain = {k: v for k, v in settings.items() if isinstance(v, str | int | float | list | None)}
    copies = [copy.deepcopy(made), made.model_copy(deep=True), made.model_copy(), pickle.loads(pickle.dumps(made))]
    for other in copies:
        assert type(other) is type(made)
        assert other is not made
        assert {k: getattr(other, k) for k in plain} == plain


@pytest.mark.parametrize("name", MODELS)
def test_a_misspelt_parameter_is_refused_and_the_right_one_named(name: str) -> None:
    made = MODELS[name]()
    given = {field: getattr(made, field) for field in made.model_fields_set}
    right = next(iter(sorted(given)))
    with pytest.raises(ValueError, match=rf"has no parameter '{right}x': did you mean '{right}'"):
        type(made)(**given, **{f"{right}x": 1})


def test_a_copy_with_other_settings_has_a_model_of_its_own() -> None:
    for made in (embed_model(), embeddings()):
        loaded = made.embedder
        assert made.model_copy(deep=True).embedder is loaded, "a loaded model is shared"
        other = made.model_copy(update={"max_tokens": 16}, deep=True)
        assert (other.embedder.max_tokens, made.embedder.max_tokens) == (16, 256)
        made.max_tokens = 32
        assert made.embedder.max_tokens == 32


def test_stores_copy(tmp_path: Any) -> None:
    store = llama_index.SituateVectorStore()
    store.add([TextNode(id_="a", text="a", embedding=[1.0, 0.0])])
    assert [node.node_id for node in copy.deepcopy(store).get_nodes()] == ["a"]
    folder = llama_index.SituateVectorStore(path=str(tmp_path / "x"), metadata_keys=["year"])
    assert folder.model_copy(deep=True).path == folder.path
    with pytest.raises(InputError, match="path="):
        pickle.dumps(store)


# -- the same parameters on both sides -------------------------------------------------------------------------------


def parameters(cls: Any) -> set[str]:
    if hasattr(cls, "model_fields"):
        return set(cls.model_fields)
    return set(inspect.signature(cls.__init__).parameters) - {"self"}


@pytest.mark.parametrize(
    ("options", "ours", "theirs"),
    [
        (EmbedderOptions, llama_index.SituateEmbedding, langchain.SituateEmbeddings),
        (CrossEncoderOptions, llama_index.CrossEncoderRerank, langchain.SituateCrossEncoder),
        (StoreOptions, llama_index.SituateVectorStore, langchain.SituateDocumentIndex),
    ],
)
def test_both_frameworks_have_the_same_parameters(options: Any, ours: Any, theirs: Any) -> None:
    assert set(options.model_fields) <= parameters(ours) & parameters(theirs)
    for name in options.model_fields:
        if name != "collection_name":  # each framework's own
            assert ours.model_fields[name].get_default() == theirs.model_fields[name].get_default(), name


@pytest.mark.parametrize(
    ("options", "settings", "elsewhere"),
    [
        (EmbedderOptions, EmbedderSettings, {"model", "scheme", "family", "encoder"}),
        (HydeOptions, HydeSettings, {"template", "lexical_weight", "max_chars", "name"}),
        (RetrieverOptions, RetrieverSettings, set()),
    ],
)
def test_the_options_are_the_settings(options: Any, settings: Any, elsewhere: set[str]) -> None:
    assert {f.name for f in fields(settings)} - elsewhere <= set(options.model_fields)
    for field in fields(settings):
        if field.name not in elsewhere | {"adapters"}:
            assert options.model_fields[field.name].get_default() == field.default, field.name


# -- the names that users know ---------------------------------------------------------------------------------------

KNOWN: list[tuple[Any, Mapping[str, Any], Mapping[str, Any]]] = [
    (llama_index.SituateEmbedding, {"model": "x"}, {"model_name": "x"}),
    (
        llama_index.SituateEmbedding,
        {"text_instruction": "d: ", "query_instruction": "q: ", "normalize": True, "max_length": 9},
        {"document_instruction": "d: ", "query_instruction": "q: ", "max_tokens": 9},
    ),
    (llama_index.SituateEmbedding, {"embed_batch_size": 7}, {"embed_batch_size": 7}),
    (llama_index.CrossEncoderRerank, {"model_name": "x", "top_n": 2}, {"model": "x", "top_n": 2}),
    (
        llama_index.CrossEncoderRerank,
        {"cross_encoder_kwargs": {"max_length": 9}, "trust_remote_code": True},
        {"max_tokens": 9, "trust_remote_code": True},
    ),
    (llama_index.SituateVectorStore, {"url": "http://q:6333"}, {"path": "http://q:6333"}),
    (
        llama_index.SituateVectorStore,
        {"collection": "x", "enable_hybrid": False},
        {"collection_name": "x", "lexical": None},
    ),
    (langchain.SituateEmbeddings, {"model_name": "x"}, {"model": "x"}),
    (
        langchain.SituateEmbeddings,
        {
            "model_kwargs": {"device": "cpu", "trust_remote_code": True},
            "encode_kwargs": {"normalize_embeddings": True, "prompt": "d: "},
            "query_encode_kwargs": {"prompt": "q: "},
        },
        {"device": "cpu", "trust_remote_code": True, "document_instruction": "d: ", "query_instruction": "q: "},
    ),
    (langchain.CrossEncoderReranker, {"model_name": "x"}, {"model": "x"}),
    (
        langchain.SituateCrossEncoder,
        {"model_name": "x", "model_kwargs": {"device": "cpu"}},
        {"model": "x", "device": "cpu"},
    ),
]


@pytest.mark.parametrize(("cls", "given", "meant"), KNOWN)
def test_names_that_mean_the_same_are_accepted(cls: Any, given: Mapping[str, Any], meant: Mapping[str, Any]) -> None:
    made = cls(**given)
    assert {name: getattr(made, name) for name in meant} == meant


@pytest.mark.parametrize(
    ("cls", "given", "said"),
    [
        (llama_index.SituateEmbedding, {"normalize": False}, "norm 1"),
        (llama_index.SituateEmbedding, {"cache_folder": "x"}, "HF_HOME"),
        (llama_index.SituateEmbedding, {"model": "x", "model_name": "y"}, "twice"),
        (llama_index.CrossEncoderRerank, {"top_k": 3}, "top_n"),
        (llama_index.SituateVectorStore, {"collection_nam": "x"}, "did you mean 'collection_name'"),
        (llama_index.SituateVectorStore, {"client": "handbook"}, "collection_name='handbook'"),
        (langchain.SituateEmbeddings, {"encode_kwargs": {"normalize_embeddings": False}}, "norm 1"),
        (langchain.SituateEmbeddings, {"model_kwargs": {"attn_implementation": "x"}}, "attn_implementation"),
        (langchain.CrossEncoderReranker, {"top_k": 3}, "top_n"),
    ],
)
def test_names_that_mean_something_else_are_refused_with_the_reason(cls: Any, given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cls(**given)


def test_classes_without_fields_refuse_and_accept_the_same_way() -> None:
    made = langchain.SituateVectorStore(embeddings(), collection_name="handbook")
    assert made.index.collection == "handbook"
    assert langchain.SituateVectorStore(embeddings(), collection="handbook").index.collection == "handbook"
    index = Index(embed_model().embedder)
    retriever = llama_index.SituateRetriever(index, k=3, candidates=20)
    assert (retriever.similarity_top_k, retriever.retriever.settings.candidates) == (3, 20)
    refused: list[tuple[Make, str]] = [
        (lambda: langchain.SituateVectorStore(embeddings(), collecton_name="x"), "did you mean 'collection_name'"),
        (lambda: langchain.SituateVectorStore(embeddings(), host="x"), "as a URL"),
        (lambda: llama_index.SituateRetriever(index, top_k=3), "similarity_top_k"),
        (lambda: llama_index.SituateRetriever(index, candidats=3), "did you mean 'candidates'"),
        (
            lambda: llama_index.SituateRetriever.from_documents([], embed_model=embed_model(), pth="x"),
            "did you mean 'path'",
        ),
        (lambda: llama_index.HyDEQueryTransform(MockLLM(), draft=3), "did you mean 'drafts'"),
        (lambda: langchain.SituateRetriever(index=index, top_k=3), "it is k here"),
        (lambda: langchain.SituateTextSplitter(embeddings(), size=9), "chunk_size"),
        (lambda: langchain.SituateTextSplitter(embeddings(), chunk_size="9"), "a whole number"),
        (lambda: langchain.SituateLoader("x", max_page=9), r"max_page= \(here it is max_pages=\)"),
        (lambda: langchain.SituatedContextTransformer([], field=()), "here it is fields="),
        (lambda: langchain.LangChainGenerator(FakeListChatModel(responses=["x"]), concurrency=3), "max_concurrency"),
        (lambda: langchain.SituateRetriever.from_documents([], embeddings(), kk=3), "has no parameter 'kk'"),
    ]
    for make, said in refused:
        with pytest.raises(ValueError, match=said):
            make()
    transform = llama_index.HyDEQueryTransform(MockLLM(), include_original=False)
    assert transform._expansion.query_weight == 0.0
    assert llama_index.SituateEmbedding("x").model_name == langchain.SituateEmbeddings("x").model == "x"


def test_a_servers_key_is_in_nothing_that_is_shown() -> None:
    key = "k-1234567890-secret"
    store = llama_index.SituateVectorStore(url="http://localhost:1", api_key=key)
    for shown in (repr(store), str(store), str(store.to_dict()), store.model_dump_json(), repr(vars(store))):
        assert key not in shown
    index = langchain.SituateDocumentIndex(embeddings=embeddings(), url="http://localhost:1", api_key=key)
    for shown in (repr(index), str(index), index.model_dump_json(include={"path", "api_key"})):
        assert key not in shown
    options = {"headers": {"authorization": key}, "timeout": 5}
    store = llama_index.SituateVectorStore(url=f"http://user:{key}@localhost:1", client_options=options)
    assert store.client_options == options
    assert key not in repr(store)
    assert store.to_dict()["client_options"] == {"timeout": 5}
    assert key not in repr(llama_index.LlamaIndexGenerator(MockLLM(), api_key=key))


@pytest.mark.parametrize(
    "make",
    [
        lambda key: llama_index.SituateVectorStore(api_key=key, collection_nam="x"),
        lambda key: llama_index.SituateVectorStore(url=f"http://user:{key}@localhost", headers={}),
        lambda key: llama_index.SituateVectorStore(api_key=[key]),
        lambda key: llama_index.SituateRetriever.from_documents([], embed_model=embed_model(), api_key=[key]),
        lambda key: llama_index.SituateEmbedding(api_key=key),
        lambda key: llama_index.SituateReader(password=key, pages=3),
        lambda key: langchain.SituateDocumentIndex(embeddings=embeddings(), api_key=key, kk=3),
        lambda key: langchain.SituateDocumentIndex(embeddings=embeddings(), client_options=[key]),
    ],
)
def test_an_error_about_arguments_shows_no_key_among_them(make: Callable[[str], Any]) -> None:
    key = "k-1234567890-secret"
    with pytest.raises(ValidationError) as raised:
        make(key)
    assert key not in "".join(traceback.format_exception(raised.value))
    assert key not in repr(raised.value.errors())


def test_a_frameworks_own_part_is_refused_where_the_retriever_is_made() -> None:
    index = Index(embed_model().embedder)
    makes: tuple[Callable[..., Any], ...] = (
        lambda **parts: langchain.SituateRetriever(index=index, **parts)._pipeline,
        lambda **parts: llama_index.SituateRetriever(index, **parts),
    )
    for make in makes:
        for wrong in (langchain.CrossEncoderReranker(), llama_index.CrossEncoderRerank()):
            with pytest.raises(ValueError, match=rf"rerankers\[0\] is a {type(wrong).__name__}, which has no rerank"):
                make(rerankers=[wrong])
            with pytest.raises(ValueError, match=f"rerankers is a {type(wrong).__name__}: give a list"):
                make(rerankers=wrong)
        with pytest.raises(ValueError, match=r"expander is a str, which has no expand\(query\)"):
            make(expander="hyde")
        with pytest.raises(ValueError, match=r"policies\['hyde'\] is 3: give a StepPolicy"):
            make(policies={"hyde": 3})


def test_generators_are_read_once_and_whole() -> None:
    model, documents = embeddings(), [Document(page_content="Pumps run."), Document(page_content="The ferry leaves.")]
    assert len(model.embed_documents(text for text in ("a", "b"))) == 2  # type: ignore[arg-type]
    assert len(embed_model().embedder.embed_documents(text for text in ("a", "b"))) == 2  # type: ignore[arg-type]
    given = (each for each in documents)
    assert len(langchain.SituatedContextTransformer([HeadingSituator()]).transform_documents(given)) == 2  # type: ignore[arg-type]
    marker = langchain.SituateHighlighter(embeddings=model)
    assert len(marker.compress_documents((each for each in documents), "pumps")) == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: langchain.LateInteractionReranker(embeddings=embeddings(), threshold=float("nan")), "leaves out"),
        (lambda: langchain.SituateRetriever(index=Index(embed_model().embedder), threshold=float("nan")), "leaves out"),
        (lambda: langchain.CrossEncoderReranker(context=("heading",)), "no field 'heading'"),
        (lambda: llama_index.LateChunkingNodeParser(embed_model=embed_model(), context_fields=("x",)), "no field 'x'"),
        (lambda: Mmr(embed_model().embedder, context=("heading",)), "no field 'heading'"),
        (
            lambda: langchain.HyDEEmbeddings(
                embeddings=embeddings(), llm=FakeListChatModel(responses=["x"]), template="Answer it."
            ),
            r"has no \{query\}",
        ),
        (lambda: langchain.SituateCache(embeddings(), same="alike"), "same='alike' cannot be called"),
        (lambda: llama_index.CachedQueryEngine(None, embed_model(), tenant=None), "tenant=None"),
    ],
)
def test_what_would_fail_in_every_query_is_refused_at_construction(make: Make, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_a_reranker_without_a_query_raises_in_place_of_degrading() -> None:
    with pytest.raises(InputError, match="the query is a NoneType"):
        langchain.LateInteractionReranker(embeddings=embeddings()).compress_documents(
            [Document(page_content="x")], None
        )  # type: ignore[arg-type]


def test_an_index_in_memory_is_shared_by_deep_copies() -> None:
    store = langchain.SituateVectorStore(embeddings())
    assert store.as_retriever().model_copy(deep=True).vectorstore.index is store.index


def test_options_of_the_client_by_several_names_are_joined() -> None:
    store = llama_index.SituateVectorStore(url="http://q", prefer_grpc=True, timeout=5, client_kwargs={"attempts": 2})
    assert store.client_options == {"prefer_grpc": True, "timeout": 5, "attempts": 2}
    with pytest.raises(ValueError, match=r"client_options\['timeout'\] twice"):
        llama_index.SituateVectorStore(url="http://q", timeout=5, client_options={"timeout": 6})


# -- a failing step --------------------------------------------------------------------------------------------------


class Down:
    """A reranker whose model is away."""

    name = "down"

    def rerank(self, query: str, hits: Any) -> Any:
        raise ConnectionError("401 for api_key=sk-abcdef1234567890")

    async def arerank(self, query: str, hits: Any) -> Any:
        return self.rerank(query, hits)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_reranker_that_fails_keeps_the_order_and_says_why(
    asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    from langchain_core.documents import Document

    nodes = [NodeWithScore(node=TextNode(text=text), score=score) for text, score in (("a", 0.9), ("b", 0.1))]
    theirs = llama_index.SituateRerank(using=Down(), top_n=1, retries=0)
    ranked = (
        await theirs.apostprocess_nodes(nodes, query_str="q")
        if asynchronous
        else theirs.postprocess_nodes(nodes, query_str="q")
    )
    assert [(found.node.get_content(), found.score) for found in ranked] == [("a", 0.9)]
    assert "401" in ranked[0].degraded["rerank:down"]  # type: ignore[attr-defined]
    documents = [Document(page_content=text) for text in ("a", "b")]
    ours = langchain.SituateReranker(reranker=Down(), threshold=0.5, retries=0)
    kept = await ours.acompress_documents(documents, "q") if asynchronous else ours.compress_documents(documents, "q")
    assert [document.page_content for document in kept] == ["a", "b"]
    assert "401" in kept[0].metadata["situate_degraded"]["rerank:down"]
    assert "401" in caplog.text
    assert "sk-abc" not in caplog.text + str(ranked) + str(kept)
    with pytest.raises(Exception, match="rerank:down"):
        llama_index.SituateRerank(using=Down(), on_error="raise").postprocess_nodes(nodes, query_str="q")


@pytest.mark.parametrize(
    "make",
    [
        lambda: llama_index.SituateLLMRerank(llm="gpt-4"),
        lambda: llama_index.HyDERetriever(None, llm="gpt-4"),
        lambda: langchain.HyDEEmbeddings(embeddings=embeddings(), llm="gpt-4"),
        lambda: langchain.LangChainGenerator("gpt-4"),
    ],
)
def test_the_name_of_a_language_model_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="is a str"):
        make()


def test_vectors_agree_across_frameworks() -> None:
    texts = ["The travel desk books trains.", "Lunch is at noon."]
    np.testing.assert_array_equal(embed_model().get_text_embedding_batch(texts), embeddings().embed_documents(texts))

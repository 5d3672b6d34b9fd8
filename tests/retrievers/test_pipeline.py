"""The query pipeline, and failing optional steps."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from situate.chunkers import Document, Prompt
from situate.embedders import Embedder
from situate.errors import (
    GenerationError,
    InputError,
    ModelError,
    ServerError,
    StepError,
    StorageError,
    StoreLockedError,
)
from situate.retrievers import Hit, Index, PipelineConfig, QueryText, Retriever
from situate.retrievers.expand.hyde import Hyde, HydeSettings, hyde_vector
from situate.retrievers.pipeline.steps import StepPolicy
from situate.retrievers.rerank import (
    CrossEncoderReranker,
    LateInteractionReranker,
    OptionalReranker,
    PointwiseReranker,
    Stages,
)
from situate.retrievers.retriever import RetrieverSettings, TextFusion
from situate.retrievers.search.fusion import dbsf, minmax, rrf
from situate.retrievers.search.query_vectors import QueryVectors

DOCUMENTS = [
    Document("cats", "Cats sleep for most of the day. They hunt at night."),
    Document("dogs", "Dogs were the first animals that people tamed."),
    Document("bridges", "A suspension bridge hangs its deck from cables."),
    Document("bread", "Sourdough rises slowly, because wild yeast is slow."),
]


class Generator:
    """A language model with given answers, or one that fails."""

    def __init__(self, *answers: str, error: Exception | None = None) -> None:
        self.answers = answers
        self.error = error
        self.asked: list[Prompt] = []

    def generate(self, prompts: Sequence[Prompt]) -> list[str]:
        self.asked += prompts
        if self.error is not None:
            raise self.error
        return [self.answers[i % len(self.answers)] for i in range(len(prompts))]

    async def agenerate(self, prompts: Sequence[Prompt]) -> list[str]:
        await asyncio.sleep(0)
        return self.generate(prompts)


class Alphabetical:
    """A reranker by the documents' names."""

    name = "alphabetical"

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        ordered = sorted(hits, key=lambda hit: hit.chunk.document_id)
        return [hit.rescored(self.name, 1 - place / 10) for place, hit in enumerate(ordered)]

    async def arerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        return self.rerank(query, hits)


class Failing(Alphabetical):
    """A reranker that is out of order."""

    name = "failing"

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        raise RuntimeError("out of order")


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder()


@pytest.fixture(scope="module")
def index(embedder: Embedder) -> Iterator[Index]:
    with Index(embedder, config=PipelineConfig.plain()) as index:
        index.add(DOCUMENTS)
        yield index


FAST_FAIL = StepPolicy(retries=0)


async def both(retriever: Retriever, query: str, **arguments: object) -> list[tuple[str, float]]:
    """The result of `retrieve`, after asserting that `aretrieve` gives the same by the same steps."""
    result = retriever.retrieve(query, **arguments)  # type: ignore[arg-type]
    again = await retriever.aretrieve(query, **arguments)  # type: ignore[arg-type]
    assert [hit.chunk for hit in again] == [hit.chunk for hit in result]
    assert [(step.name, step.error) for step in again.steps] == [(step.name, step.error) for step in result.steps]
    assert again.degraded == result.degraded
    return [(hit.chunk.document_id, hit.score) for hit in result]


async def test_without_options_it_is_the_search(index: Index) -> None:
    found = await both(Retriever(index, k=2), "when do cats sleep")
    assert found[0][0] == "cats"
    assert len(found) == 2


async def test_hyde_searches_with_the_mean_vector(index: Index, embedder: Embedder) -> None:
    drafts = ["Wild yeast makes sourdough rise.", "Bread dough ferments overnight."]
    retriever = Retriever(index, expander=Hyde(Generator(*drafts), drafts=2))
    found = await both(retriever, "why does it take so long?")
    vector = hyde_vector(embedder, "why does it take so long?", drafts)
    expected = {d.id: float(embedder.embed_documents([d.text])[0] @ vector) for d in DOCUMENTS}
    assert found[0][0] == "bread"
    assert [score for _, score in found] == pytest.approx([expected[name] for name, _ in found], abs=2e-3)
    steps = {step.name: step for step in retriever.retrieve("why does it take so long?").steps}
    assert list(steps["hyde"].details["drafts"]) == drafts
    assert list(steps) == ["hyde", "embed", "search"]


async def test_rerankers_run_in_order_over_the_candidates(index: Index) -> None:
    retriever = Retriever(index, rerankers=[Alphabetical()], k=1, candidates=4)
    assert await both(retriever, "when do cats sleep") == [("bread", 1.0)]
    assert retriever.retrieve("when do cats sleep").steps[-1].name == "rerank:alphabetical"


@pytest.mark.parametrize(
    "error", [GenerationError("refused"), TimeoutError("slow"), RuntimeError("surprise"), MemoryError()]
)
async def test_a_failing_expander_leaves_the_plain_search(
    index: Index, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    plain = await both(Retriever(index), "cats")
    retriever = Retriever(index, expander=Hyde(Generator(error=error)), policy=FAST_FAIL)
    with caplog.at_level(logging.WARNING):
        assert await both(retriever, "cats") == plain
        assert retriever.retrieve("dogs").degraded == ("hyde",)
    assert sum("was skipped" in record.message for record in caplog.records) == 1


async def test_a_failing_reranker_keeps_the_order_before(index: Index) -> None:
    plain = await both(Retriever(index), "cats")
    retriever = Retriever(index, rerankers=[Failing()], policy=FAST_FAIL)
    assert await both(retriever, "cats") == plain
    assert retriever.retrieve("cats").degraded == ("rerank:failing",)


async def test_on_error_raise(index: Index) -> None:
    retriever = Retriever(index, rerankers=[Failing()], policy=StepPolicy(retries=0, on_error="raise"))
    with pytest.raises(StepError, match="out of order"):
        retriever.retrieve("cats")
    with pytest.raises(StepError, match="out of order"):
        await retriever.aretrieve("cats")


async def test_a_threshold_may_leave_nothing(index: Index) -> None:
    retriever = Retriever(index, threshold=0.35)
    assert [name for name, _ in await both(retriever, "when do cats sleep")] == ["cats"]
    assert await both(retriever, "the price of copper in Chile") == []


async def test_a_threshold_is_not_held_against_scores_of_another_kind(index: Index) -> None:
    retriever = Retriever(index, rerankers=[Failing()], threshold=5.0, policy=FAST_FAIL)
    assert len(await both(retriever, "cats")) == 4


@pytest.mark.parametrize("query", ["", " \n"])
async def test_an_empty_query_asks_no_model(index: Index, query: str) -> None:
    generator = Generator("draft")
    retriever = Retriever(index, expander=Hyde(generator), rerankers=[Failing()])
    assert await both(retriever, query) == []
    assert not generator.asked


async def test_a_long_query_is_answered(index: Index) -> None:
    with pytest.warns(UserWarning, match="lost"):
        found = Retriever(index).retrieve("cats sleep " * 10_000)
    assert found[0].chunk.document_id == "cats"


@pytest.mark.parametrize("fusion", [None, "rrf"])
async def test_k_may_be_larger_than_the_index(index: Index, fusion: TextFusion | None) -> None:
    expander = Wordings(QueryText("cats"), QueryText("bread", weight=0.5))
    retriever = Retriever(index, expander=expander, rerankers=[Alphabetical()], fuse_texts=fusion, k=1000)
    assert [name for name, _ in await both(retriever, "cats")] == ["bread", "bridges", "cats", "dogs"]


@pytest.mark.parametrize("k", [0, -3])
def test_k_must_be_positive(index: Index, k: int) -> None:
    with pytest.raises(InputError, match=f"k={k}"):
        Retriever(index).retrieve("cats", k=k)
    with pytest.raises(InputError, match=f"k={k}"):
        Retriever(index, k=k)


async def test_lexical_texts_reach_bm25(embedder: Embedder) -> None:
    class Terms:
        name = "terms"

        def expand(self, query: str) -> list[QueryText]:
            return [QueryText(query), QueryText("sourdough yeast", role="lexical", weight=5.0)]

        async def aexpand(self, query: str) -> list[QueryText]:
            return self.expand(query)

    with Index(embedder, config=replace(PipelineConfig.hybrid(), fusion="minmax")) as index:
        index.add(DOCUMENTS)
        hits = Retriever(index, expander=Terms()).retrieve("cats").hits
    scores = {hit.chunk.document_id: hit.scores.get("bm25", 0.0) for hit in hits}
    assert scores["bread"] > scores["cats"] > 0
    assert np.isfinite(list(scores.values())).all()


async def test_cancelling_cancels_the_work(index: Index) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    class Slow:
        name = "slow"

        def expand(self, query: str) -> list[QueryText]:
            raise AssertionError("only the asynchronous way is used here")

        async def aexpand(self, query: str) -> list[QueryText]:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise
            return []

    task = asyncio.create_task(Retriever(index, expander=Slow()).aretrieve("cats"))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()


async def test_a_given_dense_vector_takes_the_place_of_the_texts(index: Index, embedder: Embedder) -> None:
    dense = embedder.embed_documents(["wild yeast and bread"])[0]
    generator = Generator("never asked")
    found = await both(Retriever(index, expander=Hyde(generator)), "cats", dense=3 * dense)
    assert found[0][0] == "bread"
    assert found[0][1] == pytest.approx(float(embedder.embed_documents([DOCUMENTS[3].text])[0] @ dense), abs=2e-3)
    assert not generator.asked


class Wordings:
    """An expander with texts of its own."""

    name = "wordings"

    def __init__(self, *texts: QueryText) -> None:
        self.texts = list(texts)

    def expand(self, query: str) -> list[QueryText]:
        return self.texts

    async def aexpand(self, query: str) -> list[QueryText]:
        return self.texts


FUSIONS = {"rrf": rrf, "minmax": minmax, "dbsf": dbsf}


@pytest.mark.parametrize("fusion", FUSIONS)
async def test_each_text_is_searched_for_and_the_rankings_are_fused(
    index: Index, embedder: Embedder, fusion: TextFusion
) -> None:
    texts = [
        QueryText("sleeping animals"),
        QueryText("tame animals", weight=0.5),
        QueryText("Wild yeast makes bread rise.", role="document", weight=0.25),
        QueryText("cables", role="lexical", weight=0.5),
        QueryText("never searched for", weight=0.0),
    ]
    retriever = Retriever(index, expander=Wordings(*texts), fuse_texts=fusion, k=4)
    found = await both(retriever, "sleeping animals")
    vectors = [
        embedder.embed_queries(["sleeping animals"])[0],
        embedder.embed_queries(["tame animals"])[0],
        embedder.embed_documents(["Wild yeast makes bread rise."])[0],
    ]
    rankings = [index.search_vectors("", QueryVectors(vector), k=4).hits for vector in vectors]
    expected = FUSIONS[fusion](rankings, weights=[1.0, 0.5, 0.25])
    assert [name for name, _ in found] == [hit.chunk.document_id for hit in expected]
    assert [score for _, score in found] == pytest.approx([hit.score for hit in expected], abs=1e-5)
    steps = retriever.retrieve("sleeping animals").steps
    assert [step.name for step in steps] == ["wordings", *["embed", "search"] * 3, "fuse"]
    assert steps[-1].details == {"searches": 3, "hits": 4}


async def test_ties_of_fused_searches_are_broken_the_same_way_every_time(index: Index) -> None:
    """Two wordings of equal weight that rank two documents the other way round: the document's id decides."""
    one, two = QueryText("cats"), QueryText("dogs")
    orders = {
        tuple((await both(Retriever(index, expander=Wordings(*texts), fuse_texts="rrf", k=4), "pets"))[:2])
        for texts in ((one, two), (two, one))
        for _ in range(3)
    }
    assert len(orders) == 1
    (first, score), (second, tied) = orders.pop()
    assert (first, second) == ("cats", "dogs")
    assert score == tied


async def test_one_text_needs_no_fusion_and_a_failing_expander_leaves_one(index: Index) -> None:
    plain = await both(Retriever(index, k=3), "cats")
    assert await both(Retriever(index, fuse_texts="rrf", k=3), "cats") == plain
    down = Hyde(Generator(error=GenerationError("down")))
    failing = Retriever(index, expander=down, fuse_texts="rrf", k=3, policy=FAST_FAIL)
    assert await both(failing, "cats") == plain
    assert failing.retrieve("cats").degraded == ("hyde",)


async def test_the_error_of_a_search_passes_unchanged(index: Index) -> None:
    texts = Wordings(QueryText("cats"), QueryText("dogs", role="unknown"))
    retriever = Retriever(index, expander=texts, fuse_texts="rrf")
    with pytest.raises(InputError, match="unknown roles"):
        retriever.retrieve("pets")
    with pytest.raises(InputError, match="unknown roles"):
        await retriever.aretrieve("pets")


def test_a_fusion_or_threshold_that_is_none_is_refused(index: Index) -> None:
    with pytest.raises(InputError, match="fuse_texts='sum'"):
        Retriever(index, fuse_texts="sum")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="threshold=nan leaves out every hit"):
        Retriever(index, threshold=float("nan"))


async def test_every_step_of_a_query_is_a_span_under_the_callers(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    trace_api = pytest.importorskip("opentelemetry.trace")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory.InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace_api, "_TRACER_PROVIDER", provider)
    retriever = Retriever(index, expander=Hyde(Generator("Cats sleep all day.")), rerankers=[Alphabetical()])
    for mode in ("sync", "async"):
        exporter.clear()
        with trace_api.get_tracer("application").start_as_current_span("request") as request:
            result = retriever.retrieve("cats") if mode == "sync" else await retriever.aretrieve("cats")
        spans = [span for span in exporter.get_finished_spans() if span.name != "request"]
        assert sorted(span.name for span in spans) == sorted(f"situate.{step.name}" for step in result.steps)
        assert {span.parent.span_id for span in spans} == {request.get_span_context().span_id}
        (search,) = (span for span in spans if span.name == "situate.search")
        assert dict(search.attributes) == {"situate.hits": len(result)}
        assert not any("cats" in str(span.attributes).lower() for span in spans)


async def test_settings_make_the_same_retriever(index: Index) -> None:
    retriever = Retriever(index, expander=Hyde(Generator("Cats sleep."), drafts=1), k=2, fuse_texts="rrf")
    assert retriever.settings == RetrieverSettings(k=2, fuse_texts="rrf")
    again = Retriever.from_settings(
        index,
        retriever.settings,
        expander=Hyde.from_settings(Generator("Cats sleep."), HydeSettings(drafts=1)),
    )
    assert again.settings == retriever.settings
    assert await both(again, "cats") == await both(retriever, "cats")
    assert len(again.retrieve("cats")) == 2


class Lifecycle:
    """A service's start, synchronous or not."""

    def __init__(self, retriever: Retriever) -> None:
        self.retriever = retriever

    async def run(self, mode: str, verb: str) -> Retriever:
        if mode == "sync":
            return getattr(self.retriever, verb)()  # type: ignore[no-any-return]
        return await getattr(self.retriever, f"a{verb}")()  # type: ignore[no-any-return]


@contextmanager
def held_by_another_process(path: Path) -> Iterator[None]:
    program = (
        "import sys; from situate.retrievers import connect; client = connect(sys.argv[1]); client.get_collections();"
        "print('held', flush=True); sys.stdin.read(); client.close()"
    )
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield
        other.communicate()


modes = pytest.mark.parametrize("mode", ["sync", "async"])


@modes
async def test_a_service_fails_when_it_starts(mode: str, embedder: Embedder, tmp_path: Path) -> None:
    with Index(embedder, path=tmp_path / "store") as first:
        first.add(DOCUMENTS)
    second = Index(embedder, path=tmp_path / "store")
    verbs = ("open", "warm_up")
    with held_by_another_process(tmp_path / "store"):
        for verb in verbs:
            with pytest.raises(StoreLockedError):
                await Lifecycle(Retriever(second)).run(mode, verb)
    for verb in verbs:
        with pytest.raises(ModelError):
            await Lifecycle(Retriever(Index(Embedder("no/such-model")))).run(mode, verb)
        with pytest.raises(ServerError):
            await Lifecycle(Retriever(Index(embedder, path="http://127.0.0.1:1"))).run(mode, verb)
    retriever = Retriever(second)
    for verb in verbs:
        assert await Lifecycle(retriever).run(mode, verb) is retriever
    assert retriever.retrieve("when do cats sleep")[0].chunk.document_id == "cats"
    second.close()


@modes
async def test_warming_up_loads_every_model_and_asks_no_language_model(mode: str, index: Index) -> None:
    judge = Generator("3")
    local = LateInteractionReranker(index.embedder)
    ready = Retriever(index, expander=Hyde(judge), rerankers=[local, Stages(PointwiseReranker(judge), local)])
    await Lifecycle(ready).run(mode, "warm_up")
    assert not judge.asked
    missing = [CrossEncoderReranker("no/such-model"), Stages(CrossEncoderReranker("no/such-model"))]
    for reranker in [*missing, OptionalReranker(missing[0])]:
        with pytest.raises(ModelError):
            await Lifecycle(Retriever(index, rerankers=[reranker])).run(mode, "warm_up")


async def test_a_threshold_goes_by_relevance_where_it_is_known(index: Index) -> None:
    class Sure(Alphabetical):
        """Knows the relevance of one hit."""

        def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
            ranked = super().rerank(query, hits)
            return [replace(hit, relevance=0.2 if hit.chunk.document_id == "bread" else None) for hit in ranked]

    found = await both(Retriever(index, rerankers=[Sure()], threshold=0.75), "cats")
    assert [name for name, _ in found] == ["bridges", "cats"]  # 1.0, 0.9 and 0.8, and bread's relevance below


@modes
async def test_a_retriever_is_open_in_its_block_and_closed_behind_it(
    mode: str, embedder: Embedder, tmp_path: Path
) -> None:
    with Index(embedder, path=tmp_path / "store") as first:
        first.add(DOCUMENTS)
    if mode == "sync":
        with Retriever(Index(embedder, path=tmp_path / "store")) as retriever:
            assert retriever.retrieve("when do cats sleep")[0].chunk.document_id == "cats"
    else:
        async with Retriever(Index(embedder, path=tmp_path / "store")) as retriever:
            assert (await retriever.aretrieve("when do cats sleep"))[0].chunk.document_id == "cats"
    with pytest.raises(StorageError, match="closed"):
        retriever.retrieve("when do cats sleep")


async def test_another_expander_and_one_warning(index: Index, caplog: pytest.LogCaptureFixture) -> None:
    retriever = Retriever(index, k=2, policy=FAST_FAIL)
    plain = await both(retriever, "cats")
    down = [Hyde(Generator(error=GenerationError("down"))) for _ in range(3)]
    with caplog.at_level(logging.WARNING):
        for expander in down:
            assert await both(retriever.with_expander(expander), "cats") == plain
    assert sum("was skipped" in record.message for record in caplog.records) == 1
    assert retriever.expander is None

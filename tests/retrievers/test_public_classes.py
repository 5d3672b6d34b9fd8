"""Every public class of the query pipeline copies and pickles as its configuration, and names the right parameter."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from situate.embedders import Embedder
from situate.errors import InputError
from situate.retrievers import (
    ConversationalQuery,
    Hyde,
    HydeSettings,
    Index,
    MultiQuery,
    Retriever,
    RetrieverSettings,
    SemanticCache,
    StepBack,
    StepPolicy,
    Turn,
    connect,
)
from situate.retrievers.cache_codecs import RESULTS
from situate.retrievers.evaluation import CachedEncoder, EncodingStore, MtebEncoder, MtebSearch
from situate.retrievers.pipeline.steps import StepRunner
from situate.retrievers.rerank import (
    ByDocument,
    ByPage,
    CrossEncoderReranker,
    DuoReranker,
    LateInteractionReranker,
    ListwiseReranker,
    Mmr,
    OptionalReranker,
    PairwiseReranker,
    PointwiseReranker,
    Stage,
    Stages,
    StoredTokens,
)
from situate.types import Prompt


class Generator:
    """A language model that says yes."""

    def generate(self, prompts: Sequence[Prompt]) -> list[str]:
        return ["yes"] * len(prompts)

    async def agenerate(self, prompts: Sequence[Prompt]) -> list[str]:
        return self.generate(prompts)


def client(path: Path) -> Any:
    return connect(path)


MAKERS: dict[type, Callable[[Path], Any]] = {
    ByPage: lambda _: ByPage(per_page=2),
    ByDocument: lambda _: ByDocument("mean", top=2),
    CachedEncoder: lambda path: CachedEncoder(Embedder().encoder, path / "kept", {"model": "m"}),
    ConversationalQuery: lambda _: ConversationalQuery(Generator(), (Turn("user", "Hello"),)),
    CrossEncoderReranker: lambda _: CrossEncoderReranker("a/model", context=["title"], prior=0.25, top=7),
    DuoReranker: lambda _: DuoReranker("a/model", top=3),
    EncodingStore: lambda path: EncodingStore(path / "kept"),
    Hyde: lambda _: Hyde(Generator(), drafts=2),
    HydeSettings: lambda _: HydeSettings(drafts=2),
    LateInteractionReranker: lambda _: LateInteractionReranker(Embedder(), prior=0.5),
    ListwiseReranker: lambda _: ListwiseReranker(Generator(), window=5, step=2),
    Mmr: lambda _: Mmr(Embedder(), balance=0.3),
    MtebEncoder: lambda _: MtebEncoder(Embedder()),
    MtebSearch: lambda _: MtebSearch(Embedder()),
    MultiQuery: lambda _: MultiQuery(Generator(), queries=2),
    OptionalReranker: lambda _: OptionalReranker(PointwiseReranker(Generator()), on_error="raise"),
    PairwiseReranker: lambda _: PairwiseReranker(Generator(), top=3),
    PointwiseReranker: lambda _: PointwiseReranker(Generator(), top=3),
    Retriever: lambda path: Retriever(Index(Embedder(), path=path / "index"), rerankers=[ByDocument()], k=3),
    RetrieverSettings: lambda _: RetrieverSettings(k=3),
    SemanticCache: lambda path: SemanticCache(lambda: client(path / "cache"), Embedder(), RESULTS),
    Stage: lambda _: Stage(ByDocument(), keep=3),
    Stages: lambda _: Stages(ByDocument(), Stage(ByDocument(), depth=3)),
    StepBack: lambda _: StepBack(Generator(), weight=0.25),
    StepPolicy: lambda _: StepPolicy(retries=3),
    StepRunner: lambda _: StepRunner(StepPolicy(retries=3)),
    StoredTokens: lambda path: StoredTokens(lambda: client(path / "tokens")),
    Turn: lambda _: Turn("user", "Hello"),
}
every_class = pytest.mark.parametrize("made", MAKERS, ids=lambda cls: cls.__name__)
#: A function made in a test has no name to pickle by; objects made from one are copied only.
NAMELESS = {SemanticCache, StoredTokens}


def configuration(value: Any, depth: int = 0) -> Any:
    """An object's configuration, without the resources that it opened or loaded."""
    if isinstance(value, list | tuple):
        return [configuration(one, depth) for one in value]
    if not type(value).__module__.startswith(("situate", "test", "tests")) or depth > 3:
        return value if isinstance(value, str | int | float | bool | None) else type(value).__name__
    public = {name: one for name, one in vars(value).items() if not name.startswith("_")}
    return type(value).__name__, {name: configuration(one, depth + 1) for name, one in public.items()}


@every_class
def test_copies_as_its_configuration(made: type, tmp_path: Path) -> None:
    one = MAKERS[made](tmp_path)
    again = copy.deepcopy(one)
    assert again is not one or made is Turn
    assert configuration(again) == configuration(one)


@pytest.mark.parametrize("made", [cls for cls in MAKERS if cls not in NAMELESS], ids=lambda cls: cls.__name__)
def test_pickles_as_its_configuration(made: type, tmp_path: Path) -> None:
    one = MAKERS[made](tmp_path)
    assert configuration(pickle.loads(pickle.dumps(one))) == configuration(one)


@every_class
def test_an_unknown_parameter_is_refused(made: type) -> None:
    with pytest.raises(InputError, match=rf"{made.__name__} does not know colour=; it takes \w+"):
        made(colour="blue")


@pytest.mark.parametrize(
    ("made", "given", "right"),
    [
        (Retriever, "top_k", "k"),
        (Retriever, "similarity_top_k", "k"),
        (Retriever, "score_threshold", "threshold"),
        (Retriever, "node_postprocessors", "rerankers"),
        (Retriever, "treshold", "threshold"),
        (RetrieverSettings, "timeout", "policy"),
        (Hyde, "llm", "generator"),
        (Hyde, "n", "drafts"),
        (Hyde, "prompt", "template"),
        (HydeSettings, "n", "drafts"),
        (MultiQuery, "num_queries", "queries"),
        (CrossEncoderReranker, "model_name", "model"),
        (CrossEncoderReranker, "top_n", "top"),
        (PointwiseReranker, "llm", "generator"),
        (ListwiseReranker, "window_size", "window"),
        (LateInteractionReranker, "embed_model", "embedder"),
        (Mmr, "lambda_mult", "balance"),
        (Mmr, "top_n", "keep"),
        (SemanticCache, "similarity_threshold", "nearest"),
        (SemanticCache, "collection_name", "collection"),
        (StoredTokens, "collection_name", "collection"),
    ],
)
def test_the_right_parameter_is_named(made: type, given: str, right: str) -> None:
    with pytest.raises(InputError, match=rf"{given}= \(here it is {right}=\)"):
        made(**{given: 1})


@pytest.mark.parametrize(
    "made", [Hyde, MultiQuery, StepBack, ConversationalQuery, PointwiseReranker, PairwiseReranker, ListwiseReranker]
)
@pytest.mark.parametrize("given", ["gpt-4", None, object()], ids=["name", "none", "object"])
def test_what_is_no_language_model_is_refused_at_construction(made: type, given: object) -> None:
    with pytest.raises(InputError, match=r"is no TextGenerator.*LlamaIndexGenerator"):
        made(given)


@pytest.mark.parametrize("made", [cls for cls in MAKERS if cls.__module__.endswith(("retriever", "hyde", "rewriting"))])
def test_what_runs_in_one_loop_runs_in_its_copy(made: type, tmp_path: Path) -> None:
    assert type(copy.copy(MAKERS[made](tmp_path))) is made

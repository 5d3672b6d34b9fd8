"""The cache's error stays below its bound, and nothing leaks between tenants, times and documents."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from functools import partial

import numpy as np
import pytest

from situate.embedders import ChunkScheme, Embedder
from situate.errors import IncompatibleIndexError, InputError
from situate.retrievers import connect
from situate.retrievers.cache import SemanticCache
from situate.retrievers.cache_codecs import RESULTS, TEXT
from situate.retrievers.cache_entries import expected_error
from situate.retrievers.pipeline.steps import StepPolicy
from situate.retrievers.types import Hit, SearchResult
from situate.types import Chunk, Context

both = pytest.mark.parametrize("mode", ["sync", "async"])


class Places:
    """Embeds "x y" as the point of the unit circle at angle x degrees, so that tests choose cosines."""

    dimension = 2

    def __init__(self, name="places"):
        self.fingerprint = {"model": name}
        self.calls = 0

    def embed_queries(self, texts):
        self.calls += 1
        angles = np.radians([float(text.split()[0]) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    async def aembed_queries(self, texts):
        return self.embed_queries(texts)


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def client():
    with connect(":memory:") as found:
        yield found


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def cache(client, clock):
    return SemanticCache(client, Places(), TEXT, seed=0, clock=clock, ttl=60)


async def fetch(mode, cache, query, value, **options):
    """The answer, where computing gives ``value``."""

    async def compute():
        return value

    if mode == "sync":
        return cache.fetch(query, lambda: value, **options)
    return await cache.afetch(query, compute, **options)


@both
async def test_the_same_words_are_a_hit_and_cost_no_embedding(mode, cache):
    first = await fetch(mode, cache, "10 how long?", "twelve weeks")
    calls = cache.embedder.calls
    second = await fetch(mode, cache, "10  how long?", "never computed")
    assert (first.value, first.hit) == ("twelve weeks", False)
    assert (second.value, second.hit, second.similarity) == ("twelve weeks", True, 1.0)
    assert cache.embedder.calls == calls


def test_expected_error_is_laplaces_rule():
    assert expected_error([], [], 0.9) == 1 / 2
    assert expected_error([0.8, 0.85, 0.95], [0.7], 0.9) == 1 / 4  # right at 0.95 is no evidence at 0.9
    assert expected_error([0.8], [0.92, 0.99], 0.9) == 3 / 5


def test_an_entry_that_was_right_often_is_used_and_one_that_was_wrong_is_not(client, clock):
    cache = SemanticCache(client, Places(), TEXT, seed=1, clock=clock, max_error=0.2)
    cache.fetch("0 question", lambda: "a")
    for i in range(30):
        cache.fetch(f"{-2 - i / 100} wording", lambda: "a")
    assert sum(cache.fetch(f"{-1 - i / 1000} again", lambda: "a").hit for i in range(20)) >= 18
    cache.clear()
    cache.fetch("0 question", lambda: "a")
    hits = sum(cache.fetch(f"{-10 - i} other", lambda i=i: f"other {i}").hit for i in range(20))
    assert hits <= 12


@pytest.mark.parametrize("max_error", [0.05, 0.2])
def test_errors_stay_below_the_bound(client, max_error):
    """Questions of ten meanings, close enough to be confused: wrong hits are a smaller share than promised."""
    cache = SemanticCache(client, Places(), TEXT, seed=2, max_error=max_error)
    rng = np.random.default_rng(3)
    wrong = hits = 0
    rounds = 600
    for i in range(rounds):
        meaning = int(rng.integers(10))
        found = cache.fetch(f"{meaning * 12 + rng.normal(0, 3):.4f} q{i}", lambda m=meaning: f"answer {m}")
        hits += found.hit
        wrong += found.hit and found.value != f"answer {meaning}"
    assert wrong / rounds <= max_error
    assert hits > 0


@both
async def test_tenants_do_not_see_each_other(mode, cache):
    await fetch(mode, cache, "10 q", "theirs", tenant="a")
    found = await fetch(mode, cache, "10 q", "ours", tenant="b")
    assert (found.value, found.hit, found.similarity) == ("ours", False, None)
    cache.clear(tenant="a")
    assert (await fetch(mode, cache, "10 q", "new", tenant="a")).value == "new"
    assert (await fetch(mode, cache, "10 q", "x", tenant="b")).value == "ours"


@both
async def test_entries_expire(mode, cache, clock):
    await fetch(mode, cache, "10 q", "old")
    clock.now += 59
    assert (await fetch(mode, cache, "10 q", "x")).hit
    clock.now += 2
    found = await fetch(mode, cache, "10 q", "new")
    assert (found.value, found.hit) == ("new", False)
    clock.now += 61
    assert cache.count() == 1
    cache.purge()
    assert cache.count() == 0


def test_documents_that_change_take_their_answers_with_them(cache):
    cache.fetch("10 q", lambda: "a", document_ids=["handbook"])
    cache.fetch("90 q", lambda: "b", document_ids=["other"])
    cache.invalidate(["handbook"])
    assert cache.fetch("10 q", lambda: "new").value == "new"
    assert cache.fetch("90 q", lambda: "x").value == "b"
    cache.invalidate([])
    assert cache.count() == 2


def test_results_carry_their_documents(client):
    hits = tuple(
        Hit(
            Chunk(f"c{i}", "handbook", i, "text", 0, 4, Context(title="T", headings=("H",)), {"n": i}),
            0.5,
            {"dense": 0.5},
        )
        for i in range(2)
    )
    result = SearchResult("10 q", hits)
    cache = SemanticCache(client, Places(), RESULTS)
    cache.fetch("10 q", lambda: result)
    assert cache.fetch("10 q", lambda: SearchResult("", ())).value == result
    cache.invalidate(["handbook"])
    assert not cache.fetch("10 q", lambda: result).hit


def test_another_model_does_not_use_the_entries(client, cache):
    cache.fetch("10 q", lambda: "a")
    other = SemanticCache(client, Places("another"), TEXT)
    assert other.fetch("10 q", lambda: "b").value == "b"


def test_how_neighbours_are_mixed_parts_no_entries(client):
    """No neighbour is mixed into a query: entries of versions before stay valid."""
    mixed, before = (Embedder(scheme=ChunkScheme(neighbours=0.3, centred=centred)) for centred in (True, False))
    SemanticCache(client, before, TEXT).fetch("10 q", lambda: "a")
    assert SemanticCache(client, mixed, TEXT).fetch("10 q", lambda: "b").value == "a"


def test_vectors_of_another_length_are_refused(client, cache):
    cache.fetch("10 q", lambda: "a")
    longer = Places()
    longer.dimension = 3
    with pytest.raises(IncompatibleIndexError, match="situate_cache"):
        SemanticCache(client, longer, TEXT).count()


@both
async def test_a_cache_that_fails_fails_no_query(mode, client):
    class Broken(Places):
        def embed_queries(self, texts):
            raise RuntimeError("no device")

    found = await fetch(mode, SemanticCache(client, Broken(), TEXT), "10 q", "computed")
    assert (found.value, found.hit) == ("computed", False)
    assert [step.name for step in found.steps if step.error] == ["cache:get", "cache:put"]


@both
async def test_errors_of_the_computation_pass(mode, cache):
    async def fails():
        raise LookupError("no answer")

    with pytest.raises(LookupError):
        await (cache.afetch("10 q", fails) if mode == "async" else asyncio.to_thread(cache.fetch, "10 q", [].pop))
    assert cache.count() == 0


@both
@pytest.mark.parametrize("query", ["", " \n", "10 " + "x" * 100_000])
async def test_queries_that_are_empty_or_long_are_not_cached(mode, cache, query):
    assert not (await fetch(mode, cache, query, "a")).hit
    assert not (await fetch(mode, cache, query, "b")).hit
    assert cache.count() == 0


def test_with_a_real_embedder(client, minilm_path):
    from situate.embedders.embedder import Embedder

    cache = SemanticCache(client, Embedder(minilm_path), TEXT, seed=0, max_error=0.3)
    cache.fetch("how long is parental leave?", lambda: "twelve weeks")
    near = cache.fetch("How long does parental leave last?", lambda: "twelve weeks")
    far = cache.fetch("where is the office?", lambda: "Berlin")
    assert near.similarity > 0.8
    assert (far.hit, far.similarity, far.value) == (False, None, "Berlin")


@pytest.mark.parametrize(
    "arguments", [{"max_error": 0}, {"max_error": 1}, {"ttl": 0}, {"nearest": 2.0}, {"max_error": float("nan")}]
)
def test_arguments_that_make_no_sense(client, arguments):
    with pytest.raises(InputError):
        SemanticCache(client, Places(), TEXT, **arguments)


def during(cache, query, forget, *, tenant="", document_ids=("handbook",)):
    """Fetches ``query`` in a thread, and calls ``forget`` while the answer is computed."""
    computing, forgotten = threading.Event(), threading.Event()

    def compute():
        computing.set()
        assert forgotten.wait(30)
        return "twelve weeks"

    def run():
        found.append(cache.fetch(query, compute, tenant=tenant, document_ids=document_ids))

    found = []
    thread = threading.Thread(target=run)
    thread.start()
    assert computing.wait(30)
    forget()
    forgotten.set()
    thread.join(30)
    return found[0]


@pytest.mark.parametrize(
    ("forget", "kept"),
    [
        (lambda cache: cache.invalidate(["handbook"]), False),
        (lambda cache: cache.invalidate(["other", "handbook"], tenant="a"), False),
        (lambda cache: cache.clear(), False),
        (lambda cache: cache.clear(tenant="a"), False),
        (lambda cache: cache.invalidate(["other"]), True),
        (lambda cache: cache.invalidate(["handbook"], tenant="b"), True),
        (lambda cache: cache.purge(), True),
    ],
)
def test_an_answer_whose_documents_change_while_it_is_computed_is_not_remembered(cache, forget, kept):
    found = during(cache, "10 how long?", lambda: forget(cache), tenant="a")
    assert (found.value, found.hit) == ("twelve weeks", False)
    assert all(step.error is None for step in found.steps)
    assert cache.count() == int(kept)
    again = cache.fetch("10 how long?", lambda: "thirteen weeks", tenant="a", document_ids=["handbook"])
    assert again.value == ("twelve weeks" if kept else "thirteen weeks")


@both
async def test_an_answer_that_is_stored_too_late_is_not_remembered(mode, client, monkeypatch):
    """A step that timed out goes on in its thread; documents may have been invalidated by then."""
    forgotten, learnt = threading.Event(), threading.Event()
    learn = SemanticCache._learn

    def late(*arguments):
        assert forgotten.wait(30)
        learn(*arguments)
        learnt.set()

    monkeypatch.setattr(SemanticCache, "_learn", late)
    cache = SemanticCache(client, Places(), TEXT, policy=StepPolicy(timeout=0.2, retries=0))
    cache.count()
    found = await fetch(mode, cache, "10 how long?", "twelve weeks", document_ids=["handbook"])
    assert "Timeout" in found.steps[-1].error
    cache.invalidate(["handbook"])
    forgotten.set()
    assert learnt.wait(30)
    assert cache.count() == 0


async def test_an_asynchronous_answer_whose_documents_change_is_not_remembered(cache):
    computing, forgotten = asyncio.Event(), asyncio.Event()

    async def compute():
        computing.set()
        await forgotten.wait()
        return "twelve weeks"

    task = asyncio.create_task(cache.afetch("10 how long?", compute, document_ids=["handbook"]))
    await computing.wait()
    await asyncio.to_thread(cache.invalidate, ["handbook"])
    forgotten.set()
    assert (await task).value == "twelve weeks"
    assert cache.count() == 0


def test_of_many_threads_none_leaves_an_answer_from_before_the_invalidation(cache):
    """In every order of storing and forgetting, answers computed before are gone afterwards."""
    version, started = ["old"], threading.Barrier(9)

    def compute():
        read = version[0]
        started.wait(30)
        return read

    def ask(number):
        cache.fetch(f"{20 * number} how long?", compute, document_ids=["handbook"])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    started.wait(30)
    version[0] = "new"
    cache.invalidate(["handbook"])
    for thread in threads:
        thread.join(30)
    for number in range(8):
        assert cache.fetch(f"{20 * number} how long?", lambda: "new", document_ids=["handbook"]).value == "new"


@both
@pytest.mark.parametrize("words", ["10 how long?", "11 for how long?"], ids=["same", "near"])
@pytest.mark.parametrize("broken", [{"value": {"answer": 1}}, {"value": None}, {"right": None}])
async def test_an_entry_of_another_version_is_computed_anew_and_replaced(mode, client, words, broken):
    cache = SemanticCache(client, Places(), RESULTS, max_error=0.9, seed=0)
    await fetch(mode, cache, "10 how long?", SearchResult("q", ()))
    points, _ = client.scroll(cache.collection)
    client.set_payload(cache.collection, broken, points=[points[0].id], wait=True)
    found = await fetch(mode, cache, words, SearchResult("anew", ()))
    assert (found.value.query, found.hit) == ("anew", False)
    assert all(step.error is None for step in found.steps)
    assert cache.count() == 1
    assert (await fetch(mode, cache, words, SearchResult("never", ()))).value.query == "anew"


def test_a_cache_opens_its_client_at_first_use_and_pickles_as_its_configuration(tmp_path):
    cache = SemanticCache(partial(connect, tmp_path / "cache"), Places(), TEXT, collection="answers", max_error=0.1)
    again = pickle.loads(pickle.dumps(cache))
    assert (again.collection, again.max_error) == ("answers", 0.1)
    assert not (tmp_path / "cache").exists()
    assert again.fetch("10 how long?", lambda: "twelve weeks").value == "twelve weeks"
    with pytest.raises(InputError, match="function that opens the client"):
        pickle.dumps(SemanticCache(again.client, Places(), TEXT))
    assert copy.deepcopy(SemanticCache(again.client, Places(), TEXT)).client is again.client
    again.client.close()

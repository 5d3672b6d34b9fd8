"""Models that only sentence-transformers runs whole: its own vectors, by role, refused where they would be wrong."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest

from situate.chunkers import Chunk, Document
from situate.embedders import ChunkScheme, Embedder, LibraryEncoder, SpanText
from situate.embedders.library.encoder import corpus_sample
from situate.errors import (
    ConventionError,
    IncompatibleIndexError,
    InputError,
    TruncationWarning,
    UnsafeModelError,
)

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the a cat dog sat on mat query passage red blue house city berlin river . :"
TEXTS = ["the cat sat on the mat", "berlin : a city .", "red house", ""]
PASSAGES = ["the dog", "a river", "berlin", "blue house", "the mat", "a city", "red"]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

# A repository's own module, as Jina's and Contextual Document Embeddings' are: it takes something in each call.
ADAPTERS = """
from sentence_transformers.base.modules import Transformer as Base

TASKS = {"retrieval.query": 1.0, "retrieval.passage": -1.0, "text-matching": 2.0}


class Transformer(Base):
    forward_kwargs = {"task"}

    def forward(self, features, task=None, **kwargs):
        features = super().forward(features, **kwargs)
        features["token_embeddings"] = features["token_embeddings"] + TASKS.get(task, 0.0)
        return features
"""
TWO_STAGES = """
from sentence_transformers.base.modules import Transformer as Base


class Transformer(Base):
    forward_kwargs = {"dataset_embeddings"}

    def forward(self, features, dataset_embeddings=None, **kwargs):
        features = super().forward(features, **kwargs)
        if dataset_embeddings is not None:
            assert len(dataset_embeddings) == self.config.transductive_corpus_size
            features["token_embeddings"] = features["token_embeddings"] + dataset_embeddings.mean(dim=0)
        return features
"""


def saved(folder: Path, modules, *, prompts: dict[str, str] | None = None, code: str = "", **config: object) -> Path:
    """A tiny random BERT with these modules behind it, and with the repository's own code where there is some."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    base = folder.parent / f"{folder.name}-base"
    base.mkdir(parents=True)
    (base / "vocab.txt").write_text(WORDS.replace(" ", "\n"))
    BertTokenizerFast(str(base / "vocab.txt"), model_max_length=24).save_pretrained(base)
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=WORDS.count(" ") + 1, max_position_embeddings=24, **small)).save_pretrained(base)
    SentenceTransformer(modules=[Transformer(str(base)), *modules], prompts=prompts, device="cpu").save(str(folder))
    if code:
        (folder / "custom_st.py").write_text(code)
        listed = json.loads((folder / "modules.json").read_text())
        listed[0] = {**listed[0], "type": "custom_st.Transformer"}
        (folder / "modules.json").write_text(json.dumps(listed))
    if config:
        own = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**own, **config}))
    return folder


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


@pytest.fixture(scope="module")
def two_poolings(tmp_path_factory) -> Path:
    from sentence_transformers.sentence_transformer.modules import Pooling

    prompts = {"query": "query : ", "document": "passage : "}
    modules = [Pooling(16, pooling_mode=("cls", "mean"), include_prompt=False)]
    return saved(tmp_path_factory.mktemp("two") / "model", modules, prompts=prompts)


@pytest.fixture(scope="module")
def jina(tmp_path_factory) -> Path:
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    prompts = {"retrieval.query": "query : ", "retrieval.passage": "passage : ", "text-matching": ""}
    folder = tmp_path_factory.mktemp("jina") / "jina-embeddings-v3"
    return saved(folder, [Pooling(16), Normalize()], prompts=prompts, code=ADAPTERS)


@pytest.fixture(scope="module")
def cde(tmp_path_factory) -> Path:
    from sentence_transformers.sentence_transformer.modules import Pooling

    folder = tmp_path_factory.mktemp("cde") / "cde-small-v2"
    return saved(folder, [Pooling(16)], code=TWO_STAGES, transductive_corpus_size=4)


async def test_several_poolings_beside_each_other_are_the_librarys(two_poolings):
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(two_poolings), device="cpu")
    embedder = Embedder(two_poolings, device="cpu", dtype="float32")
    assert embedder.dimension == 32
    np.testing.assert_allclose(embedder.embed_queries(TEXTS), unit(reference.encode_query(TEXTS)), atol=1e-6)
    documents = unit(reference.encode_document(TEXTS))
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), documents, atol=1e-6)
    np.testing.assert_allclose(await embedder.aembed_documents(TEXTS), documents, atol=1e-6)
    np.testing.assert_allclose(Embedder(two_poolings, dimensions=8, dtype="float32").embed_documents(TEXTS[:1]),
                               unit(documents[:1, :8]), atol=1e-6)  # fmt: skip
    assert embedder.embed_documents([]).shape == (0, 32)
    assert "whole, by sentence-transformers: it pools by cls + mean" in embedder.describe()
    with pytest.warns(TruncationWarning, match="1 of 1 texts"):
        embedder.embed_documents(["cat " * 40])
    # An explicit pooling is used, by the encoder that pools spans.
    assert Embedder(two_poolings, pooling="mean").dimension == 16


def test_there_are_no_spans_in_what_the_library_runs(two_poolings):
    embedder = Embedder(two_poolings, device="cpu", dtype="float32")
    document = Document("d", "the cat . a dog .")
    chunks = [Chunk("c", "d", 0, "the cat .", 0, 9)]
    with pytest.raises(ConventionError, match="one vector per text"):
        embedder.encode_chunks([(document, chunks)], ChunkScheme(late=True))
    with pytest.raises(ConventionError, match="no token vectors"):
        embedder.embed_query_tokens(["cat"])
    assert embedder.embed_chunks(document, chunks).shape == (1, 32)


def test_static_embeddings_are_the_librarys(tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate(WORDS.split())}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    table = np.random.default_rng(0).standard_normal((len(vocabulary), 8)).astype(np.float32)
    modules = [StaticEmbedding(tokenizer, embedding_weights=table), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "potion-base-8M"))
    embedder = Embedder(tmp_path / "potion-base-8M", device="cpu", dtype="float32")
    wanted = SentenceTransformer(str(tmp_path / "potion-base-8M"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), wanted, atol=1e-6)
    assert embedder.tokenizer.encode("the cat").tokens == ["the", "cat"]
    assert embedder.max_tokens > 1_000_000
    assert "only a table of vectors" in embedder.describe()


def test_a_router_takes_its_branch_by_role(tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: number for number, word in enumerate(WORDS.split())}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    generator = np.random.default_rng(0)
    queries, documents = (
        StaticEmbedding(tokenizer, embedding_weights=generator.standard_normal((len(vocabulary), 8), dtype=np.float32))
        for _ in range(2)
    )
    router = Router.for_query_document([queries], [documents])
    SentenceTransformer(modules=[router], device="cpu").save(str(tmp_path / "model"))
    reference = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    embedder = Embedder(tmp_path / "model", device="cpu", dtype="float32")
    np.testing.assert_allclose(embedder.embed_queries(TEXTS), unit(reference.encode_query(TEXTS)), atol=1e-6)
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), unit(reference.encode_document(TEXTS)), atol=1e-6)
    assert np.abs(embedder.embed_queries(TEXTS) - embedder.embed_documents(TEXTS)).max() > 0.1


def test_a_task_adapter_is_switched_on_by_role(jina):
    from sentence_transformers import SentenceTransformer

    with pytest.raises(UnsafeModelError, match=r"task adapter.*trust_remote_code=True"):
        Embedder(jina).embed_queries(TEXTS)
    reference = SentenceTransformer(str(jina), device="cpu", trust_remote_code=True)
    embedder = Embedder(jina, device="cpu", dtype="float32", trust_remote_code=True)
    queries = reference.encode(TEXTS, prompt="query : ", task="retrieval.query")
    np.testing.assert_allclose(embedder.embed_queries(TEXTS), queries, atol=1e-6)
    np.testing.assert_allclose(
        embedder.embed_documents(TEXTS),
        reference.encode(TEXTS, prompt="passage : ", task="retrieval.passage"),
        atol=1e-6,
    )
    matching = Embedder(jina, device="cpu", dtype="float32", trust_remote_code=True, task="text-matching")
    same = reference.encode(TEXTS, task="text-matching")
    np.testing.assert_allclose(matching.embed_queries(TEXTS), same, atol=1e-6)
    np.testing.assert_allclose(matching.embed_documents(TEXTS), same, atol=1e-6)
    assert matching.fingerprint != embedder.fingerprint
    assert "query task=retrieval.query, document task=retrieval.passage" in embedder.describe()
    assert np.abs(queries - same).max() > 0.1


async def test_contextual_embeddings_read_the_sample_first(cde):
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(cde), device="cpu", trust_remote_code=True)
    encoder = LibraryEncoder(cde, corpus=PASSAGES, device="cpu", dtype="float32", trust_remote_code=True)
    sample = encoder.sample
    assert sample is not None
    context = reference.encode(list(sample), prompt="search_document: ", convert_to_tensor=True)
    embedder = Embedder("jxm/cde-small-v2", encoder=encoder)
    for found, prompt in (
        (embedder.embed_queries(TEXTS), "search_query: "),
        (embedder.embed_documents(TEXTS), "search_document: "),
        (await embedder.aembed_documents(TEXTS), "search_document: "),
    ):
        wanted = unit(reference.encode(TEXTS, prompt=prompt, dataset_embeddings=context))
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    alone = unit(reference.encode(TEXTS, prompt="search_query: "))
    assert np.abs(embedder.embed_queries(TEXTS) - alone).max() > 1e-2


def test_the_sample_comes_out_the_same_and_decides_the_index(cde):
    encoder = LibraryEncoder(cde, corpus=PASSAGES, trust_remote_code=True, device="cpu", dtype="float32")
    embedder = Embedder("jxm/cde-small-v2", encoder=encoder)
    assert len(encoder.sample) == 4
    kept = json.loads(json.dumps(encoder.sample))
    for other in (pickle.loads(pickle.dumps(encoder)), LibraryEncoder(cde, corpus=kept, trust_remote_code=True)):
        assert other.sample == encoder.sample
        assert Embedder("jxm/cde-small-v2", encoder=other).fingerprint == embedder.fingerprint
    copy = pickle.loads(pickle.dumps(embedder))
    np.testing.assert_array_equal(copy.embed_queries(TEXTS), embedder.embed_queries(TEXTS))
    foreign = LibraryEncoder(cde, corpus=PASSAGES[:2], trust_remote_code=True)
    assert len(foreign.sample) == 4
    assert set(foreign.sample) <= set(PASSAGES[:2])
    assert Embedder("jxm/cde-small-v2", encoder=foreign).fingerprint != embedder.fingerprint
    json.dumps(embedder.fingerprint)


def test_an_index_refuses_an_encoder_with_another_sample(cde, tmp_path):
    from situate.retrievers import Index, PipelineConfig

    def index(corpus):
        encoder = LibraryEncoder(cde, corpus=corpus, trust_remote_code=True, device="cpu", dtype="float32")
        return Index(Embedder("jxm/cde-small-v2", encoder=encoder), path=tmp_path / "i", config=PipelineConfig.plain())

    with index(PASSAGES) as first:
        first.add([Document(str(number), text) for number, text in enumerate(PASSAGES)])
        kept = first.embedder.encoder.sample
        found = first.search("a dog", k=2).hits
    with index(kept) as again:
        assert again.search("a dog", k=2).hits == found
    with index(None) as without:  # the collection keeps it
        assert without.search("a dog", k=2).hits == found
        assert without.embedder.encoder.sample == kept
    with index(PASSAGES[:3]) as other, pytest.raises(IncompatibleIndexError, match="encoder"):
        other.search("a dog", k=1)


def test_a_copy_under_another_name_reads_the_sample_it_is_given(cde, tmp_path):
    import shutil

    copy = shutil.copytree(cde, tmp_path / "ours")
    known, unknown = (
        LibraryEncoder(folder, corpus=PASSAGES, trust_remote_code=True, device="cpu", dtype="float32")
        for folder in (cde, copy)
    )
    assert unknown.sample == known.sample
    texts = [SpanText("red house")]
    alone = LibraryEncoder(copy, trust_remote_code=True, device="cpu", dtype="float32").encode(texts)[0].vectors
    assert np.abs(unknown.encode(texts)[0].vectors - alone).max() > 1e-2


def test_a_missing_sample_and_code_that_is_not_allowed_are_refused(cde):
    with pytest.raises(ConventionError, match=r"two stages.*LibraryEncoder\(.*corpus=passages"):
        Embedder(cde, trust_remote_code=True).embed_queries(TEXTS)
    with pytest.raises(ConventionError, match="reads a sample of the corpus"):
        LibraryEncoder(cde, trust_remote_code=True).sample  # noqa: B018
    with pytest.raises(UnsafeModelError, match="trust_remote_code=True"):
        Embedder("jxm/cde-small-v2", encoder=LibraryEncoder(cde, corpus=PASSAGES)).embed_queries(TEXTS)
    with pytest.raises(InputError, match="corpus holds no text"):
        corpus_sample([], 4)
    with pytest.raises(InputError, match="one string"):
        LibraryEncoder(cde, corpus="one passage")


def test_a_model_that_ran_before_a_fork_runs_in_the_child(two_poolings: Path) -> None:
    encoder = LibraryEncoder(two_poolings, device="cpu", dtype="float32")
    texts = [SpanText("Cats sleep."), SpanText("Bread rises slowly.")]
    wanted = np.concatenate([one.vectors for one in encoder.encode(texts)])
    context = multiprocessing.get_context("fork")
    answers = context.Queue()

    def encode() -> None:
        answers.put(np.concatenate([one.vectors for one in encoder.encode(texts)]))

    child = context.Process(target=encode)
    child.start()
    np.testing.assert_array_equal(answers.get(timeout=60), wanted)
    child.join(60)
    assert child.exitcode == 0
    np.testing.assert_array_equal(np.concatenate([one.vectors for one in encoder.encode(texts)]), wanted)

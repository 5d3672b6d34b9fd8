"""The chunk schemes, against procedures written out independently with AutoModel and numpy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from situate.embedders import ChunkScheme, Embedder, Family
from situate.embedders.centre import SAMPLE
from situate.embedders.schemes import with_neighbours
from situate.embedders.types import Encoded, SpanText, Vectors
from situate.errors import ConventionError, InputError, OverflowLimitError, SituateWarning, SpanError
from situate.types import Chunk, Context, Document
from tests.crowded import Crowded

SENTENCES = [
    "Berlin is the capital and largest city of Germany, both by area and by population. ",
    "Its more than 3.85 million inhabitants make it the European Union's most populous city. ",
    "The city is also one of the states of Germany, and is the third smallest state in the country. ",
    "Straße, naïve café and the 東京 tower stand in this one — 😀 too. ",
    "It straddles the banks of the Spree, which flows into the Havel in the western borough of Spandau. ",
]


def document_of(text: str, **metadata: str) -> Document:
    return Document("doc", text, metadata)


def chunks_of(document: Document, size: int) -> list[Chunk]:
    """Chunks of about ``size`` characters, cut at blanks."""
    bounds = [0]
    while bounds[-1] < len(document.text):
        end = min(bounds[-1] + size, len(document.text))
        while end < len(document.text) and not document.text[end - 1].isspace():
            end += 1
        bounds.append(end)
    return [Chunk.of(document, i, a, b) for i, (a, b) in enumerate(pairwise(bounds))]


SHORT = document_of("".join(SENTENCES), title="Berlin")
LONG = document_of("".join(SENTENCES * 8), title="Berlin")


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def crowded(embedder) -> Embedder:
    return Embedder(encoder=Crowded(embedder.encoder))


@pytest.fixture(scope="module")
def model(minilm_path):
    from transformers import AutoModel, AutoTokenizer

    return AutoModel.from_pretrained(minilm_path).eval(), AutoTokenizer.from_pretrained(minilm_path)


def normed(vectors) -> Vectors:
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def token_vectors(model, ids: list[int]) -> Vectors:
    import torch

    with torch.inference_mode():
        output = model[0](input_ids=torch.tensor([ids])).last_hidden_state
    return output[0].numpy()


def reference_late(model, document: Document, chunks: list[Chunk], window: int, overlap: int) -> Vectors:
    """Late chunking and long late chunking (Guenther et al. 2024, section 3 and algorithm 2), written out plainly.

    Macro windows overlap by ``overlap`` tokens; each is read by itself between [CLS] and [SEP]; of two windows that
    hold a token, the one where it stands further from the edge gives its vector; a chunk is the mean over its tokens.
    """
    tokenizer = model[1]
    encoded = tokenizer(document.text, add_special_tokens=False, return_offsets_mapping=True, truncation=False)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    room = window - 2
    if len(ids) <= room:
        starts, ends = [0], [len(ids)]
    else:
        count = -(-(len(ids) - overlap) // (room - overlap))
        total = len(ids) + (count - 1) * overlap
        sizes = [total // count + (i < total % count) for i in range(count)]
        starts, ends, at = [], [], 0
        for size in sizes:
            starts.append(at)
            ends.append(at + size)
            at += size - overlap
    best = np.full(len(ids), -1.0)
    vectors = np.zeros((len(ids), 384), dtype=np.float32)
    for start, end in zip(starts, ends, strict=True):
        read = token_vectors(model, [tokenizer.cls_token_id, *ids[start:end], tokenizer.sep_token_id])[1:-1]
        for i in range(start, end):
            left = i - start if start else np.inf
            right = end - 1 - i if end < len(ids) else np.inf
            if min(left, right) > best[i]:
                best[i] = min(left, right)
                vectors[i] = read[i - start]
    pooled = []
    for chunk in chunks:
        rows = [i for i, (a, b) in enumerate(offsets) if a < chunk.end and b > chunk.start]
        pooled.append(vectors[rows].mean(axis=0))
    return normed(pooled)


@pytest.mark.parametrize(("document", "window", "overlap"), [(SHORT, 256, 64), (LONG, 256, 64), (LONG, 128, 30)])
def test_late_chunking_agrees_with_the_reference(embedder, model, document, window, overlap):
    chunks = chunks_of(document, 180)
    scheme = ChunkScheme(late=True, residual=0.0, window=window, overlap=overlap)
    found = embedder.encode_chunks([(document, chunks)], scheme)[0].dense
    np.testing.assert_allclose(found, reference_late(model, document, chunks, window, overlap), atol=1e-5)


def test_the_window_is_what_the_model_was_trained_for(embedder):
    chunks = chunks_of(LONG, 200)
    default = embedder.encode_chunks([(LONG, chunks)], ChunkScheme(late=True))[0].dense
    named = embedder.encode_chunks([(LONG, chunks)], ChunkScheme(late=True, window=256))[0].dense
    np.testing.assert_array_equal(default, named)


def test_a_window_beyond_the_training_gives_one_warning():
    embedder = Embedder(dtype="float32", device="cpu")
    chunks = chunks_of(LONG, 200)
    with pytest.warns(SituateWarning, match=r"windows of 400 tokens, but .* was trained on 256"):
        embedder.encode_chunks([(LONG, chunks)], ChunkScheme(late=True, window=400))
    embedder.encode_chunks([(LONG, chunks)], ChunkScheme(late=True, window=400))


def test_token_vectors_of_a_late_pass_are_those_that_were_pooled(embedder):
    chunks = chunks_of(LONG, 150)
    scheme = ChunkScheme(late=True, residual=0.0)
    found = embedder.encode_chunks([(LONG, chunks)], scheme, token_vectors=True)[0]
    np.testing.assert_array_equal(found.dense, embedder.encode_chunks([(LONG, chunks)], scheme)[0].dense)
    assert found.tokens is not None
    assert len(found.tokens) == len(chunks)
    for chunk, matrix in zip(chunks, found.tokens, strict=True):
        assert matrix.shape == (len(embedder.tokenizer.encode(chunk.text, add_special_tokens=False).ids), 384)
        np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-5)


def test_token_vectors_are_late_whatever_the_residual(embedder):
    chunks = chunks_of(SHORT, 150)
    by_weight = [
        embedder.encode_chunks([(SHORT, chunks)], ChunkScheme(late=True, residual=weight), token_vectors=True)[0]
        for weight in (0.0, 0.5, 1.0)
    ]
    for other in by_weight[1:]:
        for one, two in zip(by_weight[0].tokens, other.tokens, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-6)
    np.testing.assert_allclose(by_weight[2].dense, embedder.embed_documents([c.text for c in chunks]), atol=1e-6)


@pytest.mark.parametrize("weight", [0.25, 0.5])
def test_the_residual_mixes_unit_vectors(embedder, weight):
    chunks = chunks_of(LONG, 180)
    alone = embedder.embed_documents([chunk.text for chunk in chunks])
    late = embedder.encode_chunks([(LONG, chunks)], ChunkScheme(late=True, residual=0.0))[0].dense
    found = embedder.encode_chunks([(LONG, chunks)], ChunkScheme(late=True, residual=weight))[0].dense
    np.testing.assert_allclose(found, normed(weight * alone + (1 - weight) * late), atol=1e-6)


def test_the_plain_scheme_is_each_chunk_alone(embedder):
    chunks = chunks_of(LONG, 180)
    np.testing.assert_array_equal(
        embedder.embed_chunks(LONG, chunks), embedder.embed_documents([chunk.text for chunk in chunks])
    )


def test_a_situated_window_pools_only_the_chunk(embedder, model):
    chunks = chunks_of(LONG, 120)
    scheme = ChunkScheme(situated=100, residual=0.0)
    found = embedder.encode_chunks([(LONG, chunks)], scheme)[0].dense
    tokenizer = model[1]
    for chunk, vector in zip(chunks, found, strict=True):
        start, end = max(0, chunk.start - 100), min(len(LONG.text), chunk.end + 100)
        while 0 < start < chunk.start and not LONG.text[start - 1].isspace():
            start += 1
        while chunk.end < end < len(LONG.text) and not LONG.text[end].isspace():
            end -= 1
        encoded = tokenizer(LONG.text[start:end], return_offsets_mapping=True)
        rows = [
            i
            for i, (a, b) in enumerate(encoded["offset_mapping"])
            if b > a and a < chunk.end - start and b > chunk.start - start
        ]
        expected = normed(token_vectors(model, encoded["input_ids"])[rows].mean(axis=0))
        np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_context_is_read_and_not_pooled_by_default(embedder, model):
    context = Context(title="Berlin", headings=("Places", "Rivers"))
    chunk = Chunk.of(SHORT, 0, 0, len(SENTENCES[0]), context)
    scheme = ChunkScheme(context=("title", "headings"))
    found = embedder.encode_chunks([(SHORT, [chunk])], scheme)[0].dense[0]
    lead = "Berlin\nPlaces > Rivers\n"
    encoded = model[1](lead + chunk.text, return_offsets_mapping=True)
    rows = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if b > a and b > len(lead)]
    np.testing.assert_allclose(found, normed(token_vectors(model, encoded["input_ids"])[rows].mean(0)), atol=1e-5)

    pooled = embedder.encode_chunks([(SHORT, [chunk])], ChunkScheme(context=("title", "headings"), pool_context=True))
    np.testing.assert_allclose(pooled[0].dense[0], embedder.embed_documents([lead + chunk.text])[0], atol=1e-6)
    nothing = embedder.encode_chunks([(SHORT, [chunk])], ChunkScheme(context=("date",)))[0].dense[0]
    np.testing.assert_array_equal(nothing, embedder.embed_documents([chunk.text])[0])


def test_the_documents_title_leads_every_window_of_a_late_pass(embedder, model):
    chunks = chunks_of(LONG, 180)
    scheme = ChunkScheme(late=True, residual=0.0, window=128, overlap=20, context=("title", "headings"))
    found = embedder.encode_chunks([(LONG, chunks)], scheme)[0].dense
    plain = ChunkScheme(late=True, residual=0.0, window=128, overlap=20)
    assert np.abs(found - embedder.encode_chunks([(LONG, chunks)], plain)[0].dense).max() > 1e-3

    tokenizer = model[1]
    lead = tokenizer("Berlin\n", add_special_tokens=False)["input_ids"]
    ids = tokenizer(LONG.text, add_special_tokens=False, return_offsets_mapping=True)
    room = 128 - 2 - len(lead)
    count = -(-(len(ids["input_ids"]) - 20) // (room - 20))
    total = len(ids["input_ids"]) + (count - 1) * 20
    first = total // count + (total % count > 0)
    read = token_vectors(model, [101, *lead, *ids["input_ids"][:first], 102])[1 + len(lead) : -1]
    rows = [i for i, (a, b) in enumerate(ids["offset_mapping"]) if a < chunks[0].end and b > chunks[0].start]
    np.testing.assert_allclose(found[0], normed(read[rows].mean(axis=0)), atol=1e-5)


def test_some_of_a_documents_chunks_get_the_vectors_that_all_of_them_get(embedder):
    chunks = chunks_of(LONG, 180)
    scheme = ChunkScheme(late=True, context=("title", "headings"))
    everything = embedder.encode_chunks([(LONG, chunks)], scheme)[0].dense
    some = embedder.encode_chunks([(LONG, [chunks[7], chunks[2]])], scheme)[0].dense
    np.testing.assert_allclose(some, everything[[7, 2]], atol=1e-6)


def test_order_and_overlap_are_the_callers_choice(embedder):
    chunks = [*chunks_of(LONG, 180), Chunk.of(LONG, 99, 50, 400), Chunk.of(LONG, 98, 300, 1000)]
    scheme = ChunkScheme(late=True, residual=0.3)
    forth = embedder.encode_chunks([(LONG, chunks)], scheme)[0].dense
    back = embedder.encode_chunks([(LONG, chunks[::-1])], scheme)[0].dense
    np.testing.assert_allclose(forth, back[::-1], atol=1e-6)


def test_many_documents_in_one_call_are_each_as_if_alone(embedder):
    items = [(LONG, chunks_of(LONG, 150)), (SHORT, []), (SHORT, chunks_of(SHORT, 90))]
    for scheme in (ChunkScheme(), ChunkScheme(late=True), ChunkScheme(situated=50, neighbours=0.35)):
        together = embedder.encode_chunks(items, scheme, token_vectors=True)
        for item, found in zip(items, together, strict=True):
            alone = embedder.encode_chunks([item], scheme, token_vectors=True)[0]
            assert found.dense.shape == (len(item[1]), 384)
            np.testing.assert_allclose(found.dense, alone.dense, atol=1e-5)
            assert found.tokens is not None
            assert alone.tokens is not None
            assert [m.shape for m in found.tokens] == [m.shape for m in alone.tokens]
    assert embedder.encode_chunks([]) == []


# Neighbours -----------------------------------------------------------------------------------------------------------


def test_neighbours_are_mixed_by_the_formula(embedder):
    chunks = chunks_of(LONG, 180)
    alone = embedder.embed_documents([chunk.text for chunk in chunks])
    found = embedder.encode_chunks([(LONG, chunks)], ChunkScheme(neighbours=0.35, centred=False))[0].dense

    def summed(rows):
        padded = np.vstack([np.zeros((1, 384)), rows, np.zeros((1, 384))])
        return rows + 0.35 * (padded[:-2] + padded[2:])

    np.testing.assert_allclose(found, normed(summed(alone)), atol=1e-6)
    centre = embedder.embed_documents(SAMPLE).mean(0)
    apart = alone - centre
    kept = summed(apart)
    for of in ([0, -1], range(1, len(chunks) - 1)):  # with one neighbour, and with two
        kept[of] *= np.linalg.norm(apart[of], axis=1).mean() / np.linalg.norm(kept[of], axis=1).mean()
    centred = embedder.encode_chunks([(LONG, chunks)], ChunkScheme(neighbours=0.35))[0].dense
    np.testing.assert_allclose(centred, normed(centre + kept), atol=1e-6)


async def test_a_mix_is_no_nearer_to_every_question_than_a_chunk_alone(crowded):
    """Of vectors around one direction, a sum of several is longer there, and shorter elsewhere."""
    document = document_of("".join(SENTENCES))
    starts = [0, *np.cumsum([len(sentence) for sentence in SENTENCES])]
    items = [(document, [Chunk.of(document, i, a, b) for i, (a, b) in enumerate(pairwise(map(int, starts)))])]
    asked = crowded.embed_queries(["the weather", "a recipe", "law"])

    def nearness(scheme):
        return float(np.mean([made.dense @ asked.T for made in crowded.encode_chunks(items, scheme)]))

    alone, mixed, centred = (
        nearness(ChunkScheme(neighbours=share, centred=c)) for share, c in ((0.0, False), (0.35, False), (0.35, True))
    )
    assert mixed - alone > 0.01
    assert abs(centred - alone) < (mixed - alone) / 3
    found = [made.dense for made in await crowded.aencode_chunks(items, ChunkScheme(neighbours=0.35))]
    for ours, theirs in zip(found, crowded.encode_chunks(items, ChunkScheme(neighbours=0.35)), strict=True):
        np.testing.assert_allclose(ours, theirs.dense, atol=1e-6)


def test_the_mean_is_taken_whatever_is_refused():
    """Texts of the sample are longer than the model reads here; they are none of the user's."""
    document = document_of("Pears keep. Plums rot.")
    chunks = [Chunk.of(document, 0, 0, 11), Chunk.of(document, 1, 12, 22)]
    refusing, cutting, reading = (
        Embedder(dtype="float32", max_tokens=8, on_overflow=how) for how in ("raise", "warn", "window")
    )
    expected = reading.encode_chunks([(document, chunks)], ChunkScheme(neighbours=0.35))[0].dense
    for embedder in (refusing, cutting):
        found = embedder.encode_chunks([(document, chunks)], ChunkScheme(neighbours=0.35))[0].dense
        np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(OverflowLimitError):
        refusing.embed_documents([LONG.text])


def test_a_scheme_names_the_mean_where_it_decides_something():
    assert "centred" not in ChunkScheme().stored()
    assert ChunkScheme(neighbours=0.2).stored()["centred"] is True
    before = ChunkScheme(neighbours=0.2, centred=False)
    assert "centred" not in before.stored()
    assert ChunkScheme(neighbours=0.2).agreeing_with(before.stored()) == before
    assert ChunkScheme(neighbours=0.2).agreeing_with(ChunkScheme(neighbours=0.2).stored()) == ChunkScheme(
        neighbours=0.2
    )
    old = Embedder(scheme=before)
    new = Embedder(scheme=ChunkScheme(neighbours=0.2))
    assert new.fingerprint != old.fingerprint == new.agreeing_with(old.fingerprint).fingerprint
    assert new.agreeing_with(new.fingerprint) is new


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_neighbours_follow_the_document_and_skip_gaps(data):
    text = "abcdefghijklmnopqrstuvwxyz" * 4
    document = document_of(text)
    everything = [Chunk.of(document, i, i * 4, i * 4 + 4) for i in range(20)]
    kept = data.draw(st.lists(st.sampled_from(range(20)), min_size=1, unique=True))
    vectors = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    found = with_neighbours(vectors[kept], [everything[i] for i in kept], 0.5)
    units = normed(vectors)
    for row, i in zip(found, kept, strict=True):
        near = [units[j] for j in (i - 1, i + 1) if j in kept]
        np.testing.assert_allclose(row, normed(units[i] + 0.5 * sum(near)), atol=1e-6)


def test_foreign_chunks_without_indices_are_neighbours_by_place():
    document = document_of("abcdefgh")
    chunks = [Chunk.of(document, 0, i, i + 2) for i in (4, 0, 2)]
    vectors = np.eye(3, dtype=np.float32)
    found = with_neighbours(vectors, chunks, 1.0)
    np.testing.assert_allclose(found, normed([[1, 0, 1], [0, 1, 1], [1, 1, 1]]), atol=1e-6)


# Refusals -------------------------------------------------------------------------------------------------------------


def changed(chunk: Chunk, **values) -> Chunk:
    import dataclasses

    return dataclasses.replace(chunk, **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start": 30, "end": 10}, r"chunk 1 of 3 .*need 0 <= start < end"),
        ({"start": 10, "end": 10}, r"chunk 1 of 3"),
        ({"end": 10_000}, r"chunk 1 of 3"),
        ({"start": -1}, r"chunk 1 of 3"),
        ({"text": "something else"}, r"chunk 1 of 3 .*does not hold its text"),
        ({"document_id": "other"}, r"chunk 1 of 3 .*belongs to document 'other'"),
    ],
)
def test_the_first_bad_chunk_is_named(embedder, values, message):
    chunks = chunks_of(SHORT, 150)[:3]
    bad = [chunks[0], changed(chunks[1], **values), changed(chunks[2], text="also wrong")]
    for scheme in (ChunkScheme(), ChunkScheme(late=True)):
        with pytest.raises(SpanError, match=message):
            embedder.encode_chunks([(SHORT, bad)], scheme)


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        (ChunkScheme(late=True, situated=10), "exclude each other"),
        (ChunkScheme(residual=1.5), "residual is 1.5"),
        (ChunkScheme(residual=float("nan")), "residual is nan"),
        (ChunkScheme(neighbours=-1), "0 or more"),
        (ChunkScheme(neighbours=float("inf")), "0 or more"),
        (ChunkScheme(window=0, late=True), "window is 0"),
        (ChunkScheme(context=("titel",)), "'titel'"),
    ],
)
def test_a_scheme_that_makes_no_sense_is_refused(embedder, scheme, message):
    with pytest.raises(InputError, match=message):
        embedder.encode_chunks([(SHORT, chunks_of(SHORT, 100))], scheme)


@pytest.mark.parametrize("pooling", ["cls", "last"])
def test_a_model_that_is_not_suited_says_why(pooling):
    embedder = Embedder(pooling=pooling, dtype="float32", device="cpu")
    item = (SHORT, chunks_of(SHORT, 100))
    for scheme in (ChunkScheme(late=True), ChunkScheme(situated=40)):
        with pytest.raises(ConventionError, match="never trained to stand for their text"):
            embedder.encode_chunks([item], scheme)
    # Techniques without token vectors work with every model.
    assert embedder.encode_chunks([item], ChunkScheme(neighbours=0.3, context=("title",)))[0].dense.shape[1] == 384


def test_a_family_of_ones_own_decides(embedder):
    static = Family(name="static", source="here", late="its tokens do not see each other")
    with pytest.raises(ConventionError, match="do not see each other"):
        Embedder(family=static).encode_chunks([(SHORT, chunks_of(SHORT, 100))], ChunkScheme(late=True))


class Asked:
    """A `SpanEncoder` that only notes its inputs."""

    dimension = 4

    def __init__(self) -> None:
        self.texts: list[SpanText] = []

    def encode(self, inputs, *, token_vectors=False) -> list[Encoded]:
        self.texts += inputs
        return [Encoded(np.ones((len(item.spans or [0]), 4), dtype=np.float32)) for item in inputs]

    async def aencode(self, inputs, *, token_vectors=False) -> list[Encoded]:
        return self.encode(inputs, token_vectors=token_vectors)


def test_a_model_with_a_form_of_its_own_for_situated_chunks_gets_it():
    asked = Asked()
    embedder = Embedder("SituatedEmbedding/SitEmb-v1.5-Qwen3", encoder=asked)
    chunk = chunks_of(SHORT, 80)[1]
    embedder.encode_chunks([(SHORT, [chunk])], ChunkScheme(situated=20, residual=0.5))
    alone, situated = asked.texts
    assert alone.text == chunk.text
    assert situated.spans is None
    assert situated.text.startswith(chunk.text + "<|endoftext|>The context in which the chunk is situated")
    assert situated.text.endswith(SHORT.text[chunk.end : chunk.end + 20].rsplit(" ", 1)[0])
    # Its tokens were not trained to be pooled, so late chunking is refused all the same.
    with pytest.raises(ConventionError, match="last token"):
        embedder.encode_chunks([(SHORT, [chunk])], ChunkScheme(late=True))


def test_an_instruction_leads_every_late_window_and_is_not_pooled():
    asked = Asked()
    embedder = Embedder("intfloat/e5-base-v2", encoder=asked)
    chunks = chunks_of(SHORT, 150)
    embedder.encode_chunks([(SHORT, chunks)], ChunkScheme(late=True, residual=0, context=("title",)))
    (text,) = asked.texts
    lead = "passage: Berlin\n"
    assert text.text == lead + SHORT.text
    assert text.prefix == len(lead)
    assert text.window == 512
    assert text.spans == tuple((c.start + len(lead), c.end + len(lead)) for c in chunks)

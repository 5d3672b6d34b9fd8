"""`describe` prints what reaches the model, for every family in the registry: the ids, and which tokens are pooled."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from situate.embedders import Embedder, Family, family_of
from situate.embedders.describe import EXAMPLE
from situate.embedders.models.families import FewShotFamily
from situate.embedders.models.registry import families
from situate.embedders.text.tokenizer import TextTokenizer
from situate.embedders.types import SpanText, Vectors
from tests.conftest import short_of

OWN = [family for family in families() if not family.library]


def byte_tokenizer(folder: Path, *, template: str, **settings: object) -> None:
    """Every byte a token, so that each text can be read; ``.}`` and ``.]`` merge into one, as in GPT-2's vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    names = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), ".}", ".]"]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[(".", "}"), (".", "]")]))
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "bos_token": "<s>", **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen3 whose tokenizer opens a text and does not close it."""
    import transformers

    folder = tmp_path_factory.mktemp("tiny")
    byte_tokenizer(folder, template="<s> $A")
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=272, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        intermediate_size=32, max_position_embeddings=1024, pad_token_id=0,
    )  # fmt: skip
    transformers.Qwen3Model(config).save_pretrained(folder)
    return folder


@contextlib.contextmanager
def ids_that_reach_the_model() -> Iterator[list[int]]:
    """The arguments of torch's embedding layers."""
    seen: list[int] = []

    def look(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, torch.nn.Embedding):
            seen.extend(inputs[0].flatten().tolist())

    hook = torch.nn.modules.module.register_module_forward_pre_hook(look)
    try:
        yield seen
    finally:
        hook.remove()


def printed(description: str, role: str) -> tuple[list[str], list[int]]:
    """The tokens and the ids that `describe` prints for a role."""
    lines = description.splitlines()
    (start,) = [i for i, line in enumerate(lines) if line.startswith(f"{role:<12}")]
    return lines[start + 1].split(), [int(word) for word in lines[start + 2].split()]


@functools.cache
def reference(folder: Path) -> Any:
    import transformers

    return transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


def pooled(folder: Path, tokens: list[str], ids: list[int], family: Family) -> Vectors:
    """The vector by transformers alone, out of the tokens that `describe` marks."""
    places = torch.arange(len(ids))[None] * (family.position_stride[1] if len(ids) <= family.position_stride[0] else 1)
    with torch.inference_mode():
        out = reference(folder)(input_ids=torch.tensor([ids]), position_ids=places)
    hidden = out.last_hidden_state[0].numpy()
    (first,) = [i for i, token in enumerate(tokens) if token.startswith("⟦")]
    (last,) = [i for i, token in enumerate(tokens) if token.endswith("⟧")]
    rows = hidden[first : last + 1]
    if family.pooling == "weighted_mean":
        weights = np.arange(1, len(rows) + 1, dtype=np.float32)[:, None]
        vector = (rows * weights).sum(axis=0) / weights.sum()
    else:  # one token, for "cls" and "last"
        vector = rows.mean(axis=0)
    return vector / np.linalg.norm(vector) if family.normalize else vector


@pytest.mark.parametrize("family", short_of(OWN, 3), ids=lambda family: family.name)
def test_what_is_described_is_what_is_sent(decoder: Path, family: Family) -> None:
    embedder = Embedder(decoder, family=family, device="cpu", dtype="float32", max_tokens=512)
    description = embedder.describe()
    embedder.embed_documents(["loaded"])
    for role, embed in (("query", embedder.embed_queries), ("document", embedder.embed_documents)):
        tokens, ids = printed(description, role)
        with ids_that_reach_the_model() as seen:
            (vector,) = embed([EXAMPLE])
        assert seen == ids
        np.testing.assert_allclose(vector, pooled(decoder, tokens, ids, family), atol=1e-5)
        assert tokens[-1].strip("⟦⟧").endswith("</s>") is family.end_token
        written = family.query_text(EXAMPLE) if role == "query" else family.document_text(EXAMPLE)
        assert embedder.tokenizer.decode(ids, skip_special_tokens=True) == written.text


def test_examples_and_the_users_task_reach_the_model(decoder: Path) -> None:
    icl = family_of("BAAI/bge-en-icl")
    assert isinstance(icl, FewShotFamily)
    shown = Embedder(decoder, family=icl.with_examples([("a?", "b.")]), task="T", device="cpu", dtype="float32")
    qwen = Embedder(
        decoder, family=family_of("Qwen/Qwen3-Embedding-8B"), task="Find laws", device="cpu", dtype="float32"
    )
    for embedder, wanted in (
        (shown, "<instruct>T\n<query>a?\n<response>b.\n\n<instruct>T\n<query>q\n<response>"),
        (qwen, "Instruct: Find laws\nQuery:q"),
    ):
        embedder.embed_documents(["loaded"])
        with ids_that_reach_the_model() as seen:
            embedder.embed_queries(["q"])
        assert embedder.tokenizer.decode(seen, skip_special_tokens=True) == wanted
        with ids_that_reach_the_model() as seen:
            embedder.embed_documents(["d"])
        assert embedder.tokenizer.decode(seen, skip_special_tokens=True) == "d"
    # Examples and task decide the query alone: documents stay comparable.
    other = Embedder(decoder, family=icl, device="cpu", dtype="float32")
    assert other.fingerprint == shown.fingerprint
    assert other.query_fingerprint != shown.query_fingerprint


def test_brackets_are_tokens_of_their_own(decoder: Path) -> None:
    family = family_of("Muennighoff/SGPT-125M-weightedmean-msmarco-specb-bitfit")
    assert family is not None
    embedder = Embedder(decoder, family=family, device="cpu", dtype="float32")
    embedder.embed_documents(["loaded"])
    melted = TextTokenizer.load(decoder).tokenize(["{It ends.}"])[0].ids
    with ids_that_reach_the_model() as seen:
        embedder.embed_documents(["It ends."])
    assert len(seen) == len(melted) + 2  # the opening token, and the bracket that would have merged
    tokenizer = embedder.tokenizer
    assert [tokenizer.id_to_token(number) for number in seen[-2:]] == [".", "}"]
    with ids_that_reach_the_model() as seen:
        embedder.embed_queries(["Why."])
    assert [tokenizer.id_to_token(number) for number in seen] == ["<s>", "[", "W", "h", "y", ".", "]"]


def test_what_closes_a_text_stays_where_it_is_cut(decoder: Path) -> None:
    family = Family(name="x", source="", query="Q:", query_suffix="?!", pooling="last", end_token=True)
    embedder = Embedder(decoder, family=family, device="cpu", dtype="float32", max_tokens=10)
    embedder.embed_documents(["loaded"])
    with pytest.warns(UserWarning, match="lost 96 tokens"), ids_that_reach_the_model() as seen:
        embedder.embed_queries(["a" * 100])
    assert [embedder.tokenizer.id_to_token(number) for number in seen] == [
        "<s>", "Q", ":", *"aaaa", "?", "!", "</s>"
    ]  # fmt: skip


def test_the_suffix_closes_every_window_and_is_never_pooled_with_a_span(decoder: Path) -> None:
    from situate.embedders.local.encoder import Encoder

    encoder = Encoder(decoder, dtype="float32", device="cpu")
    text = "{" + "abcdefgh" * 4 + "}"
    plan, words = encoder.read_plan(SpanText(text, ((1, 33),), prefix=1, suffix=1, window=16, overlap=2, apart=True))
    assert len(words) > 2
    assert all(sequence[:2] == ["<s>", "{"] and sequence[-1] == "}" for sequence in words)
    assert sum(part.end - part.start for part in plan.spans[0]) == 32


@pytest.mark.parametrize(
    ("settings", "end_token", "closed"),
    [
        ({}, False, False),
        ({}, True, True),
        ({"tokenizer_class": "LlamaTokenizerFast", "add_eos_token": True}, False, True),
        ({"tokenizer_class": "LlamaTokenizer", "add_eos_token": False}, False, False),
        # transformers never read the setting for other classes, so no model was trained with it.
        ({"tokenizer_class": "Qwen2Tokenizer", "add_eos_token": True}, False, False),
        ({"eos_token": {"content": "</s>"}}, True, True),
        ({"eos_token": None}, True, False),
        ({"eos_token": "<none of the vocabulary>"}, True, False),
    ],
)
def test_the_end_token_closes_a_text_where_the_model_was_trained_so(tmp_path, settings, end_token, closed) -> None:
    byte_tokenizer(tmp_path, template="<s> $A", **settings)
    tokenizer = TextTokenizer.load(tmp_path, end_token=end_token)
    assert tokenizer.words(tokenizer.leading) == ["<s>"]
    assert tokenizer.words(tokenizer.trailing) == (["</s>"] if closed else [])


def test_an_end_token_is_not_written_twice(tmp_path) -> None:
    byte_tokenizer(tmp_path, template="$A </s>", tokenizer_class="LlamaTokenizerFast", add_eos_token=True)
    tokenizer = TextTokenizer.load(tmp_path, end_token=True)
    assert tokenizer.words(tokenizer.trailing) == ["</s>"]


def test_an_encoder_that_was_saved_without_its_decoder_runs(tmp_path: Path) -> None:
    """SONAR's: transformers' own lookup by model type would make the whole translation model of it."""
    import transformers
    from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

    byte_tokenizer(tmp_path, template="<s> $A </s>")
    torch.manual_seed(0)
    config = transformers.M2M100Config(
        vocab_size=272, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    model = M2M100Encoder(config).eval()
    model.save_pretrained(tmp_path)
    embedder = Embedder(
        tmp_path, family=family_of("cointegrated/SONAR_200_text_encoder"), dtype="float32", device="cpu"
    )
    with pytest.warns(UserWarning, match="runs padded"):  # its positions are its own, so sequences cannot be packed
        vectors = embedder.embed_documents(["a cat", "a longer text than that"])
    for vector, text in zip(vectors, ["a cat", "a longer text than that"], strict=True):
        with torch.inference_mode():
            hidden = model(input_ids=torch.tensor([embedder.tokenizer.encode(text).ids])).last_hidden_state[0]
        wanted = hidden.mean(dim=0).numpy()
        np.testing.assert_allclose(vector, wanted / np.linalg.norm(wanted), atol=1e-5)

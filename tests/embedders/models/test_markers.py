"""Conventions of their own kind: markers around texts, a language before them, positions that stand apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from situate.embedders import Embedder, Family, family_of
from situate.embedders.forward.modules import PaddedForward
from situate.embedders.forward.packing import Packing
from situate.embedders.local.encoder import Encoder
from situate.embedders.types import SpanText
from situate.errors import ConventionError
from tests.embedders.forward.test_packed import SIZES, TEXTS, save


@pytest.mark.parametrize(
    ("model", "query", "document", "pooling"),
    [
        ("izhx/udever-bloom-560m", "[BOQ]bees[EOQ]", "[BOD]bees[EOD]", "last"),
        ("sentence-transformers/facebook-dpr-ctx_encoder-single-nq-base", "bees", "Honey [SEP] bees", "cls"),
        ("intfloat/simlm-base-msmarco-finetuned", "bees", "Honey [SEP] bees", "cls"),
        ("allenai/specter2_base", "bees", "Honey[SEP]bees", "cls"),
        ("Lihuchen/pearl_base", "bees", "bees", "mean"),
        ("TownsWu/PEG", "bees", "bees", "cls"),
        ("dwzhu/e5-base-4k", "query: bees", "passage: bees", "mean"),
        ("dwzhu/e5rope-base", "query: bees", "passage: bees", "mean"),
    ],
)
def test_texts_are_written_as_the_cards_say(model: str, query: str, document: str, pooling: str) -> None:
    family = family_of(model)
    assert family is not None
    assert (family.query_text("bees").text, family.document_text("bees", "Honey").text) == (query, document)
    assert family.pooling == pooling


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(7)
    model = transformers.BertModel(transformers.BertConfig(vocab_size=300, **SIZES))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(4.0)
    return save(tmp_path_factory.mktemp("bert"), model)


def test_short_texts_have_positions_apart_and_long_ones_have_not(folder: Path) -> None:
    encoder = Encoder(folder, position_stride=(20, 4), dtype="float32", device="cpu")
    model = transformers.AutoModel.from_pretrained(folder).eval()
    results = encoder.encode([SpanText(text) for text in TEXTS])
    lengths = []
    for text, result in zip(TEXTS, results, strict=True):
        ids = encoder.tokenizer.encode(text).ids
        lengths.append(len(ids))
        places = torch.arange(len(ids))[None] * (4 if len(ids) <= 20 else 1)
        with torch.inference_mode():
            wanted = model(input_ids=torch.tensor([ids]), position_ids=places).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(result.vectors[0], wanted / np.linalg.norm(wanted), atol=2e-5)
    assert min(lengths) <= 20 < max(lengths)
    texts = [torch.tensor(encoder.tokenizer.encode(text).ids) for text in TEXTS]
    model.config.position_stride = (20, 4)
    with torch.inference_mode():  # the places of a short sequence's padding would lie beyond the table
        padded = PaddedForward(model)(torch.cat(texts), Packing.of(lengths, torch.device("cpu")))
    for result, hidden in zip(results, padded.split(lengths), strict=True):
        wanted = hidden.mean(0).numpy()
        np.testing.assert_allclose(result.vectors[0], wanted / np.linalg.norm(wanted), atol=2e-5)
    plain = Encoder(folder, dtype="float32", device="cpu").encode([SpanText(TEXTS[0])])[0].vectors
    assert np.abs(plain - results[0].vectors).max() > 1e-3


def test_e5_base_4k_has_them_by_its_record() -> None:
    family = family_of("dwzhu/e5-base-4k")
    assert family is not None
    assert family.position_stride == (512, 8)


def test_a_language_takes_the_place_of_the_tokens_before_a_text(folder: Path) -> None:
    family = Family(name="ours", source="", leading="{task}", pooling="mean")
    tokenizer = Encoder(folder).tokenizer

    def first(**settings: str) -> int:
        embedder = Embedder(folder, family=family, device="cpu", **settings)  # type: ignore[arg-type]
        plan, _ = embedder.encoder.read_plan(SpanText(TEXTS[0]))  # type: ignore[attr-defined]  # an Encoder
        return int(plan.sequences[0][0])

    assert first() == tokenizer.token_to_id("[CLS]"), "without a task the tokenizer's own"
    assert first(task="[SEP]") == tokenizer.token_to_id("[SEP]")
    named = Embedder(folder, family=family, task="[SEP]", device="cpu")
    assert named.fingerprint["leading"] == "[SEP]"
    assert named.instructed("find it: ").settings.task == "[SEP]", "an instruction is no language"
    with pytest.raises(ConventionError, match="has no token 'deu_Latn'"):
        first(task="deu_Latn")
    assert family_of("cointegrated/SONAR_200_text_encoder").leading == "{task}"  # type: ignore[union-attr]

"""Language models that are asked by prompts: vectors equal hidden states of plain transformers calls, text by text."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest

from situate.embedders import ChunkScheme, Embedder, OpenAIEncoder, PromptFamily
from situate.errors import ConventionError, InputError, OverflowLimitError, UnknownArgumentError
from situate.types import Chunk, Document
from tests.tiny_models import PlainModel, unit

TEXTS = ["Bees make honey.", "the cat sat on a mat", "", "old red house, berlin!"]


def embedder(folder: str, **settings: Any) -> Embedder:
    return Embedder(folder, device="cpu", dtype="float32", **settings)


def same(got: np.ndarray, wanted: list[np.ndarray]) -> None:
    np.testing.assert_allclose(got, np.stack(wanted), atol=2e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "olmoe"])
def test_eol_is_the_last_token_of_the_prompt(kind: str, folders: dict[str, str], plain: dict[str, PlainModel]) -> None:
    model = plain[kind]
    prompts = [f'This sentence : "{text}" means in one word:"' for text in TEXTS]
    wanted = [unit(model.hidden(model.leading + model.ids(prompt))[-1]) for prompt in prompts]
    asked = embedder(folders[kind], prompts="eol")
    same(asked.embed_documents(TEXTS), wanted)
    same(asked.embed_queries(TEXTS), wanted)
    assert np.abs(wanted[0] - wanted[1]).max() > 0.01


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_metaeol_is_the_mean_over_its_tasks(kind: str, folders: dict[str, str], plain: dict[str, PlainModel]) -> None:
    model = plain[kind]
    tasks = ('Sort "{text}" in one word:"', 'The mood of "{text}" in one word:"', '"{text}" :"')
    wanted = []
    for text in TEXTS:
        states = [model.hidden(model.leading + model.ids(task.replace("{text}", text)))[-1] for task in tasks]
        wanted.append(unit(np.mean(states, axis=0)))
    same(embedder(folders[kind], prompts=PromptFamily(tasks)).embed_documents(TEXTS), wanted)
    assert len(PromptFamily.metaeol().templates) == 8


def test_promptbert_is_the_mask(folders: dict[str, str], plain: dict[str, PlainModel]) -> None:
    model = plain["bert"]
    wanted = []
    for text in TEXTS:
        ids = [1, *model.ids(f'This sentence : "{text}" means <mask>.'), 2]
        wanted.append(unit(model.hidden(ids)[ids.index(3)]))
    same(embedder(folders["bert"], prompts="promptbert").embed_documents(TEXTS), wanted)
    several = PromptFamily(('"{text}" is {mask}{mask} .',))
    ids = [1, *model.ids(f'"{TEXTS[0]}" is <mask><mask> .'), 2]
    states = model.hidden(ids)[[at for at, each in enumerate(ids) if each == 3]]
    assert len(states) == 2
    same(embedder(folders["bert"], prompts=several).embed_queries(TEXTS[:1]), [unit(states.mean(axis=0))])


def test_inbedder_asks_each_side_its_question(folders: dict[str, str], plain: dict[str, PlainModel]) -> None:
    model = plain["llama"]

    def asked(text: str, task: str) -> np.ndarray:
        prompt = f"### Input:\n{text}\n\n### Instruction:\n{task}\n\n### Response:"
        return unit(model.hidden(model.leading + model.ids(prompt))[-1])

    made = embedder(folders["llama"], prompts={"name": "inbedder", "task": "Who sat?"})
    same(made.embed_documents(TEXTS), [asked(text, "Who sat?") for text in TEXTS])
    same(made.embed_queries(TEXTS), [asked(text, "Who sat?") for text in TEXTS])
    same(made.instructed("Where?").embed_queries(TEXTS), [asked(text, "Where?") for text in TEXTS])
    with pytest.raises(ConventionError, match="no place for one"):
        embedder(folders["llama"], prompts="eol", task="Where?").embed_queries(TEXTS)


def echoed(model: PlainModel, text: str) -> tuple[list[int], int, int]:
    """The ids of an echo, and where the second copy stands."""
    head = len(model.ids("Rewrite the passage:"))
    first = model.ids(f"Rewrite the passage: {text}")
    copy = first[head:]
    ids = [*model.leading, *first, *model.ids("\nThe rewritten passage:")]
    return [*ids, *copy, *model.trailing], len(ids), len(ids) + len(copy)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_echo_pools_the_second_copy(kind: str, folders: dict[str, str], plain: dict[str, PlainModel]) -> None:
    model = plain[kind]
    texts = [text for text in TEXTS if text]
    wanted, last = [], []
    for text in texts:
        ids, start, end = echoed(model, text)
        wanted.append(unit(model.hidden(ids)[start:end].mean(axis=0)))
        last.append(unit(model.hidden(ids)[end - 1]))
    same(embedder(folders[kind], prompts="echo").embed_documents(texts), wanted)
    same(embedder(folders[kind], prompts="echo", pooling="last").embed_documents(texts), last)
    assert np.isfinite(embedder(folders[kind], prompts="echo").embed_documents([""])).all()


def test_chunks_of_an_echoed_document_are_pooled_out_of_its_second_copy(
    folders: dict[str, str], plain: dict[str, PlainModel]
) -> None:
    model = plain["llama"]
    text = "Bees make honey. the cat sat on a mat"
    document = Document("d", text)
    chunks = [Chunk(f"c{n}", "d", n, text[a:b], a, b) for n, (a, b) in enumerate([(0, 16), (17, 37)])]
    ids, start, _ = echoed(model, text)
    hidden = model.hidden(ids)
    head = len("Rewrite the passage:")
    first = model.tokenizer(f"Rewrite the passage: {text}", add_special_tokens=False, return_offsets_mapping=True)
    copy = [(a - head - 1, b - head - 1) for a, b in first["offset_mapping"] if b > head]
    wanted = []
    for chunk in chunks:
        # The blank before a word may be part of the word's token, or a token of its own that belongs to no chunk.
        rows = [n for n, (a, b) in enumerate(copy) if text[max(a, 0) : b].strip() and a < chunk.end and b > chunk.start]
        wanted.append(unit(hidden[start + rows[0] : start + rows[-1] + 1].mean(axis=0)))
    late = embedder(folders["llama"], prompts="echo", scheme=ChunkScheme(late=True, residual=0))
    same(late.embed_chunks(document, chunks), wanted)


def test_a_long_echo_is_read_in_windows_of_two_copies(folders: dict[str, str], plain: dict[str, PlainModel]) -> None:
    model = plain["llama"]
    text = "the cat sat on a mat . " * 12
    made = embedder(folders["llama"], prompts="echo", max_tokens=120)
    plan, _ = made.encoder.read_plan(made.family.document_text(text))  # type: ignore[attr-defined]  # an Encoder
    assert len(plan.sequences) > 1
    assert max(map(len, plan.sequences)) <= 120
    assert sum(each.end - each.start for each in plan.spans[0]) == len(model.ids(f"Rewrite the passage: {text}")) - len(
        model.ids("Rewrite the passage:")
    ), "each token is pooled once"
    states = [model.hidden(plan.sequences[each.sequence].tolist())[each.start : each.end] for each in plan.spans[0]]
    same(made.embed_documents([text]), [unit(np.concatenate(states).mean(axis=0))])


def test_a_long_document_is_asked_window_by_window_and_a_query_is_cut_before_its_cue(
    folders: dict[str, str], plain: dict[str, PlainModel]
) -> None:
    model = plain["llama"]
    text = "the cat sat on a mat . " * 12
    made = embedder(folders["llama"], prompts="eol", max_tokens=100)
    plan, _ = made.encoder.read_plan(made.family.document_text(text))  # type: ignore[attr-defined]  # an Encoder
    assert len(plan.sequences) > 1
    assert all(model.tokenizer.decode(ids.tolist()).endswith('means in one word:"') for ids in plan.sequences)
    states = [model.hidden(ids.tolist())[-1] for ids in plan.sequences]
    same(made.embed_documents([text]), [unit(np.mean(states, axis=0))])
    with pytest.warns(match="lost"):
        cut = made.embed_queries([text])
    cue = model.ids('" means in one word:"')
    begin = model.ids(f'This sentence : "{text}')[: 100 - len(model.leading) - len(cue)]
    same(cut, [unit(model.hidden(model.leading + begin + cue)[-1])])


def test_what_a_prompt_cannot_do_is_refused_by_name(folders: dict[str, str]) -> None:
    folder = folders["llama"]
    with pytest.raises(ConventionError, match="one token behind it"):
        embedder(folder, prompts="eol", scheme=ChunkScheme(late=True)).embed_chunks(Document("d", "a"), [])
    with pytest.raises(ConventionError, match="leaves nothing for query_instruction, pooling"):
        embedder(folder, prompts="eol", query_instruction="q: ", pooling="cls").embed_queries(["a"])
    with pytest.raises(ConventionError, match="no mask token"):
        embedder(folder, prompts="promptbert").embed_queries(["a"])
    with pytest.raises(OverflowLimitError, match="leaves no room"):
        embedder(folder, prompts="eol", max_tokens=20).embed_queries(["a cat"])
    with pytest.raises(InputError, match="prompts belong to the model's own Encoder"):
        Embedder(folder, prompts="eol", encoder=OpenAIEncoder("m", "http://localhost:1/v1"))
    text = PromptFamily.echo().over(Embedder().family, "", "", None).document_text("a")
    with pytest.raises(ConventionError, match="cannot pool the answer"):
        OpenAIEncoder("m", "http://localhost:1/v1").encode([text])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("eql", "names none of eol"),
        ({"name": "inbedder"}, "need task"),
        ({"templates": "one {text} text"}, "give a list"),
        ({"templates": 5}, "give a list"),
        (5, "prompts=5 are no prompts"),
        ({"name": ["eol"]}, "names none of eol"),
        ({"name": "inbedder", "task": 5}, "task is 5"),
        ({"templates": []}, "at least one"),
        ({"templates": ["no place :"]}, "0 times"),
        ({"templates": ["{text} {text} {text}"]}, "3 times"),
        ({"templates": ["ends with {text}"]}, "ends with the text"),
        ({"templates": ["{mask} {text} !"]}, "masks apart, or before"),
        ({"templates": ["{text} {mask} or {mask}"]}, "masks apart"),
        ({"templates": ["{text} {task} :"]}, "give task="),
        ({"templates": ["{text} and {text}", "{text} :"]}, "stands alone"),
    ],
)
def test_templates_that_say_nothing_are_refused(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Embedder(prompts=given)


def test_a_misspelt_value_is_named() -> None:
    with pytest.raises(UnknownArgumentError, match="tsk"):
        Embedder(prompts={"name": "inbedder", "tsk": "x"})


def test_prompts_are_json_part_of_the_fingerprint_and_described(folders: dict[str, str]) -> None:
    made = embedder(folders["llama"], prompts={"templates": ['"{text}" in {task}:"'], "task": "one word"})
    assert json.loads(json.dumps(made.fingerprint))["prompts"] == {
        "templates": ['"{text}" in {task}:"'],
        "task": "one word",
    }
    assert pickle.loads(pickle.dumps(made)).settings == made.settings
    assert "prompts" not in Embedder().fingerprint, "an index that was built before is still the same"
    assert "the answer's token" in made.describe()


def test_token_vectors_are_those_of_the_text_in_its_prompt(
    folders: dict[str, str], plain: dict[str, PlainModel]
) -> None:
    model = plain["llama"]
    tasks = ('"{text}" in one word:"', 'also "{text}" :"')
    (tokens,) = embedder(folders["llama"], prompts=PromptFamily(tasks)).embed_document_tokens([TEXTS[1]])
    count = len(model.ids(TEXTS[1]))
    hidden = model.hidden(model.leading + model.ids(f'"{TEXTS[1]}" in one word:"'))
    at = len(model.leading) + 1
    np.testing.assert_allclose(tokens, [unit(row) for row in hidden[at : at + count]], atol=2e-5)

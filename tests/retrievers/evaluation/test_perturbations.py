"""Queries in other forms, and what a comparison says of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from situate.chunkers import Document
from situate.embedders import Embedder
from situate.errors import GenerationError, InputError
from situate.retrievers import Index, PipelineConfig
from situate.retrievers.evaluation import Comparison, EvaluationSet, Judgement, compare, perturbed

QUERIES = [
    "What is the structural aeroelastic problem?",
    "Who won the 12 races in 1987?",
    "Welche Stadt liegt am Fluss?",
    "42",
    "",
]


def edits(a: str, b: str) -> int:
    """Levenshtein's distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


def test_typos_are_few_letters_and_the_same_for_one_seed() -> None:
    typed = perturbed(QUERIES, "typos", seed=3)
    assert perturbed(["\udc80", "who \udc80"], "typos")[0] == "\udc80"  # a lone surrogate has no letters
    assert typed == perturbed(QUERIES, "typos", seed=3) != perturbed(QUERIES, "typos", seed=4)
    assert perturbed(QUERIES[1:2], "typos", seed=3) == typed[1:2]  # whatever stands beside it
    for query, new in zip(QUERIES[:3], typed, strict=False):
        assert 1 <= edits(query, new) <= 2  # exchanged letters are two edits
    assert typed[3:] == ["42", ""]
    long = "the wing of an aeroplane in a supersonic flow has a boundary layer that separates behind it " * 3
    (new,) = perturbed([long], "typos")
    changed = sum(a != b for a, b in zip(long.split(), new.split(), strict=True))
    assert changed == round(0.15 * sum(len(word) > 1 for word in long.split()))


def test_speech_has_no_punctuation_no_capitals_and_numbers_in_words() -> None:
    heard = perturbed(["Who won the 12 races, in 1987?", "Weren't there 45 planes?"] * 4, "asr")
    assert heard[0].split()[0] == "who"
    assert heard[0].split()[-1] == "1987"
    assert "twelve" in heard[0]
    assert "forty five" in heard[1]
    assert not {"?", ",", "'"} & set("".join(heard))
    assert heard == [each.lower() for each in heard]
    lions = perturbed([f"there are {animal}" for animal in ("lions", "dogs", "cats", "owls")], "asr")
    assert any(each.startswith("their are") for each in lions)


def test_case_changes_case_alone() -> None:
    other = perturbed(QUERIES, "case")
    assert [each.casefold() for each in other] == [each.casefold() for each in QUERIES]
    assert all(new in (old.upper(), old.lower()) for new, old in zip(other, QUERIES, strict=True))


def test_paraphrases_are_a_language_models(scripted: Any) -> None:
    model = scripted(["1. How long may I be ill?", "I'm sorry, I can't help with that."])
    assert perturbed(["How long is sick leave?", "Who?"], "paraphrase", generator=model) == [
        "How long may I be ill?",
        "Who?",
    ]
    assert "<question>\nHow long is sick leave?" in model.calls[0][0].text
    with pytest.raises(InputError, match="generator"):
        perturbed(QUERIES, "paraphrase")
    with pytest.raises(GenerationError, match="none of 1"):
        perturbed(["Who?"], "paraphrase", generator=scripted([""]))
    with pytest.raises(InputError, match="'spelling'"):
        perturbed(QUERIES, "spelling")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one string"):
        perturbed(QUERIES[0], "typos")  # whose letters are no queries


def test_a_comparison_shows_what_perturbed_queries_lose() -> None:
    documents = [
        Document("leave", "Sick leave needs a doctor's note from the third day on."),
        Document("travel", "The travel desk books hotels and flights."),
        Document("badge", "A lost badge is reported to the reception at once."),
    ]
    queries = {"a": "Does sick leave need a doctor's note?", "b": "Who books hotels?", "c": "I lost my badge"}
    judged = [Judgement("a", "leave"), Judgement("b", "travel"), Judgement("c", "badge")]
    data = EvaluationSet("handbook", documents, queries, judged)
    asked: list[str] = []
    with Index(Embedder(), config=PipelineConfig.fast()) as index:
        index.add(documents)

        def search(query: str) -> Any:
            asked.append(query)
            return index.search(query)

        comparison = compare(data, {"fast": search}, ["RR@10"], perturb=("typos", "case"), seed=1)
    typed = perturbed(list(queries.values()), "typos", seed=1)
    assert asked[3:6] == typed
    assert set(comparison.perturbed) == {"typos", "case"}
    assert comparison.perturbed["typos"]["fast"]["RR@10"].shape == (3,)
    assert "| handbook, RR@10 | as asked | typos | case | mean | spread | worst |" in comparison.robustness("RR@10")
    assert '"typos"' in comparison.to_json()
    with pytest.raises(InputError, match="perturb"):
        compare(data, {"none": lambda query: []}, ["RR@10"]).robustness("RR@10")


def test_mean_spread_and_worst_case_are_over_the_forms_of_each_query() -> None:
    def one(*values: float) -> dict[str, dict[str, Any]]:
        return {"c": {"m": np.array(values)}}

    comparison = Comparison("s", one(1.0, 0.5), {"typos": one(0.5, 0.5), "case": one(0.0, 0.5)})
    row = comparison.robustness("m").splitlines()[-1].split(" | ")
    assert row[1] == "0.750"
    assert row[2].startswith("-25.0 [-50.0, 0.0]")
    assert row[4:] == ["0.500", f"{np.std([1, 0.5, 0]) / 2:.3f}", "0.250 |"]

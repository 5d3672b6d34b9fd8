"""Scores along links: the formula, what counts as a link, what is refused."""

from __future__ import annotations

import time
from typing import Any

import pytest

from situate.embedders import Embedder
from situate.errors import InputError
from situate.retrievers import Hit, Index, Retriever
from situate.retrievers.rerank import LinkReranker
from situate.types import Chunk, Context, Document


def hit(name: str, score: float, text: str = "words", path: str | None = None, **metadata: Any) -> Hit:
    return Hit(Chunk(f"{name}-{text}", name, 0, text, 0, len(text), Context(path=path), metadata), score)


def scores(hits: list[Hit]) -> dict[str, float]:
    return {found.chunk.document_id: found.score for found in hits}


def test_a_hit_rises_towards_the_mean_of_the_documents_it_is_linked_with() -> None:
    given = [
        hit("a", 0.9, links=["b"]),
        hit("c", 0.5, links=["b", "d", "nowhere"]),
        hit("d", 0.4),
        hit("b", 0.1),
    ]
    found = LinkReranker(0.5).rerank("query", given)
    # Stretched: a 1, c .5, d .375, b 0. b is linked with a and c, c with b and d, d with c.
    assert scores(found) == pytest.approx({"a": 1.0, "c": 0.5, "d": 0.375 + 0.5 * 0.125, "b": 0.5 * 0.75})
    assert [each.chunk.document_id for each in found] == ["a", "c", "d", "b"]
    assert all(each.scores["links"] == each.score for each in found)
    assert scores(LinkReranker(0.0).rerank("query", given)) == pytest.approx({"a": 1.0, "c": 0.5, "d": 0.375, "b": 0.0})
    assert [each.chunk.document_id for each in LinkReranker(1.0).rerank("query", given)][1] == "b"


@pytest.mark.parametrize(
    ("linking", "named"),
    [
        ({"text": "see [the rules](rules.md#pay) first"}, {"path": "docs/rules.md"}),
        ({"text": "see [the rules](<./rules.md>)"}, {"path": "docs/rules.md"}),
        ({"text": "see [up](../docs/more/../rules.md)"}, {"path": "docs/rules.md"}),
        ({"text": "<A HREF='https://site.org/rules'>"}, {"url": "https://site.org/rules#top"}),
        ({"text": "<a href=/rules%20of%20pay>"}, {"source": "/rules of pay"}),
        ({"text": "[x](target)"}, {}),
        ({"text": "[y](http://[bad) [z](//[bad) [x](rules_(pay).md)"}, {"path": "docs/rules_(pay).md"}),
        ({"links": ["//[", "\0", "target"]}, {}),
        ({"links": "target"}, {}),
        ({"links": ("elsewhere", "target")}, {}),
    ],
)
def test_links_in_texts_and_metadata_are_found_both_ways(linking: Any, named: Any) -> None:
    given = [hit("from", 1.0, path="docs/index.md", **linking), hit("target", 0.0, **named)]
    reranker = LinkReranker(0.5)
    assert reranker.linked(given) == {"from": {"target": None}, "target": {"from": None}}
    assert scores(reranker.rerank("query", given)) == pytest.approx({"from": 1.0, "target": 0.5})
    other = LinkReranker(key=None) if "links" in linking else LinkReranker(text=False)
    assert not other.linked(given)


def test_what_is_no_link_changes_nothing() -> None:
    given = [hit("a", 2.0, links=3, text="(b) [a](#top) [self](a)"), hit("b", 1.0, links=["b", None])]
    assert [(each.chunk.id, each.score) for each in LinkReranker().rerank("query", given)] == [
        (given[0].chunk.id, 1.0),
        (given[1].chunk.id, 0.0),
    ]
    assert LinkReranker().rerank("query", []) == []
    first, second = hit("a", 2.0, links=["c"]), hit("c", 1.0)
    assert LinkReranker(top=1).rerank("query", [first, second])[1] is second
    started = time.process_time()
    LinkReranker().rerank("query", [hit("a", 1.0, text="](" * 100_000), hit("b", 0.5, text="href=" * 50_000)])
    assert time.process_time() - started < 5


async def test_it_is_a_step_of_a_pipeline() -> None:
    documents = [
        Document("pears", "Pears keep for months in a cool cellar, see [the cellar](cellar)."),
        Document("cellar", "Dig two metres deep and line the walls with bricks."),
        Document("council", "The council voted for a new bridge over the river."),
    ]
    index = Index(Embedder())
    index.add(documents)
    query = "How long do pears keep?"
    before = {each.chunk.document_id: each.score for each in Retriever(index).retrieve(query)}
    retriever = Retriever(index, rerankers=[LinkReranker(0.6)], on_error="raise")
    result = retriever.retrieve(query)
    assert [each.chunk.document_id for each in result][:2] == ["pears", "cellar"]
    assert result[1].score > before["cellar"]
    assert [each.score for each in await retriever.aretrieve(query)] == [each.score for each in result]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match=r"share=1\.5"):
        LinkReranker(1.5)
    with pytest.raises(InputError, match="top=0"):
        LinkReranker(top=0)
    with pytest.raises(InputError, match="leave no links"):
        LinkReranker(key=None, text=False)

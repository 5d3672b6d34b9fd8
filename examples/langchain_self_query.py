"""LangChain: a filter is read out of the question (`SelfQueryRetriever`) and applied by Qdrant.

python -m examples.langchain_self_query
"""

from __future__ import annotations

from langchain_classic.chains.query_constructor.schema import AttributeInfo
from langchain_classic.retrievers.self_query.base import SelfQueryRetriever
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.structured_query import Comparison, Operation, StructuredQuery, Visitor
from qdrant_client import models

from situate.integrations.langchain import SituateEmbeddings, SituateVectorStore

REPORTS = [
    Document("Revenue rose by a tenth, carried by services.", metadata={"company": "Acme", "year": 2024}),
    Document("Revenue fell by a twentieth, as orders were late.", metadata={"company": "Acme", "year": 2025}),
    Document("Revenue doubled after the merger.", metadata={"company": "Bolt", "year": 2025}),
]
#: What a language model writes for the question below; put a model in its place.
WRITTEN = '```json\n{"query": "revenue", "filter": "and(eq(\\"company\\", \\"Acme\\"), gt(\\"year\\", 2024))"}\n```'


class ToQdrant(Visitor):
    """A structured query as a filter of Qdrant over the documents' metadata."""

    allowed_comparators = None
    allowed_operators = None

    def visit_operation(self, operation: Operation) -> models.Filter:
        """All, any or none of the conditions."""
        parts = [argument.accept(self) for argument in operation.arguments]
        return models.Filter(**{{"and": "must", "or": "should", "not": "must_not"}[operation.operator.value]: parts})

    def visit_comparison(self, comparison: Comparison) -> models.FieldCondition:
        """Equality, or a range of numbers."""
        key, name = f"metadata.{comparison.attribute}", comparison.comparator.value
        if name == "eq":
            return models.FieldCondition(key=key, match=models.MatchValue(value=comparison.value))
        return models.FieldCondition(key=key, range=models.Range(**{name: comparison.value}))

    def visit_structured_query(self, query: StructuredQuery) -> tuple[str, dict[str, models.Filter]]:
        """The words to search with, and the arguments of the search."""
        found = query.filter.accept(self) if query.filter else None
        if isinstance(found, models.FieldCondition):
            found = models.Filter(must=[found])
        return query.query, {"filter": found} if found else {}


def find(question: str, model: BaseChatModel | None = None) -> list[Document]:
    """The passages, of those that the question's conditions leave."""
    store = SituateVectorStore(SituateEmbeddings())
    store.add_documents(REPORTS)
    retriever = SelfQueryRetriever.from_llm(
        model or FakeListChatModel(responses=[WRITTEN]),
        store,
        "What a company's annual report says",
        [
            AttributeInfo(name="company", description="the company's name", type="string"),
            AttributeInfo(name="year", description="the year of the report", type="integer"),
        ],
        structured_query_translator=ToQdrant(),
    )
    return retriever.invoke(question)


if __name__ == "__main__":
    for found in find("How did Acme's revenue develop after 2024?"):
        print(found.metadata["company"], found.metadata["year"], found.page_content)

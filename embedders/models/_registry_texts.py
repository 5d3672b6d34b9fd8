"""Texts that several of the registry's records share; see `_registry`."""

from __future__ import annotations

CARD = "https://huggingface.co/"
#: The task that most cards of models with instructions give for search.
WEB_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"
#: With a blank behind "Query:". Qwen3-Embedding, QZhou and some more have none there.
INSTRUCT = "Instruct: {task}\nQuery: "
INSTRUCT_TIGHT = "Instruct: {task}\nQuery:"
BGE_QUERY = "Represent this sentence for searching relevant passages: "
CODE_QUERY = "Represent this query for searching relevant code: "

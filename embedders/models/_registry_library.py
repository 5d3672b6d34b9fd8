"""The models that sentence-transformers has to run whole, and those that are only served; see `_registry`."""

from __future__ import annotations

from situate.embedders.models._registry_texts import CARD, INSTRUCT, INSTRUCT_TIGHT, WEB_SEARCH
from situate.embedders.models.families import STATIC_LATE, Family

_ADAPTERS = "a task adapter is switched on in each call, which its own code does"
_TOKEN_PREPENDING = "This sentence: <|im_start|>“", "” means in one word: “"  # QZhou-Zh's card, round every text
_EOS_TOKEN = "</s>"  # the end-of-sequence token of the Llama and Mistral vocabularies

LIBRARY = (
    Family(
        name="Model2Vec / static embeddings",
        source=CARD + "minishlab/potion-base-8M",
        models=("minishlab/potion-*", "minishlab/m2v_*", "sentence-transformers/static-*"),
        late=STATIC_LATE,
        library="there is no transformer in it, only a table of vectors",
    ),
    Family(
        name="Jina v3 (transformers' own)",
        source=CARD + "jinaai/jina-embeddings-v3-hf",
        models=("jinaai/jina-embeddings-v3-hf",),
        query="Represent the query for retrieving evidence documents: ",
        document="Represent the document for retrieval: ",
        max_tokens=8192,
        dimensions=(32, 64, 128, 256, 512, 768, 1024),
        note="read without its retrieval adapters, which are LoRA adapters in folders of the repository: give them as "
        "adapters=, and name one with adapter= for documents and one with query_adapter= for queries",
    ),
    Family(
        name="Jina v3",
        source="https://arxiv.org/abs/2409.10173",
        models=("jinaai/jina-embeddings-v3",),
        query="Represent the query for retrieving evidence documents: ",
        document="Represent the document for retrieval: ",
        max_tokens=8192,
        dimensions=(32, 64, 128, 256, 512, 768, 1024),
        remote_code=True,
        library=_ADAPTERS,
        query_options=(("task", "retrieval.query"),),
        document_options=(("task", "retrieval.passage"),),
    ),
    Family(
        name="Jina v4",
        source="https://arxiv.org/abs/2506.18902",
        models=("jinaai/jina-embeddings-v4",),
        query="Query: ",
        document="Passage: ",
        max_tokens=32768,
        dimensions=(128, 256, 512, 1024, 2048),
        remote_code=True,
        library=_ADAPTERS,
        query_options=(("task", "retrieval"),),
        document_options=(("task", "retrieval"),),
    ),
    Family(
        name="Jina v5 text nano",
        source="https://arxiv.org/abs/2602.15547",
        models=("jinaai/jina-embeddings-v5-text-nano",),
        query="Query: ",
        document="Document: ",
        pooling="last",
        max_tokens=8192,
        dimensions=(32, 64, 128, 256, 512, 768),
        remote_code=True,
        library=_ADAPTERS + " (jinaai/jina-embeddings-v5-text-nano-retrieval needs neither)",
        query_options=(("task", "retrieval"),),
        document_options=(("task", "retrieval"),),
    ),
    Family(
        name="Jina v5 text",
        source="https://arxiv.org/abs/2602.15547",
        models=("jinaai/jina-embeddings-v5-text-small",),
        query="Query: ",
        document="Document: ",
        pooling="last",
        max_tokens=32768,
        dimensions=(32, 64, 128, 256, 512, 768, 1024),
        remote_code=True,
        library=_ADAPTERS + " (jinaai/jina-embeddings-v5-text-small-retrieval needs neither)",
        query_options=(("task", "retrieval"),),
        document_options=(("task", "retrieval"),),
    ),
    Family(
        name="NV-Embed",
        source="https://arxiv.org/abs/2405.17428",
        models=("nvidia/nv-embed-v*",),
        query=INSTRUCT,
        query_suffix=_EOS_TOKEN,
        document_suffix=_EOS_TOKEN,
        task="Given a question, retrieve passages that answer the question",
        pool_instruction=False,
        max_tokens=32768,
        remote_code=True,
        library="a latent attention layer in its own code takes the place of pooling",
    ),
    Family(
        name="QZhou-Zh",
        source=CARD + "Kingsoft-LLM/QZhou-Embedding-Zh",
        models=("kingsoft-llm/qzhou-embedding-zh",),
        query=_TOKEN_PREPENDING[0] + INSTRUCT_TIGHT,
        query_suffix=_TOKEN_PREPENDING[1],
        document=_TOKEN_PREPENDING[0],
        document_suffix=_TOKEN_PREPENDING[1],
        task=WEB_SEARCH,
        pooling="last",
        max_tokens=8192,
        dimensions=(128, 256, 512, 768, 1024, 1280, 1536, 1792),
        remote_code=True,
        library="its own code prepends a token between its layers",
    ),
    Family(
        name="Contextual Document Embeddings (cde-small)",
        source="https://arxiv.org/abs/2410.02525",
        models=("jxm/cde-small-*",),
        query="search_query: ",
        document="search_document: ",
        max_tokens=512,
        remote_code=True,
        library="it reads in two stages: a sample of the corpus first, then each text with that sample's vectors",
        corpus=True,
    ),
)

SERVED = (
    Family(
        name="OpenAI text-embedding-3",
        source="https://platform.openai.com/docs/guides/embeddings",
        models=("text-embedding-3-*", "openai/text-embedding-3-*"),
        max_tokens=8191,
        dimensions=(256, 512, 1024, 1536, 3072),
        late="its server returns one vector per text, no token vectors",
    ),
    Family(
        name="OpenAI ada-002",
        source="https://platform.openai.com/docs/guides/embeddings",
        models=("text-embedding-ada-002", "openai/text-embedding-ada-002"),
        max_tokens=8191,
        late="its server returns one vector per text, no token vectors",
    ),
)

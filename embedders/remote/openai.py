"""OpenAIEncoder: one vector per text from any server with OpenAI's interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Unpack

import httpx

from situate.batches import in_batches
from situate.embedders.remote.encoder import (
    Conversation,
    HttpEncoder,
    answer_bytes,
    checked_options,
    http_settings,
    matrix_of,
)
from situate.embedders.remote.http import Call, HttpOptions, HttpSettings
from situate.embedders.types import Encoded, SpanText
from situate.errors import ConventionError
from situate.vectors import unit

OPENAI_URL = "https://api.openai.com/v1"
_OPENAI_HOST = httpx.URL(OPENAI_URL).host


def openai_settings(base_url: str | HttpSettings, options: HttpOptions) -> HttpSettings:
    """The settings of a server with OpenAI's interface: OpenAI's own address takes its key from ``OPENAI_API_KEY``."""
    http = http_settings(base_url, options)
    if http.api_key is None and http.api_key_env is None and httpx.URL(http.base_url).host == _OPENAI_HOST:
        http = replace(http, api_key_env="OPENAI_API_KEY")
    return http


@checked_options
class OpenAIEncoder(HttpEncoder):
    """Vectors from any server with OpenAI's ``/v1/embeddings`` (OpenAI, vLLM, infinity, Ollama, LM Studio, ...).

    Such a server returns one vector per text: spans and token vectors (late chunking, unpooled context) are a
    `ConventionError`. A text that is longer than the model reads may be refused by the server. An empty text, which
    OpenAI refuses, is sent as one blank.

    Args:
        model: The model's name on the server.
        base_url: The address up to and including ``/v1``, or an `HttpSettings` with the other settings too. Without a
            key and the name of its variable, ``OPENAI_API_KEY`` is sent to OpenAI's own address and to no other.
        dimensions: Requested from the server (OpenAI's text-embedding-3 and vLLM cut Matryoshka vectors themselves).
        normalize: Normalise the server's vectors. OpenAI's have norm 1 already.
        batch_size: Texts per request.
        encoding: "base64" moves a quarter of the bytes of "float"; not every server knows it.
        options: Further fields of `HttpSettings`: ``api_key``, ``timeout``, ``retries``, ...

    Raises:
        InputError: ``batch_size`` is less than 1, or `HttpSettings` refuses its values.
    """

    #: One vector a text.
    pools_spans = False

    def __init__(
        self,
        model: str,
        base_url: str | HttpSettings = OPENAI_URL,
        *,
        dimensions: int | None = None,
        normalize: bool = True,
        batch_size: int = 64,
        encoding: Literal["float", "base64"] = "float",
        **options: Unpack[HttpOptions],
    ) -> None:
        super().__init__(openai_settings(base_url, options), {}, batch_size)
        self.model = model
        self._dimensions = dimensions
        self._normalize = normalize
        self._encoding = encoding

    def __repr__(self) -> str:
        return f"OpenAIEncoder({self.model!r}, {self.http.shown_url!r})"

    def _conversation(self, inputs: Sequence[SpanText], token_vectors: bool) -> Conversation:
        if token_vectors or any(item.spans is not None for item in inputs):
            raise ConventionError(
                f"{self.http.shown_url} returns one vector per text, so it cannot pool spans or return token vectors: "
                "for late chunking use TEIEncoder, VLLMEncoder or the model's own Encoder"
            )
        fields: dict[str, Any] = {"model": self.model}
        if self._encoding == "base64":
            fields["encoding_format"] = "base64"
        if self._dimensions is not None:
            fields["dimensions"] = self._dimensions
        batches = list(in_batches([item.text or " " for item in inputs], self._batch_size))
        answers = yield [
            Call("embeddings", {**fields, "input": texts}, max_bytes=answer_bytes(len(texts))) for texts in batches
        ]
        results: list[Encoded] = []
        for texts, answer in zip(batches, answers, strict=True):
            rows = self._indexed(answer, len(texts), "embeddings")
            with self._understood("embeddings"):
                vectors = matrix_of([row["embedding"] for row in rows], self._encoding)
            vectors = self._checked(vectors, "embeddings")
            vectors = unit(vectors) if self._normalize else vectors
            results += [Encoded(vectors[i : i + 1]) for i in range(len(vectors))]
        return results

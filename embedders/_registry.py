"""The registry: one record per model family, each read from the model card that it names."""

from __future__ import annotations

from situate.embedders.families import Family

#: In order: the first family with a fitting pattern is taken, so narrower patterns come first.
FAMILIES: tuple[Family, ...] = (
    Family(
        name="MiniLM (sentence-transformers)",
        source="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
        models=("sentence-transformers/all-minilm-l6-v2", "sentence-transformers/all-minilm-l6-v1"),
        max_tokens=256,
        trained_tokens=256,
        note="Trained on 128 tokens by its card and published with 256; late chunking measured best at 256.",
    ),
)

"""Does a model find a pass key in a long text, read in one piece? `python -m benchmarks.passkey MODEL [--methods ...]`.

LongEmbed's synthetic task (Zhu et al. 2024, https://arxiv.org/abs/2404.12096), generated: each text is filler with one
sentence with a person's pass key, somewhere; each question is for one person's key among all texts. The share
of questions whose text comes first is printed per length and method. The plain model's rows end where its positions do.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

import numpy as np

from situate.embedders import Embedder

NAMES = [first + last for first in ("Al", "Ber", "Cor", "Dan", "El", "Fin", "Gar") for last in ("don", "man", "vik")]
FILLER = (
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. The river bends twice "
    "before the mill, and the mill grinds rye on the first Sunday of every month. "
)


def passkey_task(embedder: Embedder, tokens: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Questions, and for each a text of about so many tokens that answers it."""
    generator = random.Random(seed)  # noqa: S311  no secret is made here
    sentence = len(embedder.tokenizer.encode(FILLER).ids)
    questions, texts = [], []
    for name in NAMES:
        key = generator.randrange(10_000, 100_000)
        told = f"The pass key of {name} is {key}. Remember it: {key} is the pass key of {name}. "
        count = max(1, (tokens - len(embedder.tokenizer.encode(told).ids) - 8) // sentence)
        place = generator.randint(0, count)
        texts.append(FILLER * place + told + FILLER * (count - place))
        questions.append(f"What is the pass key of {name}?")
    return questions, texts


def accuracy(embedder: Embedder, questions: Sequence[str], texts: Sequence[str]) -> float:
    """Share of questions whose own text is the nearest."""
    scores = embedder.embed_queries(questions) @ embedder.embed_documents(texts).T
    return float((scores.argmax(axis=1) == np.arange(len(questions))).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--methods", nargs="*", default=["linear", "ntk", "yarn", "self"])
    parser.add_argument("--times", nargs="*", type=int, default=[2, 4, 8], help="the trained length times so much")
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    limit = getattr(Embedder(asked.model).encoder, "position_limit", 0)
    if not 0 < limit <= 1 << 20:
        parser.error(f"{asked.model!r} names no number of positions that it was trained on")
    plain = Embedder(asked.model, device=asked.device, max_tokens=limit)
    print("tokens\tmethod\tfound")
    for tokens in (limit // 2, limit):
        print(f"{tokens}\tplain\t{accuracy(plain, *passkey_task(plain, tokens)):.2f}", flush=True)
    for times in asked.times:
        for method in asked.methods:
            extended = Embedder(asked.model, device=asked.device, extension=method, max_tokens=limit * times)
            found = accuracy(extended, *passkey_task(extended, limit * times))
            print(f"{limit * times}\t{method}\t{found:.2f}", flush=True)


if __name__ == "__main__":
    main()

"""A LoRA trained on one's own questions: by sentence-transformers' trainer through peft, kept as any adapter is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from situate.embedders.models.resolve import resolve_model
from situate.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from situate.embedders.embedder import Embedder

#: Texts that are encoded at once while gradients are cached (Gao et al. 2021): memory does not grow with the batch.
_AT_ONCE = 16
#: Where sentence-transformers keeps its losses since 6.0.
_LOSSES = "sentence_transformers.sentence_transformer.losses"


@dataclass(frozen=True)
class Example:
    """A question, a passage that answers it, and passages that do not.

    Attributes:
        query: The question.
        positive: The passage that answers.
        negatives: Passages that do not; all examples of one training have the same number.
    """

    query: str
    positive: str
    negatives: tuple[str, ...] = ()


def training_device(device: str) -> str:
    """The device to train on: "auto" is a GPU.

    Raises:
        InputError: There is none.
    """
    import torch

    if device != "auto":
        return device
    if not torch.cuda.is_available():
        raise InputError(
            "no GPU is here, and training on a CPU takes hours: pass device='cpu' if that is meant, or use the map of "
            "queries that fit makes"
        )
    return "cuda"


def train_lora(
    embedder: Embedder,
    examples: Sequence[Example],
    folder: str | Path,
    *,
    rank: int = 16,
    epochs: int = 1,
    rate: float = 2e-4,
    batch: int = 64,
    device: str = "auto",
    seed: int = 0,
) -> Path:
    """Train a LoRA (Hu et al. 2021) on the linear layers of an embedder's model, and save it.

    Texts are written as the embedder writes them. The loss is InfoNCE over the batch and the negatives, with cached
    gradients. The folder is one for ``Embedder(adapters={"mine": folder}, adapter="mine")``; documents embedded with it
    need an index of their own, and without it the model is as before.

    Args:
        embedder: Its model is trained; a copy, loaded in float32.
        examples: Questions and passages.
        folder: Where the adapter is saved.
        rank: Of the change of each layer.
        epochs: Passes over the examples.
        rate: The learning rate.
        batch: Examples whose passages are one another's negatives.
        device: "auto" takes a GPU, and refuses to do without one; "cpu" trains there, slowly.
        seed: Of all that is drawn.

    Returns:
        The folder.

    Raises:
        InputError: There is no GPU and ``device="auto"``, there are fewer than two examples, they have different
            numbers of negatives, or the embedder runs another encoder than its model.
        MissingExtraError: peft, accelerate or datasets is not installed.
    """
    if len(examples) < 2 or len({len(each.negatives) for each in examples}) != 1:
        raise InputError(f"{len(examples)} examples: two or more are needed, with the same number of negatives each")
    if embedder.settings.encoder is not None:
        raise InputError(f"{embedder!r} has an encoder of its own, whose weights are not here: give one of a model")
    import torch

    device = training_device(device)
    try:
        from datasets import Dataset
        from peft import LoraConfig, TaskType
        from sentence_transformers import (
            SentenceTransformer,
            SentenceTransformerTrainer,
            SentenceTransformerTrainingArguments,
        )
    except ImportError as error:
        raise MissingExtraError.of(str(error.name), "training", "training a LoRA") from error
    losses = _losses()
    settings = embedder.settings
    found = resolve_model(settings.model, settings.load_options)
    found.check_safe(settings.load_options)
    torch.manual_seed(seed)
    model: Any = SentenceTransformer(
        str(found.path),
        device=device,
        trust_remote_code=settings.trust_remote_code,
        model_kwargs={"torch_dtype": torch.float32},
    )
    model.add_adapter(
        LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    )
    ask, answer = embedder.family.query_text, embedder.family.document_text
    columns: dict[str, list[str]] = {
        "anchor": [ask(each.query).text for each in examples],
        "positive": [answer(each.positive).text for each in examples],
    }
    for number in range(len(examples[0].negatives)):
        columns[f"negative_{number}"] = [answer(each.negatives[number]).text for each in examples]
    with TemporaryDirectory() as work:
        arguments: Any = SentenceTransformerTrainingArguments(
            output_dir=work,
            num_train_epochs=epochs,
            per_device_train_batch_size=min(batch, len(examples)),
            learning_rate=rate,
            warmup_steps=0.1,
            seed=seed,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=device == "cpu",
        )
        loss: Any = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=_AT_ONCE)
        SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=loss
        ).train()
    folder = Path(folder)
    model[0].auto_model.save_pretrained(str(folder))
    return folder


def _losses() -> Any:
    try:
        return import_module(_LOSSES)
    except ModuleNotFoundError:
        return import_module("sentence_transformers.losses")  # before 6.0

"""Adapters (LoRA and similar): small changes of a model's weights, trained for a domain, read with ``peft``.

An adapter that is used is merged into a copy of the model's weights, once. So it runs as fast as the plain model, on
prepacked weights, through the same self-check, at the price of a copy in memory for each adapter in use.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from situate.embedders.models.files import loading
from situate.embedders.models.resolve import SAFE, LoadOptions, ResolvedModel
from situate.errors import (
    ConventionError,
    InputError,
    MissingExtraError,
    ModelNotFoundError,
    UnsafeModelError,
)
from situate.outside import safe_message

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"


@dataclass(frozen=True)
class Adapter:
    """An adapter's files on this machine.

    Attributes:
        name: The user's name for it.
        source: The folder or hub id that was given.
        folder: The folder that holds ``adapter_config.json``.
        digest: Changes with the weights.
        allow_pickle: Read pickled weights.
    """

    name: str
    source: str
    folder: Path
    digest: str
    allow_pickle: bool = False

    @classmethod
    def found(cls, name: str, source: str, options: LoadOptions = SAFE) -> Adapter:
        """The adapter in a folder, in the hub's cache or on the hub.

        Raises:
            ModelNotFoundError: There is none.
            UnsafeModelError: Its weights are pickled, which ``options`` do not allow.
        """
        folder = Path(source).expanduser()
        if not folder.is_dir():
            folder = _from_hub(name, source, options.allow_pickle)
        if not (folder / _CONFIG).is_file():
            raise ModelNotFoundError(f"adapter {name!r}: {source!r} holds no {_CONFIG}: give a folder that peft saved")
        if not (folder / _WEIGHTS).is_file():
            if not (folder / _PICKLE).is_file():
                raise ModelNotFoundError(f"adapter {name!r}: {source!r} holds no {_WEIGHTS}")
            if not options.allow_pickle:
                raise UnsafeModelError(
                    f"adapter {name!r} has its weights only as pickle ({_PICKLE}), and reading a pickle can run any "
                    "code: save it as safetensors, or pass allow_pickle=True if you trust its author"
                )
        return cls(name, source, folder, ResolvedModel(source, folder, None, "folder").digest, options.allow_pickle)

    def merged_into(self, model: Any) -> Any:
        """The transformers model with the adapter's changes in its weights.

        Raises:
            MissingExtraError: ``peft`` is not installed.
            ConventionError: The adapter does not fit the model, or is of a kind that cannot be merged.
            ModelError: Its files are damaged.
        """
        try:
            from peft import PeftConfig, PeftModel, set_peft_model_state_dict
        except ImportError as error:
            raise MissingExtraError.of("peft", "adapters", f"adapter {self.name!r}") from error

        with loading(f"adapter {self.name!r}", self.folder):
            config = PeftConfig.from_pretrained(str(self.folder))
            weights = self._weights()
        if config.is_prompt_learning:
            raise ConventionError(
                f"adapter {self.name!r} is of the kind {config.peft_type.value}, which cannot be merged into weights: "
                "use one that changes weights (LoRA, DoRA, LoHa, IA3, ...)"
            )
        config.inference_mode = True
        try:
            with warnings.catch_warnings():
                # peft 0.21 uses a name of transformers 5.23 that is deprecated.
                warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
                adapted = PeftModel(model, config)
                loaded: Any = set_peft_model_state_dict(adapted, weights)
        except (ValueError, RuntimeError) as error:
            raise ConventionError(f"adapter {self.name!r} does not fit the model: {safe_message(error)}") from error
        own = [name for name in loaded.missing_keys if ".default." in name or name.endswith(".default")]
        if loaded.unexpected_keys or own:
            left = (loaded.unexpected_keys or own)[0]
            raise ConventionError(
                f"adapter {self.name!r} does not fit the model: {len(loaded.unexpected_keys)} of its "
                f"{len(weights)} weights have no place there and {len(own)} are missing ({left}, say): it was trained "
                f"for {config.base_model_name_or_path!r}"
            )
        return adapted.merge_and_unload(safe_merge=True)

    def _weights(self) -> dict[str, Any]:
        file = self.folder / _WEIGHTS
        if file.is_file():
            from safetensors.torch import load_file

            return dict(load_file(str(file)))
        import torch

        return dict(torch.load(self.folder / _PICKLE, map_location="cpu", weights_only=True))


def check_name(name: str | None, adapters: Mapping[str, str]) -> None:
    """Refuse an adapter that is not among ``adapters``.

    Raises:
        InputError: It is not among them.
    """
    if name is not None and name not in adapters:
        known = ", ".join(map(repr, adapters)) or "none"
        raise InputError(f"adapter {name!r} is not known (there are: {known}): name it in adapters={{name: folder}}")


def _from_hub(name: str, source: str, allow_pickle: bool) -> Path:
    import httpx
    from huggingface_hub import snapshot_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    patterns = [_CONFIG, _WEIGHTS, *([_PICKLE] if allow_pickle else [])]
    try:
        # Files on this machine are found without a network call.
        if all(isinstance(try_to_load_from_cache(source, file), str) for file in (_CONFIG, _WEIGHTS)):
            return Path(snapshot_download(source, allow_patterns=patterns, local_files_only=True))
        return Path(snapshot_download(source, allow_patterns=patterns))
    except (
        HFValidationError,
        OfflineModeIsEnabled,
        LocalEntryNotFoundError,
        HfHubHTTPError,
        httpx.TransportError,
        OSError,
    ) as error:
        raise ModelNotFoundError(
            f"adapter {name!r}: {source!r} is no folder, and could not be fetched from the hub "
            f"({safe_message(error, 300)})"
        ) from error

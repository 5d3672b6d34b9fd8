"""`Settings`: an index, its retriever and its language model as one value, from `situate.yaml` and the environment."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from situate.chunkers.auto import CHARACTERS, AutoChunker
from situate.chunkers.pruning import PruningChunker
from situate.configuration.components import ChunkerOptions, ConfigOptions, SituatorOptions
from situate.configuration.options import Options, Section, check_keys
from situate.configuration.problems import problem, where
from situate.configuration.sections import (
    SECRETS,
    ChatSettings,
    LanguageModelSettings,
    ModelSettings,
    StepSettings,
    StoreSettings,
)
from situate.configuration.yaml_file import Place, YamlFile, read_yaml
from situate.embedders.remote.generator import OpenAIGenerator
from situate.errors import InputError, ModelError
from situate.outside import safe_message, safe_text
from situate.retrievers.config import PipelineConfig
from situate.types import Chunker, Situator

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

    from situate.embedders.embedder import Embedder
    from situate.retrievers.index.index import Index
    from situate.retrievers.retriever import Retriever

#: Where a configuration is looked for.
DEFAULT_FILE = Path("situate.yaml")
_PREFIX = "SITUATE_"

Preset = Literal["plain", "hybrid", "fast", "quality"]
_ConfigOptions: Any = ConfigOptions


class Settings(BaseSettings):
    """What an index, its retriever and its language model are made of.

    `load` makes them of a file and of environment variables (``SITUATE_STORE__PATH``, ``SITUATE_MODEL__NAME``, ...),
    which come before the file.

    Attributes:
        model: The embedding model: its name, or its parameters.
        chunker: Cuts documents: a kind, or its parameters; None: Markdown by structure, other text recursively, 200
            tokens of the model.
        situators: Write context into the chunks, in this order.
        preset: The `PipelineConfig` that the rest changes.
        config: Fields of `PipelineConfig` in place of the preset's, ``signals`` among them.
        store: Where documents are stored: a folder, a URL, or both in full.
        tenant: Whose documents these are: each tenant has a collection of its own.
        steps: How a query is answered.
        language_model: What expanders, situators, rerankers and the chat ask.
        chat: The chat application.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, protected_namespaces=()
    )
    model: ModelSettings = Field(default_factory=ModelSettings)
    chunker: ChunkerOptions | None = None
    situators: tuple[SituatorOptions, ...] = ()
    preset: Preset = "fast"
    config: _ConfigOptions = Field(default_factory=ConfigOptions)
    store: StoreSettings = Field(default_factory=StoreSettings)
    tenant: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]{1,64}$")
    steps: StepSettings = Field(default_factory=StepSettings)
    language_model: LanguageModelSettings | None = None
    chat: ChatSettings = Field(default_factory=ChatSettings)

    _file: YamlFile | None = PrivateAttr(default=None)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The arguments alone; `load` reads the environment."""
        return (init_settings,)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        return check_keys("a configuration", values, list(cls.model_fields))

    @field_validator("config", mode="after")
    @classmethod
    def _fits_the_preset(cls, config: Options, info: Any) -> Options:
        if "preset" in info.data:
            config.on(getattr(PipelineConfig, info.data["preset"])())
        return config

    __repr_args__ = Section.__repr_args__

    def __repr__(self) -> str:
        return safe_text(super().__repr__(), 4_000)

    __str__ = __repr__

    def __reduce__(self) -> tuple[Any, ...]:
        # By its values: the classes of its parts are made of parameters, and have no place of their own.
        return _restored, (self.model_dump(exclude_unset=True), self._file)

    # -- what it describes, made anew by each call

    def embedder(self) -> Embedder:
        """The embedder; no model is loaded."""
        made: Embedder = self._located(("model",), self.model.embedder)
        return made

    def pipeline(self) -> PipelineConfig:
        """What is stored, and how it is searched."""
        config: PipelineConfig = self.config.on(getattr(PipelineConfig, self.preset)())
        return config

    def generator(self) -> OpenAIGenerator | None:
        """The language model, if one is configured; no request is made."""
        return None if self.language_model is None else self.language_model.generator()

    @property
    def collection(self) -> str:
        """The name of the tenant's collection."""
        return self.store.collection if self.tenant is None else f"{self.store.collection}.{self.tenant}"

    def index(self, *, client: QdrantClient | None = None, embedder: Embedder | None = None) -> Index:
        """The index, opened at its first use.

        Args:
            client: An open client, which stays open, in place of the store that is configured.
            embedder: An embedder that is loaded already, in place of a new one.
        """
        from situate.retrievers import Index

        embedder = embedder if embedder is not None else self.embedder()
        memory = self.store.url is None and self.store.path == ":memory:"
        return Index(
            embedder,
            client=client if client is not None or memory else self.store.opener(),
            collection=self.collection,
            chunker=self._chunker(embedder),
            situators=self._situators(),
            config=self.pipeline(),
        )

    def retriever(self, index: Index | None = None) -> Retriever:
        """The retriever, over an index that is there already or a new one."""
        from situate.retrievers import Retriever

        index = index if index is not None else self.index()
        steps = self.steps
        further = {"generator": self.generator(), "embedder": index.embedder}
        expander = None if steps.expander is None else self._part(("steps", "expander"), steps.expander, further)
        rerankers = [
            self._part(("steps", "rerankers", number), each, further) for number, each in enumerate(steps.rerankers)
        ]
        return Retriever.from_settings(index, steps.settings(), expander=expander, rerankers=rerankers)

    def _chunker(self, embedder: Embedder) -> Chunker | None:
        if self.chunker is None:
            return None
        # The last is what a pruning chunker prunes where it names none.
        further: dict[str, Any] = {"embed": embedder.embed_documents, "chunker": AutoChunker()}
        try:
            further["tokenizer"] = embedder.tokenizer
        except ModelError:
            # A served model's tokenizer may be missing here: sizes are counted in characters then, four for a token.
            counted: Chunker = _in_characters(self._part(("chunker",), self.chunker, further))
            return counted
        further["chunker"] = AutoChunker(tokenizer=further["tokenizer"])
        made: Chunker = self._part(("chunker",), self.chunker, further)
        return made

    def _situators(self) -> tuple[Situator, ...]:
        model = self.language_model
        further: dict[str, Any] = {} if model is None else {"generator": model.generator(), "model": model.model}
        return tuple(self._part(("situators", number), each, further) for number, each in enumerate(self.situators))

    def _part(self, place: Place, chosen: Options, further: Mapping[str, Any]) -> Any:
        given = {name: value for name, value in further.items() if value is not None}
        if "generator" in _needs(chosen) and "generator" not in given:
            raise InputError(f"{self._where(place)}needs a language model: set language_model (its url and model)")
        return self._located(place, partial(chosen.made, **given))

    def _located(self, place: Place, make: Any) -> Any:
        try:
            return make()
        except InputError as error:
            raise InputError(f"{self._where(place)}{error}") from error

    def _where(self, place: Place) -> str:
        return where(self._file, place)


def _restored(values: dict[str, Any], file: YamlFile | None) -> Settings:
    made = Settings(**values)
    made._file = file
    return made


def load(source: str | os.PathLike[str] | Mapping[str, Any] | Settings | None = None, **changes: Any) -> Settings:
    """The settings of a file, or of values.

    Args:
        source: A YAML file; values as such a file has them; or settings, which are returned. None: ``situate.yaml`` in
            the working directory where there is one, else the defaults.
        changes: Values that come before all others: ``store={"path": "notes"}``.

    Raises:
        InputError: The file cannot be read or holds what a configuration cannot. The message names the file, the line,
            the key, and the nearest key that is known.
        MissingExtraError: The extra ``app`` is not installed.
    """
    if isinstance(source, Settings):
        return source
    if source is None:
        source = DEFAULT_FILE if DEFAULT_FILE.exists() else {}
    file, values = None, source
    if not isinstance(values, Mapping):
        file = read_yaml(Path(values), SECRETS)
        values = file.values
    try:
        environment = _in_full(EnvSettingsSource(Settings)())
    except SettingsError as error:
        raise InputError(
            f"an environment variable {_PREFIX}...: {safe_message(error)}: write its value as JSON, or name the key in "
            f"the variable ({_PREFIX}MODEL__NAME)"
        ) from None
    try:
        made = Settings(**_merged(_merged(_in_full(values), environment), _in_full(changes)))
    except ValidationError as error:
        problems = [problem(each, file, _PREFIX) for each in error.errors(include_url=False, include_input=False)]
        raise InputError("; ".join(dict.fromkeys(problems))) from None
    if file is not None and (folder := made.store.folder) is not None and not folder.is_absolute():
        store = made.store.model_copy(update={"path": str(file.path.parent / folder)})
        made = made.model_copy(update={"store": store})
    if file is not None:
        beside = file.path.parent  # an absolute path stays as it is
        moved: dict[str, Any] = {"folder": str(beside / made.chat.folder)}
        if made.chat.sources is not None:
            moved["sources"] = tuple(str(beside / source) for source in made.chat.sources)
        made = made.model_copy(update={"chat": made.chat.model_copy(update=moved)})
    made._file = file
    return made


def from_config(source: str | os.PathLike[str] | Mapping[str, Any] | Settings | None = None) -> Retriever:
    """The retriever that a configuration describes; its ``index`` takes the documents.

    Args:
        source: As for `load`.
    """
    return load(source).retriever()


def schema() -> dict[str, Any]:
    """The JSON schema of `situate.yaml`, for editors."""
    return Settings.model_json_schema()


def _in_characters(chunker: Any) -> Any:
    """The chunker with sizes of as many characters as its numbers of tokens have in English."""
    if isinstance(chunker, PruningChunker):
        return replace(chunker, chunker=_in_characters(chunker.chunker))
    names = [name for name in ("size", "overlap", "piece") if hasattr(chunker, name)]
    return replace(chunker, **{name: CHARACTERS * getattr(chunker, name) for name in names})


def _needs(chosen: Options) -> set[str]:
    """Parameters of the chosen class that have no default."""
    empty = inspect.Parameter.empty
    return {name for name, one in inspect.signature(chosen.target).parameters.items() if one.default is empty}


def _in_full(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values without short forms, and without sections that are empty, so that two of them can be merged."""
    full = {name: value for name, value in values.items() if value is not None}
    for name, written in (("model", ModelSettings._written), ("store", StoreSettings._written)):
        if name in full:
            full[name] = written(full[name])
    if isinstance(full.get("chunker"), str):
        full["chunker"] = {"kind": full["chunker"]}
    return full


def _merged(below: Any, above: Any) -> Any:
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above
    # A store has one place: the upper one.
    both = {k: v for k, v in below.items() if not ({k} < {"path", "url"} and {"path", "url"} - {k} <= above.keys())}
    return {**both, **{name: _merged(both[name], above[name]) if name in both else above[name] for name in above}}

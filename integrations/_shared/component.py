"""How the classes of both frameworks are made, copied and pickled: by the arguments of their constructors."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Generic, Self, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from situate.errors import InputError, UnknownArgumentError
from situate.outside import safe_text
from situate.parameters import SECRET

T = TypeVar("T")

#: The meaning of another library's parameter here: our name for it, or a function from its value to our parameters.
Meaning: TypeAlias = str | Callable[[Any], Mapping[str, Any]]


class Handle(Generic[T]):
    """An object that is expensive to make: made at first use, once, and again after its settings have changed.

    Copies share the object. Pickling leaves it out, unless it was given and not made.

    Args:
        given: An existing object that cannot be made from settings.
    """

    def __init__(self, given: T | None = None) -> None:
        self.given = given
        self._made: tuple[Any, T] | None = None
        self._lock = threading.Lock()

    def get(self, settings: Any, make: Callable[[], T]) -> T:
        """The given object; else what ``make`` returned for these settings."""
        if self.given is not None:
            return self.given
        made = self._made
        if made is None or made[0] != settings:
            with self._lock:
                made = self._made
                if made is None or made[0] != settings:
                    made = self._made = (settings, make())
        return made[1]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copy = type(self)(self.given)
        copy._made = self._made
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.given,)


class Configured(BaseModel):
    """A pydantic class that knows its parameters, also by the names of other libraries, and refuses all others."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    #: Parameters of other libraries' classes, and their meaning here.
    also_known_as: ClassVar[Mapping[str, Meaning]] = {}
    #: Parameters of those classes that mean something else, and the hint for the error.
    known_otherwise: ClassVar[Mapping[str, str]] = {}

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise _without_secrets(error) from None

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, safe_text(value) if isinstance(value, str) and "://" in value else value

    @model_validator(mode="before")
    @classmethod
    def _translate(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        # LlamaIndex writes the class's name into every dictionary, nested ones included.
        return translated(cls, cls.model_fields, {k: v for k, v in given.items() if k != "class_name"})


def translated(cls: Any, names: Iterable[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given arguments, under our own names.

    Args:
        cls: A class with ``also_known_as`` and ``known_otherwise``.
        names: Its parameters.
        given: Arguments by name.

    Raises:
        UnknownArgumentError: There is no such parameter; the message names the right one.
        InputError: One is given twice.
    """
    names = set(names)
    settings: dict[str, Any] = {}
    for name, value in given.items():
        meaning = None if name in names else cls.also_known_as.get(name)
        if meaning is None and name not in names:
            raise UnknownArgumentError(f"{cls.__name__} has no parameter {name!r}: {suggestion(name, cls, names)}")
        ours = {name: value} if meaning is None else {meaning: value} if isinstance(meaning, str) else meaning(value)
        for key, setting in ours.items():
            if isinstance(setting, Mapping) and isinstance(settings.get(key, given.get(key)), Mapping):
                others = settings.get(key, {})  # timeout=5, say, and client_options={...}
                if twice := sorted(setting.keys() & others.keys()):
                    raise InputError(f"{cls.__name__} was given {key}[{twice[0]!r}] twice: leave one of them out")
                setting = {**others, **setting} if others else setting
            elif key in settings or (key != name and key in given):
                raise InputError(f"{cls.__name__} was given {key!r} twice, once as {name!r}: leave one of them out")
            settings[key] = setting
    return settings


def _without_secrets(error: ValidationError) -> ValidationError:
    """The error without values that may hold a key: pydantic shows all arguments where one of them is unknown."""
    problems = []
    for each in error.errors(include_url=False):
        value = each["input"]
        plain = value is None or isinstance(value, str | int | float)
        if not plain or SECRET.search(str(each["loc"])) or safe_text(str(value)) != str(value):
            value = f"a {type(value).__name__}"
        problem = PydanticCustomError(each["type"], each["msg"])
        problems.append(InitErrorDetails(type=problem, loc=each["loc"], input=value))
    return ValidationError.from_exception_data(error.title, problems)


def suggestion(name: str, cls: Any, names: Iterable[str]) -> str:
    """The parameter to use in place of one that a class does not have."""
    names = sorted(names)
    if (hint := getattr(cls, "known_otherwise", {}).get(name)) is not None:
        return str(hint)
    close = difflib.get_close_matches(name, [*names, *getattr(cls, "also_known_as", ())], 1)
    return f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(names)}"


def refuse_unknown(where: str, arguments: Mapping[str, Any], names: Iterable[str] = ()) -> None:
    """Refuses arguments that a framework's signature admits and the method does not read.

    Raises:
        UnknownArgumentError: There are any; the message names the close ones among ``names``.
    """
    if arguments:
        names = list(names)
        close = [match for name in arguments for match in difflib.get_close_matches(name, names, 1)]
        known = f" (it takes {', '.join(names)})" if names else ""
        hint = f" (did you mean {', '.join(close)}?)" if close else known
        raise UnknownArgumentError(f"{where}() got unexpected keyword arguments: {', '.join(sorted(arguments))}{hint}")


class PicklesAsConfig(BaseModel):
    """Pickles and deep-copies as the arguments of its constructor; handles are left out, or shared by a copy.

    LlamaIndex's own ``__getstate__`` would ship every private attribute that pickle accepts (a whole model, say) and
    its ``__setstate__`` would then construct the object anew and drop it.
    """

    #: Fields that hold clients, models and locks: a deep copy has the same ones.
    shared_on_copy: ClassVar[tuple[str, ...]] = ()

    def __getstate__(self) -> dict[Any, Any]:
        fields = type(self).model_fields
        # Callback handlers hold sockets and locks, and nothing reads what they collect in another process.
        values = {name: value for name, value in self.__dict__.items() if name in fields and name not in _CALLBACKS}
        private = self.__pydantic_private__ or {}
        given = {name: value for name, value in private.items() if isinstance(value, Handle) and value.given}
        return {
            "__dict__": values,
            "__pydantic_extra__": None,
            "__pydantic_fields_set__": set(self.__pydantic_fields_set__),
            "__pydantic_private__": given or None,
        }

    def __setstate__(self, state: dict[Any, Any]) -> None:
        self.__init__(**state["__dict__"])  # type: ignore[misc]
        for name, value in (state["__pydantic_private__"] or {}).items():
            setattr(self, name, value)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        memo = {} if memo is None else memo
        for name in (*_CALLBACKS, *type(self).shared_on_copy):
            value = getattr(self, name, None)
            for shared in (value, *(value if isinstance(value, list | tuple) else ())):
                memo[id(shared)] = shared
        return super().__deepcopy__(memo)


#: Where LlamaIndex and LangChain keep callback managers.
_CALLBACKS = ("callback_manager", "callbacks")

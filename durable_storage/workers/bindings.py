"""``env`` under Cloudflare's names: namespaces, ids and stubs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, cast, final

from ..errors import ArgumentTypeError
from ..ids import DurableObjectId as NativeId
from ..object import DurableObject
from ..runtime.namespace import DurableObjectNamespace as NativeNamespace
from ..runtime.namespace import Stub
from ..runtime.runtime import Runtime
from .values import Named, from_js, options_of, to_js
from .web import Request

__all__ = ["DurableObjectId", "DurableObjectNamespace", "DurableObjectStub", "Env", "bind", "env"]


@final
class DurableObjectId(Named):
    """The id of an object."""

    __slots__ = ("_native",)

    def __init__(self, native: NativeId) -> None:
        self._native = native

    @property
    def name(self) -> str | None:
        """The name it was made from."""
        return self._native.name

    @property
    def jurisdiction(self) -> str | None:
        """The jurisdiction the object belongs to."""
        return self._native.jurisdiction

    def toString(self) -> str:  # noqa: N802
        """The 64 hex digits."""
        return str(self._native)

    def equals(self, other: object) -> bool:
        """Whether ``other`` is the id of the same object."""
        return self == other

    def __str__(self) -> str:
        return str(self._native)

    def __repr__(self) -> str:
        return repr(self._native)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, DurableObjectId):
            return self._native == other._native
        return self._native == other

    def __hash__(self) -> int:
        return hash(self._native)


@final
class DurableObjectStub:
    """How an object is called: arguments and results are copies, as behind Cloudflare's RPC."""

    def __init__(self, native: Any) -> None:
        self.__dict__["_native"] = native

    @property
    def id(self) -> DurableObjectId:
        """The object's id."""
        return DurableObjectId(self.__dict__["_native"].id)

    @property
    def name(self) -> str | None:
        """The name its id was made from."""
        return cast("str | None", self.__dict__["_native"].name)

    async def fetch(self, input: str | Request, /, *arguments: Any, **options: Any) -> Any:
        """Send the object a request: a `Request`, or a URL and the options of one."""
        return await self.__dict__["_native"].fetch(request_of(input, arguments, options))

    def __getattr__(self, method: str) -> Callable[..., Any]:
        call = getattr(self.__dict__["_native"], method)

        async def send(*arguments: Any, **options: Any) -> Any:
            sent = [from_js(to_js(each)) for each in arguments]
            named = {key: from_js(to_js(each)) for key, each in options.items()}
            return from_js(to_js(await call(*sent, **named)))

        send.__name__ = method
        return send


@final
class DurableObjectNamespace(Named):
    """A namespace as Workers see it."""

    __slots__ = ("_native",)

    def __init__(self, native: NativeNamespace[Any]) -> None:
        self._native = native

    def idFromName(self, name: str) -> DurableObjectId:  # noqa: N802
        """The id of the object called ``name``."""
        return DurableObjectId(self._native.id_from_name(name))

    def idFromString(self, digits: str) -> DurableObjectId:  # noqa: N802
        """The id that ``toString()`` wrote."""
        return DurableObjectId(self._native.id_from_string(digits))

    def newUniqueId(self, options: Any = None, /, **more: Any) -> DurableObjectId:  # noqa: N802
        """The id of an object that does not exist yet."""
        return DurableObjectId(
            self._native.new_unique_id(**options_of(options, more, "jurisdiction"))
        )

    def get(self, id: Any, options: Any = None, /, **more: Any) -> DurableObjectStub:
        """The stub of the object with this id."""
        native = id._native if isinstance(id, DurableObjectId) else id  # pyright: ignore[reportPrivateUsage]
        known = options_of(options, more, "location_hint")
        return DurableObjectStub(self._native.get(native, **known))

    def getByName(self, name: str, options: Any = None, /, **more: Any) -> DurableObjectStub:  # noqa: N802
        """The stub of the object called ``name``."""
        known = options_of(options, more, "location_hint")
        return DurableObjectStub(self._native.get_by_name(name, **known))

    def jurisdiction(self, name: Any) -> DurableObjectNamespace:
        """The sub-namespace of a jurisdiction."""
        return DurableObjectNamespace(self._native.jurisdiction(name))


class Env:
    """``env``: its namespaces under Cloudflare's names, everything else as it is."""

    __slots__ = ("_env",)

    def __init__(self, env: Any) -> None:
        self._env: Any = env._env if isinstance(env, Env) else env

    def __getattr__(self, name: str) -> Any:
        env: Any = self._env
        if isinstance(env, Mapping):
            entries = cast("Mapping[str, Any]", env)
            if name not in entries:
                raise AttributeError(f"env has no binding {name!r}; bind() gives it some")
            return wrapped(entries[name])
        return wrapped(getattr(env, name))

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


def wrapped(value: Any) -> Any:
    """``value`` as Workers see it: a namespace or a stub of the library gets Cloudflare's names."""
    if isinstance(value, NativeNamespace):
        return DurableObjectNamespace(cast("NativeNamespace[DurableObject]", value))
    return DurableObjectStub(value) if isinstance(value, Stub) else value


def request_of(
    input: str | Request, arguments: tuple[Any, ...], options: Mapping[str, Any]
) -> Request:
    """The request that the arguments of a ``fetch`` mean."""
    if isinstance(input, Request) and not arguments and not options:
        return input
    if not isinstance(input, (str, Request)):
        raise ArgumentTypeError(f"fetch() takes a URL or a Request, got {type(input).__name__}")
    given: dict[str, Any] = dict(arguments[0] or {}) if arguments else {}
    return Request(input, **given, **options)


_latest: list[Env] = []


@final
class _LatestEnv(Env):
    """Whatever was bound last, so that modules can import ``env`` before there is any runtime."""

    __slots__ = ()

    def __init__(self) -> None:
        pass

    @property
    def _env(self) -> Any:
        return _latest[0]._env if _latest else {}


env: Env = _LatestEnv()
"""What ``from workers import env`` gives: the bindings of the last ``bind``."""


def bind(runtime: Runtime, **bindings: Any) -> Env:
    """Give ``runtime.env`` these bindings and return it as Workers see it.

    Args:
        runtime: an open runtime.
        bindings: by binding name: a Durable Object class, whose namespace is bound; or any other
            value, such as a variable or a secret, bound as it is.
    """
    target: Any = runtime.env
    for name, value in bindings.items():
        if isinstance(value, type):
            value = runtime.namespace(cast("type[DurableObject]", value))
        if isinstance(target, MutableMapping):
            cast("MutableMapping[str, Any]", target)[name] = value
        else:
            setattr(target, name, value)
    _latest[:] = [Env(runtime.env)]
    return _latest[0]

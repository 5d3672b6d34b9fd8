"""Who may call: API keys, rates, and pages of other sites."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable

from starlette.requests import HTTPConnection

from situate.app.web.settings import LOCAL, WebSettings
from situate.errors import InputError, SituateError


class DeniedError(SituateError):
    """The request names no known key."""


class ForeignPageError(SituateError):
    """The request comes from a page of another site, or under a name that is not this application's."""


class RateError(SituateError):
    """The tenant has made as many requests as it may for now."""

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message)
        self.wait = wait


class Access:
    """Finds the tenant of a request.

    Args:
        settings: Keys and hosts.
    """

    def __init__(self, settings: WebSettings) -> None:
        self._tenants = {_digest(key.reveal()): tenant for tenant, key in settings.secrets.items()}
        self._hosts = {host.lower() for host in settings.hosts}

    def tenant(self, connection: HTTPConnection) -> str:
        """The tenant whose key the request carries (``Authorization: Bearer ...``).

        Raises:
            DeniedError: It carries none that is known.
        """
        if not self._tenants:
            return LOCAL
        scheme, _, key = connection.headers.get("authorization", "").partition(" ")
        given = _digest(key.strip())
        # All are compared: the time tells nothing about the keys.
        found = [tenant for digest, tenant in self._tenants.items() if hmac.compare_digest(digest, given)]
        if scheme.lower() != "bearer" or not found:
            raise DeniedError("this needs an API key of yours: send it as 'Authorization: Bearer KEY'")
        return found[0]

    def check_origin(self, connection: HTTPConnection) -> None:
        """Refuses requests that a page of another site makes in a visitor's browser.

        A key, which such a page does not know, protects an application that has keys; one without keys also refuses
        host names that are not its own, by which such a page could reach it (DNS rebinding).

        Raises:
            ForeignPageError: It is such a request.
        """
        host = connection.headers.get("host", "")
        if not self._tenants and _name(host) not in self._hosts:
            raise ForeignPageError(
                f"this application answers to {', '.join(sorted(self._hosts))} and not to {_name(host)[:80]!r}: "
                "give it keys, or add the name to hosts"
            )
        origin = connection.headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise ForeignPageError("pages of other sites may not call this application")


class Rate:
    """A number of calls in a minute, for each tenant: a bucket that fills evenly (token bucket).

    Args:
        per_minute: Calls of a tenant in a minute, and at once.
        what: What is counted, for the message.
        clock: Seconds that only grow.
    """

    def __init__(self, per_minute: int, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = float(per_minute)
        self._what = what
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, tenant: str) -> None:
        """Count a call.

        Raises:
            RateError: There were too many.
        """
        now = self._clock()
        left, then = self._left.get(tenant, (self._most, now))
        left = min(self._most, left + (now - then) * self._most / 60)
        if left < 1:
            wait = (1 - left) * 60 / self._most
            raise RateError(f"{self._most:.0f} {self._what} a minute are the limit: wait {wait:.0f} seconds", wait)
        self._left[tenant] = left - 1, now


def check_public(settings: WebSettings, host: str) -> None:
    """Refuses to serve a network without keys.

    Raises:
        InputError: ``host`` can be reached from other machines, and there are no keys.
    """
    if not settings.keys and host not in ("127.0.0.1", "::1", "localhost"):
        raise InputError(
            f"without keys everybody who reaches {host!r} could read and delete all documents: set keys, or serve "
            "127.0.0.1"
        )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


def _name(host: str) -> str:
    """A host header without its port."""
    name = host.lower().strip()
    return name.partition("]")[0] + "]" if name.startswith("[") else name.partition(":")[0]

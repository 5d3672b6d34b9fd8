"""The address that a server of the application listens on."""

from __future__ import annotations

import os
import socket

from situate.errors import InputError


def check_address(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on, before a store and models are opened.

    Args:
        host: A name or an address of this machine.
        port: The port; 0 for any that is free.

    Raises:
        InputError: Another program listens there, or the address is none of this machine's.
    """
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as tried:
                if os.name == "posix":  # elsewhere it would allow an address that is taken
                    tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind(address)
    except OSError as error:
        raise InputError(
            f"{host!r}, port {port} cannot be listened on: {error.strerror}; give another host or port (0: a free one)"
        ) from error

"""What comes of a TLS connection, in a form that two engines can be compared by."""

import asyncio
import ssl
from dataclasses import dataclass
from typing import Any

from support.peers import stream_pair
from support.threads import eventually

PATIENCE = 20


@dataclass(frozen=True)
class Failure:
    """Which exception ended a side, and OpenSSL's word for the reason."""

    kind: type[BaseException]
    reason: str | None
    verify_code: int | None

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """Describe an exception."""
        kind = type(error)
        return cls(kind, getattr(error, "reason", None), getattr(error, "verify_code", None))


@dataclass(frozen=True)
class Success:
    """What both sides agreed upon."""

    version: str | None
    alpn: str | None
    peer: Any


@dataclass(frozen=True)
class Outcome:
    """How the client and the server fared."""

    client: Success | Failure
    server: Success | Failure

    @property
    def is_accepted(self) -> bool:
        """Whether data could be exchanged."""
        return isinstance(self.client, Success) and isinstance(self.server, Success)


class _Echo(asyncio.Protocol):
    """Sends one byte and waits for one, so that each side has heard what the other thinks."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[Success | Failure] = asyncio.get_running_loop().create_future()
        self.transport: Any = None
        self._success: Success | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        ssl_object = transport.get_extra_info("ssl_object")
        self._success = Success(
            ssl_object.version(), ssl_object.selected_alpn_protocol(), ssl_object.getpeercert()
        )
        self.transport.write(b"x")

    def data_received(self, data: bytes) -> None:
        assert data == b"x"
        assert self._success is not None
        self._settle(self._success)

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle(Failure.of(exc or ConnectionResetError()))

    def _settle(self, outcome: Success | Failure) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


async def outcome_of(
    client: ssl.SSLContext, server: ssl.SSLContext, server_hostname: str | None
) -> Outcome:
    """Connect two contexts on the running loop, exchange a byte each way, and close."""
    loop = asyncio.get_running_loop()
    near, far = stream_pair("tcp")
    client_side, server_side = _Echo(), _Echo()

    async def fare(protocol: _Echo, connecting: Any) -> Success | Failure:
        try:
            await connecting
            return await protocol.outcome
        except (OSError, ssl.SSLError) as error:
            return Failure.of(error)

    try:
        async with asyncio.timeout(PATIENCE):
            fared = await asyncio.gather(
                fare(
                    client_side,
                    loop.create_connection(
                        lambda: client_side, sock=near, ssl=client, server_hostname=server_hostname
                    ),
                ),
                fare(
                    server_side,
                    loop.connect_accepted_socket(lambda: server_side, far, ssl=server),
                ),
            )
    finally:
        for side in (client_side, server_side):
            if side.transport is not None:
                side.transport.abort()
    await eventually(lambda: near.fileno() == far.fileno() == -1)
    return Outcome(*fared)

"""A TLS server on one event loop: it echoes, or sends as many bytes as it is asked for.

Started by run.py (and by hand) like server.py and with the same manners.

Usage: python benches/tls_server.py --loop uvloop --mode echo --certificates FOLDER
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import ssl
from pathlib import Path
from typing import cast

from loops import LOOPS, loop_factory
from server import BACKLOG, EchoProtocol, call_at_end_of_input, raise_file_limit

REQUEST_SIZE = 8
"""Bytes of a request for a download: how many bytes are wanted, big-endian."""

ALPHABETS = bytes(range(ord("a"), ord("z") + 1)) * 10_000
"""What is given to one write of a download, about 250 KiB: each begins with the same letter."""


class DownloadProtocol(asyncio.Protocol):
    """Sends the alphabet again and again, no faster than the transport wants it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio's: a check would refuse them.
        self.transport = cast("asyncio.Transport", transport)
        self.requested = b""
        self.sent = self.wanted = 0
        self.paused = False

    def data_received(self, data: bytes) -> None:
        self.requested += data
        if self.sent == self.wanted and len(self.requested) >= REQUEST_SIZE:
            self.sent, self.wanted = 0, int.from_bytes(self.requested[:REQUEST_SIZE])
            self.requested = self.requested[REQUEST_SIZE:]
            self.send()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.send()

    def send(self) -> None:
        """Write until the transport asks to wait."""
        while self.sent < self.wanted and not self.paused:
            now = ALPHABETS[: self.wanted - self.sent]
            self.sent += len(now)
            self.transport.write(now)


MODES: dict[str, type[asyncio.Protocol]] = {"echo": EchoProtocol, "download": DownloadProtocol}


def server_context(loop: str, certificates: Path) -> ssl.SSLContext:
    """Return the context that `loop` serves with, by its engine in `LOOPS`.

    `certificates` is a folder with certificate.pem and key.pem.
    """
    files = certificates / "certificate.pem", certificates / "key.pem"
    if LOOPS[loop].has_fast_tls:
        from rloop import tls

        return tls.server_context(*files, strict=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    return context


async def serve(mode: str, context: ssl.SSLContext) -> None:
    """Serve `mode` and announce the port, until end of input or SIGTERM."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    server = await loop.create_server(MODES[mode], "127.0.0.1", 0, backlog=BACKLOG, ssl=context)
    try:
        print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
        call_at_end_of_input(loop, stopping.set)
        await stopping.wait()
    finally:
        server.close()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--loop", choices=LOOPS, required=True)
    parser.add_argument("--mode", choices=MODES, required=True)
    parser.add_argument("--certificates", type=Path, required=True)
    options = parser.parse_args()
    raise_file_limit()
    with asyncio.Runner(loop_factory=loop_factory(options.loop)) as runner:
        runner.run(serve(options.mode, server_context(options.loop, options.certificates)))


if __name__ == "__main__":
    main()

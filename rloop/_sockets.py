"""The sock_* methods as coroutines; what they do per message is in ``rloop._rloop``.

Each begins its operation. If the socket is ready, that returns the result; if not, a future. When
that is cancelled, together with the task that awaits it, the operation is forgotten here, so that
the socket is no longer watched. ``sock_connect`` is inherited: it runs once per connection. So is
``sock_sendfile``, but for the step that the standard library takes once per chunk.
"""

import asyncio
import errno
import inspect
import socket
from asyncio import Future
from typing import TYPE_CHECKING, Any, TypeVar

from rloop._rloop import EventLoop

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_T = TypeVar("_T")

_POSITION_NEEDS_TOTAL = (
    "total_sent"
    in inspect.signature(
        asyncio.SelectorEventLoop._sock_sendfile_update_filepos  # type: ignore[attr-defined]
    ).parameters
)
"""Older standard libraries leave the position of a file alone of which nothing was sent."""


class SocketMethods(EventLoop):
    """Operations on sockets that the program owns.

    All of them raise OSError as the methods of :class:`socket.socket` do, RuntimeError if a
    transport uses the socket, and in debug mode ValueError if the socket blocks.
    """

    if TYPE_CHECKING:
        # What the standard library has for files.
        def _sock_sendfile_update_filepos(self, *position: int) -> None: ...

    async def sock_recv(self, sock: socket.socket, n: int) -> bytes:
        """Receive at most `n` bytes. See :meth:`asyncio.loop.sock_recv`."""
        received = self._begin_sock_recv(sock, n)
        if isinstance(received, bytes):
            return received
        # Not in a coroutine of its own, as below: that is 400 instructions of an echoed message.
        try:
            return await received
        except BaseException:
            self._forget_sock(sock, received)
            raise

    async def sock_recv_into(self, sock: socket.socket, buf: "WriteableBuffer") -> int:
        """Receive into `buf` and return how many bytes. See :meth:`asyncio.loop.sock_recv_into`."""
        received = self._begin_sock_recv_into(sock, buf)
        return received if isinstance(received, int) else await self._wait(sock, received)

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]:
        """Receive a datagram and its address. See :meth:`asyncio.loop.sock_recvfrom`."""
        received = self._begin_sock_recvfrom(sock, bufsize)
        return received if isinstance(received, tuple) else await self._wait(sock, received)

    async def sock_recvfrom_into(
        self, sock: socket.socket, buf: "WriteableBuffer", nbytes: int = 0
    ) -> tuple[int, Any]:
        """Receive a datagram into `buf`; return its length in bytes and its address.

        At most `nbytes` bytes, if that is not 0. See :meth:`asyncio.loop.sock_recvfrom_into`.
        """
        received = self._begin_sock_recvfrom_into(sock, buf, nbytes)
        return received if isinstance(received, tuple) else await self._wait(sock, received)

    async def sock_sendall(self, sock: socket.socket, data: "ReadableBuffer") -> None:
        """Send all of `data`. See :meth:`asyncio.loop.sock_sendall`."""
        sending = self._begin_sock_sendall(sock, data)
        if sending is not None:
            await self._wait(sock, sending)

    async def sock_sendto(self, sock: socket.socket, data: "ReadableBuffer", address: Any) -> int:
        """Send a datagram and return its length in bytes. See :meth:`asyncio.loop.sock_sendto`."""
        sent = self._begin_sock_sendto(sock, data, address)
        return sent if isinstance(sent, int) else await self._wait(sock, sent)

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """Accept a connection; return its socket, which does not block, and the peer's address.

        See :meth:`asyncio.loop.sock_accept`.
        """
        accepted = self._begin_sock_accept(sock)
        return accepted if isinstance(accepted, tuple) else await self._wait(sock, accepted)

    def _sock_sendfile_native_impl(
        self,
        fut: "Future[int]",
        registered_fd: None,
        sock: socket.socket,
        fileno: int,
        offset: int,
        count: int | None,
        blocksize: int,
        total_sent: int,
    ) -> None:
        """Send a file that the standard library has looked at; it awaits `fut`."""

        def end(sent: int, error: OSError | None) -> None:
            position = (
                (fileno, offset + sent, sent) if _POSITION_NEEDS_TOTAL else (fileno, offset + sent)
            )
            self._sock_sendfile_update_filepos(*position)
            if fut.cancelled():
                return
            if error is None:
                fut.set_result(sent)
            elif sent == 0:
                fut.set_exception(asyncio.SendfileNotAvailableError("os.sendfile call failed"))
            elif error.errno == errno.ENOTCONN:
                # As asyncio words it, on whatever system.
                lost = ConnectionError("socket is not connected", errno.ENOTCONN)
                lost.__cause__ = error
                fut.set_exception(lost)
            else:
                fut.set_exception(error)

        def forget_if_cancelled(fut: "Future[int]") -> None:
            if fut.cancelled() and not isinstance(sending, tuple):
                self._forget_sock(sock, sending)
                sending.cancel()

        def end_if_done(sending: "Future[tuple[int, OSError | None]]") -> None:
            if not sending.cancelled():
                end(*sending.result())

        sending = self._begin_sock_sendfile(sock, fileno, offset, count or 0, blocksize)
        if isinstance(sending, tuple):
            end(*sending)
        else:
            sending.add_done_callback(end_if_done)
            fut.add_done_callback(forget_if_cancelled)

    async def _wait(self, sock: socket.socket, future: "Future[_T]") -> _T:
        try:
            return await future
        except BaseException:
            self._forget_sock(sock, future)
            raise

"""The sock_* methods as coroutines; what they do per message is in ``rloop._rloop``.

Each begins its operation. If the socket is ready, that returns the result; if not, a future. When
that is cancelled, together with the task that awaits it, the operation is forgotten here, so that
the socket is no longer watched. ``sock_connect`` and ``sock_sendfile`` are inherited: they run once
per connection and file.
"""

import socket
from asyncio import Future
from typing import TYPE_CHECKING, Any, TypeVar

from rloop._rloop import EventLoop

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_T = TypeVar("_T")


class SocketMethods(EventLoop):
    """Operations on sockets that the program owns.

    All of them raise OSError as the methods of :class:`socket.socket` do, RuntimeError if a
    transport uses the socket, and in debug mode ValueError if the socket blocks.
    """

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

    async def _wait(self, sock: socket.socket, future: "Future[_T]") -> _T:
        try:
            return await future
        except BaseException:
            self._forget_sock(sock, future)
            raise

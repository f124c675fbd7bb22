"""Private parts of the standard library that rloop overrides, calls or reads: one list of them all.

``import rloop`` reads this module only on a Python newer than :data:`NEWEST_TESTED`, where a part
that has changed would fail later and without an explanation. ``tests/package/test_hooks.py``
compares the list with the running interpreter, and proves that nothing is missing in it.
"""

import dis
import importlib
import inspect
import sys
from collections.abc import Mapping
from types import CodeType
from typing import Any

NEWEST_TESTED = (3, 15)
"""The newest version of Python that the list was compared with."""

Shape = str | None | Mapping[str, str | None]
"""What a hook looks like: the parameters of a function, without the values of defaults; ``class``;
``attribute`` of a class; ``stored`` by a method in its object; None where there is no such hook;
``any`` where rloop asks first. A mapping tells from which version of Python on it looks like that.
"""

HOOKS: Mapping[str, Mapping[str, Shape]] = {
    "asyncio.base_events": {
        "_check_ssl_socket": "(sock)",
        "_format_handle": "(handle)",
    },
    "asyncio.base_events:BaseEventLoop": {
        "_add_callback": "(self, handle)",
        "_asyncgen_finalizer_hook": "(self, agen)",
        "_asyncgen_firstiter_hook": "(self, agen)",
        "_check_callback": "(self, callback, method)",
        "_check_closed": "(self)",
        "_check_thread": "(self)",
        "_clock_resolution": "stored",
        "_closed": "stored",
        "_current_handle": "stored",
        "_debug": "stored",
        "_default_executor": "stored",
        "_ready": "stored",
        "_run_once": "(self)",
        "_scheduled": "stored",
        "_stopping": "stored",
        "_task_factory": "stored",
        "_thread_id": "stored",
        "_timer_handle_cancelled": "(self, handle)",
    },
    "asyncio.base_events:Server": {
        "_attach": {"3.11": "(self)", "3.13": "(self, transport)"},
        "_backlog": "stored",
        "_detach": {"3.11": "(self)", "3.13": "(self, transport)"},
        "_sockets": "stored",
        "_waiters": "stored",
    },
    "asyncio.base_subprocess:BaseSubprocessTransport": {
        "_wait": "(self)",
    },
    "asyncio.constants": {
        "_SendfileMode": "class",
    },
    "asyncio.events": {
        "_ThreadSafeHandle": {"3.14": "class"},
        "_get_running_loop": "()",
        "_set_running_loop": "(loop, /)",
    },
    "asyncio.events:Handle": {
        "_args": "attribute",
        "_callback": "attribute",
        "_cancelled": "attribute",
        "_context": "attribute",
        "_loop": "attribute",
        "_repr": "attribute",
        "_run": "(self)",
        "_source_traceback": "attribute",
    },
    "asyncio.events:TimerHandle": {
        "_scheduled": "attribute",
        "_when": "attribute",
    },
    "asyncio.format_helpers": {
        "_format_callback_source": {"3.11": "(func, args)", "3.13": "(func, args, *, debug=...)"},
    },
    "asyncio.futures": {
        "_set_result_unless_cancelled": "(fut, result)",
    },
    "asyncio.locks:Barrier": {
        "_cond": "stored",
    },
    "asyncio.locks:BoundedSemaphore": {
        "_bound_value": "stored",
    },
    "asyncio.locks:Condition": {
        "_notify": {"3.13": "(self, n)"},
        "_waiters": "stored",
    },
    "asyncio.locks:Event": {
        "_value": "stored",
        "_waiters": "stored",
    },
    "asyncio.locks:Lock": {
        "_locked": "stored",
        "_waiters": "stored",
    },
    "asyncio.locks:Semaphore": {
        "_value": "stored",
        "_waiters": "stored",
    },
    "asyncio.mixins:_LoopBoundMixin": {
        "_get_loop": "(self)",
        "_loop": "attribute",
    },
    "asyncio.queues:LifoQueue": {
        "_get": "(self)",
        "_put": "(self, item)",
    },
    "asyncio.queues:PriorityQueue": {
        "_get": "(self, heappop=...)",
        "_put": "(self, item, heappush=...)",
    },
    "asyncio.queues:Queue": {
        "_finished": "stored",
        "_format": "(self)",
        "_get": "(self)",
        "_getters": "stored",
        "_is_shutdown": {"3.13": "stored"},
        "_put": "(self, item)",
        "_putters": "stored",
        "_unfinished_tasks": "stored",
        "_wakeup_next": "(self, waiters)",
    },
    "asyncio.selector_events": {
        "_SelectorDatagramTransport": "class",
        "_SelectorSocketTransport": "class",
    },
    "asyncio.selector_events:BaseSelectorEventLoop": {
        "_accept_connection": {
            "3.11": (
                "(self, protocol_factory, sock, sslcontext=..., server=..., backlog=..., "
                "ssl_handshake_timeout=..., ssl_shutdown_timeout=...)"
            ),
            "3.15": (
                "(self, protocol_factory, sock, sslcontext=..., server=..., backlog=..., "
                "ssl_handshake_timeout=..., ssl_shutdown_timeout=..., context=...)"
            ),
        },
        "_accept_connection2": {
            "3.11": (
                "(self, protocol_factory, conn, extra, sslcontext=..., server=..., "
                "ssl_handshake_timeout=..., ssl_shutdown_timeout=...)"
            ),
            "3.15": (
                "(self, protocol_factory, conn, extra, sslcontext=..., server=..., "
                "ssl_handshake_timeout=..., ssl_shutdown_timeout=..., context=...)"
            ),
        },
        "_add_reader": {
            "3.11": "(self, fd, callback, *args)",
            "3.15": "(self, fd, callback, *args, context=...)",
        },
        "_add_writer": {
            "3.11": "(self, fd, callback, *args)",
            "3.15": "(self, fd, callback, *args, context=...)",
        },
        "_ensure_fd_no_transport": "(self, fd)",
        "_make_datagram_transport": "(self, sock, protocol, address=..., waiter=..., extra=...)",
        "_make_socket_transport": {
            "3.11": "(self, sock, protocol, waiter=..., *, extra=..., server=...)",
            "3.15": "(self, sock, protocol, waiter=..., *, extra=..., server=..., context=...)",
        },
        "_make_ssl_transport": {
            "3.11": (
                "(self, rawsock, protocol, sslcontext, waiter=..., *, server_side=..., "
                "server_hostname=..., extra=..., server=..., ssl_handshake_timeout=..., "
                "ssl_shutdown_timeout=...)"
            ),
            "3.15": (
                "(self, rawsock, protocol, sslcontext, waiter=..., *, server_side=..., "
                "server_hostname=..., extra=..., server=..., ssl_handshake_timeout=..., "
                "ssl_shutdown_timeout=..., context=...)"
            ),
        },
        "_remove_reader": "(self, fd)",
        "_remove_writer": "(self, fd)",
        "_start_serving": {
            "3.11": (
                "(self, protocol_factory, sock, sslcontext=..., server=..., backlog=..., "
                "ssl_handshake_timeout=..., ssl_shutdown_timeout=...)"
            ),
            "3.15": (
                "(self, protocol_factory, sock, sslcontext=..., server=..., backlog=..., "
                "ssl_handshake_timeout=..., ssl_shutdown_timeout=..., context=...)"
            ),
        },
        "_stop_serving": "(self, sock)",
        "_transports": "stored",
        "_write_to_self": "(self)",
    },
    "asyncio.selector_events:_SelectorDatagramTransport": {
        "_address": "stored",
        "_buffer_size": "stored",
        "_conn_lost": "stored",
        "_read_ready": "(self)",
        "_sendto_ready": "(self)",
    },
    "asyncio.selector_events:_SelectorSocketTransport": {
        "_buffer_size": {"3.15": "stored"},
        "_call_connection_lost": "(self, exc)",
        "_conn_lost": "stored",
        "_empty_waiter": "stored",
        "_eof": "stored",
        "_make_empty_waiter": "(self)",
        "_read_ready": "(self)",
        "_reset_empty_waiter": "(self)",
        "_sendfile_compatible": "attribute",
        "_start_tls_compatible": "attribute",
        "_write_ready": {"3.11": "(self)", "3.12": "stored"},
    },
    "asyncio.selector_events:_SelectorTransport": {
        "_add_reader": "(self, fd, callback, *args)",
        "_call_connection_lost": "(self, exc)",
        "_closing": "stored",
        "_force_close": "(self, exc)",
        "_paused": "stored",
        "_protocol": "stored",
        "_protocol_connected": "stored",
        "_server": "stored",
        "_sock": "attribute",
        "_sock_fd": "stored",
    },
    "asyncio.sslproto": {
        "_SSLProtocolTransport": "class",
        "_create_transport_context": "(server_side, server_hostname)",
    },
    "asyncio.sslproto:SSLProtocol": {
        "_app_protocol": "stored",
        "_app_protocol_is_buffer": "stored",
        "_app_reading_paused": "stored",
        "_app_transport": "stored",
        "_app_writing_paused": "stored",
        "_check_handshake_timeout": "(self)",
        "_check_shutdown_timeout": "(self)",
        "_conn_lost": "stored",
        "_extra": "stored",
        "_get_app_transport": "(self)",
        "_get_extra_info": "(self, name, default=...)",
        "_loop": "stored",
        "_on_shutdown_complete": "(self, shutdown_exc)",
        "_server_hostname": "stored",
        "_server_side": "stored",
        "_ssl_handshake_timeout": "stored",
        "_ssl_reading_paused": "stored",
        "_ssl_shutdown_timeout": "stored",
        "_ssl_writing_paused": "stored",
        "_sslcontext": "stored",
        "_sslobj": "stored",
        "_state": "stored",
        "_transport": "stored",
        "_waiter": "stored",
    },
    "asyncio.sslproto:_SSLProtocolTransport": {
        "_closed": "stored",
        "_force_close": "(self, exc)",
        "_protocol_paused": "attribute",
        "_sendfile_compatible": "attribute",
        "_ssl_protocol": "stored",
        "_start_tls_compatible": "attribute",
    },
    "asyncio.streams:FlowControlMixin": {
        "_drain_helper": "(self)",
    },
    "asyncio.streams:StreamReader": {
        "_buffer": "stored",
    },
    "asyncio.streams:StreamReaderProtocol": {
        "_stream_reader": "attribute",
    },
    "asyncio.tasks": {
        "_PyTask": "class",
        "_current_tasks": "attribute",
        "_swap_current_task": {"3.12": "any"},
    },
    "asyncio.transports": {
        "_FlowControlMixin": "class",
    },
    "asyncio.transports:BaseTransport": {
        "_extra": "attribute",
    },
    "asyncio.transports:_FlowControlMixin": {
        "_high_water": "attribute",
        "_loop": "attribute",
        "_low_water": "attribute",
        "_protocol_paused": "attribute",
    },
    "asyncio.unix_events": {
        "_DefaultEventLoopPolicy": {"3.14": "class", "3.16": "any"},
        "_ThreadedChildWatcher": {"3.14": "class"},
        "_UnixReadPipeTransport": "class",
        "_UnixSubprocessTransport": "class",
        "_UnixWritePipeTransport": "class",
        "_sighandler_noop": "(signum, frame)",
    },
    "asyncio.unix_events:_UnixDefaultEventLoopPolicy": {
        "_loop_factory": {"3.11": "class", "3.16": "any"},
    },
    "asyncio.unix_events:_UnixReadPipeTransport": {
        "_add_reader": "(self, fd, callback)",
        "_call_connection_lost": "(self, exc)",
        "_closing": "stored",
        "_fileno": "stored",
        "_loop": "stored",
        "_paused": "stored",
        "_pipe": "stored",
        "_protocol": "stored",
        "_read_ready": "(self)",
    },
    "asyncio.unix_events:_UnixSelectorEventLoop": {
        "_child_watcher_callback": "(self, pid, returncode, transp)",
        "_make_read_pipe_transport": "(self, pipe, protocol, waiter=..., extra=...)",
        "_make_subprocess_transport": (
            "(self, protocol, args, shell, stdin, stdout, stderr, bufsize, extra=..., **kwargs)"
        ),
        "_make_write_pipe_transport": "(self, pipe, protocol, waiter=..., extra=...)",
        "_sock_sendfile_native_impl": (
            "(self, fut, registered_fd, sock, fileno, offset, count, blocksize, total_sent)"
        ),
        "_sock_sendfile_update_filepos": {"3.11": "any", "3.15": "(self, fileno, offset)"},
        "_stop_serving": "(self, sock)",
        "_unix_server_sockets": {"3.13": "stored"},
        "_watcher": {"3.14": "stored"},
    },
    "asyncio.unix_events:_UnixWritePipeTransport": {
        "_call_connection_lost": "(self, exc)",
        "_closing": "stored",
        "_conn_lost": "stored",
        "_fileno": "stored",
        "_pipe": "stored",
        "_protocol": "stored",
        "_write_ready": "(self)",
    },
    "importlib._bootstrap:ModuleSpec": {
        "_initializing": "any",
    },
    "importlib._bootstrap": {
        "_DeadlockError": "class",
        "_ModuleLockManager": "class",
        "_NEEDS_LOADING": "attribute",
        "_find_and_load": {
            "3.11": "(name, import_)",
            "3.15": "(name, import_, *, lazy_submodule=...)",
        },
        "_find_and_load_unlocked": {
            "3.11": "(name, import_)",
            "3.15": "(name, import_, *, lazy_submodule=...)",
        },
        "_gcd_import": "(name, package=..., level=...)",
        "_lock_unlock_module": "(name)",
    },
    "socket:socket": {
        "_decref_socketios": "(self)",
        "_io_refs": "attribute",
    },
    "ssl:SSLContext": {
        "_encode_hostname": "(self, hostname)",
        "_host_flags": "attribute",
        "_msg_callback": "attribute",
        "_wrap_bio": (
            "(self, /, incoming, outgoing, server_side, server_hostname=..., *, "
            "owner=..., session=...)"
        ),
    },
    "ssl:SSLObject": {
        "_sslobj": "stored",
    },
}


def shape_of(owner: str, name: str) -> str | None:
    """Return what a hook looks like on the running interpreter, in the words of :data:`Shape`.

    Args:
        owner: a module, or a class after a colon.
        name: the name of the hook in it.
    """
    module, _, class_name = owner.partition(":")
    try:
        place: Any = importlib.import_module(module)
        if class_name:
            place = getattr(place, class_name)
    except (ImportError, AttributeError):
        return None
    missing = object()
    found = inspect.getattr_static(place, name, missing)
    if found is missing:
        return "stored" if stores(place, name) else None
    if isinstance(found, (staticmethod, classmethod)):
        found = found.__func__
    if isinstance(found, type):
        return "class"
    return _parameters(found) if inspect.isroutine(found) else "attribute"


def stores(place: Any, name: str) -> bool:
    """Return whether a function of a class or module stores an attribute of that name."""
    for member in vars(place).values():
        code = getattr(getattr(member, "__func__", member), "__code__", None)
        if isinstance(code, CodeType) and name in code.co_names:
            for instruction in dis.get_instructions(code):
                if instruction.opname == "STORE_ATTR" and instruction.argval == name:
                    return True
    return False


def _parameters(function: Any) -> str:
    try:
        signature = inspect.signature(function)
    except ValueError:
        return "function"
    parameters = [
        parameter.replace(
            annotation=parameter.empty,
            default=parameter.empty if parameter.default is parameter.empty else ...,
        )
        for parameter in signature.parameters.values()
    ]
    return str(inspect.Signature(parameters)).replace("Ellipsis", "...")


def expected(shape: Shape, version: tuple[int, ...]) -> str | None:
    """Return what a hook looks like on a version of Python; on a newer one, as on the newest."""
    if not isinstance(shape, Mapping):
        return shape
    found = None
    for since, then in shape.items():
        if tuple(map(int, since.split("."))) <= version:
            found = then
    return found


def changed_hooks(version: tuple[int, ...]) -> list[str]:
    """Return a sentence about each hook that is not what the list says for a version of Python."""
    sentences = []
    for owner, hooks in HOOKS.items():
        for name, shape in hooks.items():
            wanted, found = expected(shape, version), shape_of(owner, name)
            if wanted not in ("any", found):
                full_name = f"{owner.replace(':', '.')}.{name}"
                sentences.append(f"{full_name} is {found or 'missing'}, not {wanted or 'missing'}")
    return sentences


def check(version: str) -> None:
    """Raise ImportError if a hook is not what it was on the newest version that was tested.

    Args:
        version: that of rloop.
    """
    changed = changed_hooks(sys.version_info[:3])
    if changed:
        python = ".".join(map(str, sys.version_info[:2]))
        newest = ".".join(map(str, NEWEST_TESTED))
        raise ImportError(
            f"CPython {python} has changed private parts of the standard library that tokioloop "
            f"{version} uses: {'; '.join(changed)}. Install a release of tokioloop later than "
            f"{version}, or use CPython {newest}."
        )

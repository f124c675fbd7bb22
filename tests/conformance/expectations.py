"""The tests of test.test_asyncio that TokioLoop cannot pass, one by one, each with the reason.

Read by run.py for ``--loop rloop`` and held strictly (see verdict.py): a listed test that passes
fails the run, unless it is a race. A reason names the private part of asyncio that the test reaches
into, which a loop that is not asyncio's does not have or does not use. A difference that an asyncio
program could notice has no place here: that is a defect. With several threads, it is one of those
that docs/threading.md tells.
"""

from conformance.verdict import ExpectedFailure

_FROM_3_14 = ("3.14", "3.14t", "3.15", "3.15t")
_FROM_3_15 = ("3.15", "3.15t")

_PRIVATE_STEP = (
    "calls _sock_sendfile_native_impl() as a callback, with os.sendfile replaced or without"
)

EXPECTED_FAILURES: tuple[ExpectedFailure, ...] = (
    *(
        ExpectedFailure(
            f"test_unix_events.SelectorEventLoopUnixSockSendfileTests.test_sock_sendfile_{name}",
            _PRIVATE_STEP,
        )
        for name in ("cancel2", "exception", "os_error_first_call", "os_error_next_call")
    ),
    ExpectedFailure(
        "test_ssl.TestSSL.test_remote_shutdown_receives_trailing_data",
        "calls _SSLProtocolTransport._test__append_write_backlog, which exists for this test",
    ),
    ExpectedFailure(
        "test_ssl.TestSSL.test_remote_shutdown_receives_trailing_data_on_slow_socket",
        "calls the same method, and reads _SelectorSocketTransport._read_ready_cb",
        _FROM_3_14,
    ),
    *(
        ExpectedFailure(
            f"test_base_events.BaseEventLoopTests.test_create_connection_happy_eyeballs{suffix}",
            "replaces the loop's _add_reader(), and connects a mock whose descriptor is not open",
            _FROM_3_15,
        )
        for suffix in ("", "_ipv4_only")
    ),
    ExpectedFailure(
        "test_sslproto.SelectorStartTLSTests"
        ".test_create_connection_ssl_failed_certificate_no_cycles",
        "replaces SSLProtocol.connection_made() to learn of the inner transport",
        _FROM_3_15,
    ),
    ExpectedFailure(
        "test_unix_events.PidfdChildWatcherTests.test_pidfd_closed_when_waitpid_raises",
        "waits until os.waitpid() is called, which is not how TokioLoop reaps a child",
        _FROM_3_15,
        timeout=10.0,
    ),
    ExpectedFailure(
        "test_subprocess.GenericWatcherTests.test_create_subprocess_fails_with_inactive_watcher",
        "sets a mock as the policy's child watcher, which TokioLoop does not ask for its children",
        ("3.11", "3.12", "3.13"),
    ),
)

EXPECTED_WITH_THREADS: tuple[ExpectedFailure, ...] = (
    ExpectedFailure(
        "test_server.TestServer2.test_abort_clients",
        "gives the connection, which lives on another thread, two turns of the loop to end",
        _FROM_3_14,
    ),
    *(
        ExpectedFailure(tests, reason, _FROM_3_14, is_race=True)
        for tests, reason in (
            (
                "test_server.TestServer2.test_close_clients",
                "gives the connection, which lives on another thread, two turns of the loop to end",
            ),
            (
                "test_server.TestServer2.test_wait_closed_basic",
                "asks for what the server's connection keeps open before another thread has it",
            ),
            (
                "test_streams.StreamTests.test_unhandled_exception",
                "reads what a task on another thread reports without waiting for that task",
            ),
        )
    ),
    *(
        ExpectedFailure(
            f"{case}.test_start_tls_server_1",
            "has the peer begin TLS, then calls start_tls(): not on the thread that receives",
            _FROM_3_14,
            is_race=True,
            # Where the handshake went to the protocol instead, both sides wait for five minutes.
            timeout=10.0,
        )
        for case in ("test_ssl.TestSSL", "test_sslproto.SelectorStartTLSTests")
    ),
)

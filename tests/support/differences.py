"""The rows of docs/differences.md: promises, and the tests of the contract suite that show them.

Read by ``compare_loops.py``, which runs each row's test on each loop.
"""

from typing import NamedTuple


class Row(NamedTuple):
    """A promise, and the test that shows who keeps it."""

    promise: str
    file: str
    """A file of tests/contract, without ``test_`` and the ending."""

    test: str = ""
    """A test in that file, without ``test_``; all of them if it is empty."""

    varies_on: tuple[str, ...] = ()
    """The loops on which the outcome differs from run to run."""

    @property
    def path(self) -> str:
        """The file, seen from tests/."""
        return f"contract/test_{self.file}.py"

    @property
    def target(self) -> str:
        """What pytest is to run."""
        return f"{self.path}::test_{self.test}" if self.test else self.path

    def has(self, test: str) -> bool:
        """Tell whether a test belongs to the row, by the name that pytest gives it."""
        return test == self.target or test.startswith((f"{self.target}[", f"{self.target}::"))


SECTIONS: dict[str, list[Row]] = {
    "Streams": [
        Row(
            "transports are instances of `asyncio.Transport`",
            "connections",
            "a_connection_returns_transport_and_protocol_after_connection_made",
        ),
        Row(
            "`close()` delivers 8 MiB that are queued to a slow reader, over TCP and Unix sockets",
            "stream_closing",
            "close_delivers_everything_written_before_to_a_slow_reader",
        ),
        Row(
            "what came while reading was paused, and the end, are delivered in order",
            "stream_reading",
            "bytes_and_eof_that_came_while_paused_are_delivered_in_order",
        ),
        Row(
            "a `bytearray` may be changed as soon as `write()` returns",
            "stream_writing",
            "a_bytearray_may_be_changed_as_soon_as_write_returns",
        ),
        Row(
            "a queued `memoryview` of wider items counts in bytes",
            "stream_writing",
            "a_queued_memoryview_of_wider_items_is_counted_in_bytes",
        ),
        Row(
            "`writelines()` pauses the protocol like `write()`",
            "stream_writing",
            "writelines_pauses_the_protocol_like_write",
        ),
        Row(
            "`get_extra_info()` knows the addresses and the socket after the peer's reset",
            "extra_info",
            "addresses_are_known_after_the_peers_reset",
        ),
        Row(
            "`set_protocol()` inside `data_received()` loses no byte",
            "set_protocol",
            "switching_inside_data_received_loses_no_byte",
        ),
        Row(
            "a buffered protocol gets asyncio's calls, with its arguments",
            "buffered_protocol",
            "the_call_log_is_pairs_of_get_buffer_and_buffer_updated",
        ),
        Row(
            "happy eyeballs pass by an address that never answers",
            "connections",
            "happy_eyeballs_pass_by_an_address_that_never_answers",
        ),
        Row(
            "`Server.close_clients()`",
            "servers",
            "close_clients_closes_each_connection_after_its_queue",
        ),
    ],
    "TLS": [
        Row(
            "`close()` delivers 8 MiB that are queued to a slow reader, over TLS 1.2 and 1.3",
            "tls",
            "close_delivers_everything_written_before_to_a_slow_reader",
        ),
        Row(
            "it does so although the peer goes on sending",
            "tls_flow",
            "close_delivers_what_was_written_although_the_peer_goes_on_sending",
        ),
        Row(
            "a peer that ends its side first still gets all that was written",
            "tls_flow",
            "a_peer_that_ends_its_side_first_still_gets_all_that_was_written",
        ),
        Row(
            "what came before the peer's end is delivered although reading was paused",
            "tls",
            "what_came_before_the_peers_end_is_delivered_although_reading_was_paused",
        ),
        Row(
            "what came in one packet with a bad record, before it, is delivered",
            "tls_flow",
            "what_came_before_a_bad_record_is_delivered",
        ),
        Row("a peer is told by an alert why its connection has failed", "tls_alerts"),
        Row(
            "a buffered protocol gets each byte, whatever its buffer is",
            "tls",
            "a_buffered_protocol_gets_the_same_bytes",
        ),
        Row("writing is paused and resumed", "tls", "writing_is_paused_and_resumed"),
        Row(
            "`start_tls()` of a server to which the hello came with the request",
            "start_tls",
            "a_server_upgrades_although_the_hello_came_with_the_request",
        ),
        Row(
            "`StreamWriter.start_tls()` with bytes that the reader has buffered already",
            "start_tls",
            "a_hello_that_the_stream_reader_already_buffered_is_not_lost",
        ),
        Row("TLS inside TLS", "start_tls", "tls_inside_tls"),
        Row(
            "TLS over the transport of another library",
            "start_tls",
            "tls_over_a_transport_of_another_kind",
        ),
        Row(
            "handshakes: ALPN, certificates of both sides, SNI, refusals and time-outs",
            "tls_handshakes",
        ),
    ],
    "Datagrams": [
        Row(
            "endpoints are instances of `asyncio.DatagramTransport`",
            "datagram_sending",
            "a_datagram_transport_is_one_of_asyncios",
        ),
        Row(
            "a refused datagram reaches `error_received()`, and the endpoint stays open",
            "datagrams",
            "a_refused_datagram_reaches_error_received_and_the_endpoint_stays_open",
        ),
        Row(
            "datagrams of Unix sockets travel by path",
            "datagrams",
            "unix_datagrams_travel_by_path",
        ),
        Row(
            "a broadcast reaches who listens",
            "datagram_sending",
            "a_broadcast_reaches_who_listens",
        ),
        Row(
            "each parameter of `create_datagram_endpoint()` reaches the socket",
            "datagrams",
            "options_reach_the_socket",
        ),
        Row(
            "a full socket pauses the protocol, and no datagram is lost",
            "datagrams",
            "a_full_socket_pauses_the_protocol_and_nothing_is_lost",
        ),
        Row("an empty datagram is sent", "datagrams", "an_empty_datagram_is_sent_since_3_13"),
        Row(
            "a task that a datagram woke runs before the next datagram",
            "datagram_order",
            "a_task_that_a_datagram_woke_runs_before_the_next_datagram",
        ),
        Row("all that the contract says of endpoints", "datagrams"),
    ],
    "Pipes and terminals": [
        Row(
            "closing a pipe delivers everything to a slow reader",
            "pipes",
            "closing_a_write_pipe_delivers_everything_to_a_slow_reader",
        ),
        Row(
            "closing a pipe transport twice does not close a stranger's descriptor",
            "pipes",
            "closing_again_does_not_close_a_descriptor_that_was_given_out_since",
        ),
        Row(
            "fifos and sockets are pipes, too",
            "pipes",
            "a_fifo_a_socket_and_a_socket_pair_are_pipes_too",
        ),
        Row("a terminal is read and written", "pipes", "a_terminal_is_read_and_written"),
        Row(
            "a terminal is read and written through one descriptor",
            "pipe_files",
            "a_terminal_is_read_and_written_through_one_descriptor",
        ),
        Row(
            "lines of a terminal that came together all arrive",
            "pipe_files",
            "lines_of_a_terminal_that_came_together_all_arrive",
        ),
        Row(
            "a fifo that another writer has opened since its end has not ended",
            "pipe_files",
            "a_fifo_that_another_writer_opened_since_has_not_ended",
        ),
        Row("a regular file is refused", "pipes", "a_regular_file_is_refused"),
        Row("`/dev/null` takes writes", "pipes", "the_null_device_takes_writes"),
    ],
    "Processes": [
        Row(
            "a child can open `/dev/stdin`",
            "subprocesses",
            "a_child_can_open_its_standard_input_by_name",
        ),
        Row("exit codes are exact", "subprocesses", "exit_codes_are_exact"),
        Row(
            "loops in many threads get the exit codes of their own children",
            "subprocesses",
            "loops_in_many_threads_get_the_exit_codes_of_their_own_children",
        ),
        Row(
            "children of `subprocess.Popen` are left to it",
            "subprocesses",
            "children_of_other_code_are_not_reaped",
        ),
        Row("children need no threads", "children", "children_need_no_threads"),
        Row(
            "the program's handler of SIGCHLD is left alone",
            "children",
            "a_handler_of_sigchld_that_is_the_programs_is_left_alone",
        ),
        Row(
            "no descriptor of a sibling leaks into a child",
            "subprocesses",
            "no_descriptor_of_a_sibling_leaks_into_a_child",
        ),
        Row(
            "a start that is cancelled leaves no child behind",
            "children",
            "a_start_that_is_cancelled_leaves_no_child_behind",
        ),
        Row(
            "the child of a `fork()` in a callback runs a loop of its own",
            "fork",
            "the_child_runs_a_loop_of_its_own_while_the_parents_goes_on",
        ),
    ],
    "Files": [
        Row(
            "`loop.sendfile()`: exact bytes, count and position, over TCP and Unix sockets",
            "sendfile",
            "a_transport_sends_exactly_the_range",
        ),
        Row("`loop.sock_sendfile()`, the same", "sendfile", "a_socket_sends_exactly_the_range"),
        Row(
            "`sendfile()` keeps its place between the writes around it",
            "sendfile",
            "what_was_written_before_and_after_keeps_its_place",
        ),
        Row(
            "writing while a file is sent is refused",
            "sendfile",
            "writing_while_a_file_is_sent_is_refused",
        ),
        Row(
            "a file without a descriptor is sent by the fallback",
            "sendfile",
            "a_file_without_a_descriptor_is_sent_by_the_fallback",
        ),
        Row(
            "`sendfile()` over TLS",
            "sendfile",
            "a_tls_transport_sends_by_the_fallback_alone",
        ),
        Row(
            "a cancelled `sock_sendfile()` leaves the socket usable",
            "sendfile",
            "a_cancelled_sock_sendfile_leaves_the_socket_usable",
        ),
    ],
    "Sockets and descriptors of the program": [
        Row(
            "`sock_recvfrom()` and `sock_sendto()`",
            "sock_methods",
            "recvfrom_and_sendto_carry_datagrams_and_addresses",
        ),
        Row(
            "`sock_recvfrom_into()`",
            "sock_methods",
            "recvfrom_into_fills_the_buffer_it_is_given",
        ),
        Row(
            "`sock_sendall()` delivers every byte to a slow reader",
            "sock_methods",
            "sendall_delivers_every_byte_to_a_slow_reader",
        ),
        Row(
            "`sock_connect()` resolves a name",
            "sock_methods",
            "connect_resolves_a_host_name",
        ),
        Row(
            "a cancelled `sock_accept()` loses no connection",
            "sock_methods",
            "a_cancelled_accept_loses_no_connection",
        ),
        Row(
            "a cancelled `sock_recv()` takes no data, and `remove_reader()` returns `False` then",
            "sock_methods",
            "a_cancelled_recv_takes_no_data_and_frees_the_descriptor",
        ),
        Row(
            "the socket of a transport is refused",
            "sock_methods",
            "a_socket_of_a_transport_is_refused",
        ),
        Row(
            "a socket whose number was given to another file is watched anew",
            "sock_waiting",
            "a_socket_whose_number_was_given_to_another_file_is_watched_anew",
        ),
        Row(
            "a descriptor closed and opened again is watched anew without `remove_reader()`",
            "readers_and_writers",
            "a_descriptor_closed_and_opened_again_is_watched_anew_without_removal",
        ),
        Row(
            "the blocking mode of a watched descriptor is never changed",
            "readers_and_writers",
            "the_blocking_mode_of_a_users_descriptor_is_never_changed",
        ),
        Row(
            "the blocking mode of a socket of the `sock_*` methods is never changed",
            "sock_methods",
            "the_blocking_mode_of_a_users_socket_is_never_changed",
        ),
        Row(
            "a blocking socket does not stop the loop",
            "sock_waiting",
            "a_blocking_socket_does_not_stop_the_loop",
        ),
    ],
    "Callbacks and tasks": [
        Row("no timer fires early", "timers", "no_timer_fires_early", varies_on=("uvloop",)),
        Row(
            "many timers with one deadline run in the order of scheduling",
            "timers",
            "many_equal_deadlines_run_in_the_order_of_scheduling",
        ),
        Row(
            "timers are exact below a millisecond",
            "timers",
            "a_timer_is_less_late_than_asyncios_beside_it",
        ),
        Row("each callback runs in the context it belongs to", "contextvars"),
        Row(
            "each method of a protocol is called in the context it belongs to", "protocol_contexts"
        ),
        Row(
            "an asynchronous generator dropped on another thread is finished on the loop",
            "asyncgens",
            "a_generator_dropped_on_another_thread_is_finished_on_the_loop",
        ),
        Row(
            "Ctrl-C does what it does to asyncio, in each phase of a program",
            "keyboard_interrupt",
            varies_on=("zuvloop",),
        ),
    ],
    "Tools": [
        Row(
            "debug mode logs a slow callback in asyncio's words",
            "debug_mode",
            "a_slow_callback_is_logged_with_its_duration",
        ),
        Row(
            "debug mode shows where a handle was created",
            "debug_mode",
            "a_handle_tells_where_it_was_created",
        ),
        Row(
            "`python -m asyncio ps` and `pstree` see the tasks",
            "introspection",
            "asyncio_ps_sees_the_tasks_of_a_running_process",
        ),
    ],
}

"""Writes docs/differences.md: what asyncio, uvloop, zuvloop and TokioLoop do, as the tests find it.

``python tests/compare_loops.py [--check] [--jobs N]``, with the wheel and the other loops
installed; ``nox -s differences`` is that. Each row of the table is one test of the contract suite,
or one file of it, run on each loop; a loop has a process of its own. With ``--check`` nothing is
written, and the exit status is 1 if the page says something else. A loop that is not installed is
an error.
"""

import argparse
import importlib.metadata
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from xml.etree import ElementTree as ET

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "differences.md"
LABELS = {"asyncio": "asyncio", "uvloop": "uvloop", "zuvloop": "zuvloop", "rloop": "TokioLoop"}
TEST_SECONDS = 20
"""How long one test may take before it has failed."""

RUN_SECONDS = 300
"""How long the tests of one loop may take, together or of one row, before the process is hung."""


NOT_PROMISED = "\N{EN DASH}"


class Row(NamedTuple):
    """A promise and the test that keeps it."""

    promise: str
    test: str
    """A file of tests/, or a test in one."""


SECTIONS: dict[str, list[Row]] = {
    "Streams": [
        Row(
            "transports are instances of `asyncio.Transport`",
            "contract/test_connections.py::test_a_connection_returns_transport_and_protocol_after_connection_made",
        ),
        Row(
            "`close()` delivers 8 MiB that are queued to a slow reader, over TCP and Unix sockets",
            "contract/test_stream_closing.py"
            "::test_close_delivers_everything_written_before_to_a_slow_reader",
        ),
        Row(
            "the same over TLS 1.2 and 1.3",
            "contract/test_tls.py::test_close_delivers_everything_written_before_to_a_slow_reader",
        ),
        Row(
            "what came while reading was paused, and the end, are delivered in order",
            "contract/test_stream_reading.py"
            "::test_bytes_and_eof_that_came_while_paused_are_delivered_in_order",
        ),
        Row(
            "a `bytearray` may be changed as soon as `write()` returns",
            "contract/test_stream_writing.py"
            "::test_a_bytearray_may_be_changed_as_soon_as_write_returns",
        ),
        Row(
            "a queued `memoryview` of wider items counts in bytes",
            "contract/test_stream_writing.py"
            "::test_a_queued_memoryview_of_wider_items_is_counted_in_bytes",
        ),
        Row(
            "`writelines()` pauses the protocol like `write()`",
            "contract/test_stream_writing.py::test_writelines_pauses_the_protocol_like_write",
        ),
        Row(
            "`get_extra_info()` knows the addresses and the socket after the peer's reset",
            "contract/test_extra_info.py::test_addresses_are_known_after_the_peers_reset",
        ),
        Row(
            "`set_protocol()` inside `data_received()` loses no byte",
            "contract/test_set_protocol.py::test_switching_inside_data_received_loses_no_byte",
        ),
        Row(
            "a buffered protocol gets asyncio's calls, with its arguments",
            "contract/test_buffered_protocol.py"
            "::test_the_call_log_is_pairs_of_get_buffer_and_buffer_updated",
        ),
        Row(
            "`start_tls()` with bytes that are buffered already",
            "contract/test_start_tls.py"
            "::test_a_hello_that_the_stream_reader_already_buffered_is_not_lost",
        ),
        Row(
            "happy eyeballs pass by an address that never answers",
            "contract/test_connections.py"
            "::test_happy_eyeballs_pass_by_an_address_that_never_answers",
        ),
        Row(
            "`Server.close_clients()`",
            "contract/test_servers.py::test_close_clients_closes_each_connection_after_its_queue",
        ),
    ],
    "Files": [
        Row(
            "`loop.sendfile()`: exact bytes, count and position, over TCP and Unix sockets",
            "contract/test_sendfile.py::test_a_transport_sends_exactly_the_range",
        ),
        Row(
            "`loop.sock_sendfile()`, the same",
            "contract/test_sendfile.py::test_a_socket_sends_exactly_the_range",
        ),
        Row(
            "`sendfile()` keeps its place between the writes around it",
            "contract/test_sendfile.py::test_what_was_written_before_and_after_keeps_its_place",
        ),
    ],
    "Sockets and descriptors of the program": [
        Row(
            "`sock_recvfrom()` and `sock_sendto()`",
            "contract/test_sock_methods.py::test_recvfrom_and_sendto_carry_datagrams_and_addresses",
        ),
        Row(
            "a cancelled `sock_recv()` takes no data, and `remove_reader()` returns `False` then",
            "contract/test_sock_methods.py"
            "::test_a_cancelled_recv_takes_no_data_and_frees_the_descriptor",
        ),
        Row(
            "a socket whose number was given to another file is watched anew",
            "contract/test_sock_waiting.py"
            "::test_a_socket_whose_number_was_given_to_another_file_is_watched_anew",
        ),
        Row(
            "a descriptor closed and opened again is watched anew without `remove_reader()`",
            "contract/test_readers_and_writers.py"
            "::test_a_descriptor_closed_and_opened_again_is_watched_anew_without_removal",
        ),
        Row(
            "the blocking mode of a watched descriptor is never changed",
            "contract/test_readers_and_writers.py"
            "::test_the_blocking_mode_of_a_users_descriptor_is_never_changed",
        ),
        Row(
            "the blocking mode of a socket of the `sock_*` methods is never changed",
            "contract/test_sock_methods.py"
            "::test_the_blocking_mode_of_a_users_socket_is_never_changed",
        ),
        Row(
            "a blocking socket does not stop the loop",
            "contract/test_sock_waiting.py::test_a_blocking_socket_does_not_stop_the_loop",
        ),
        Row(
            "closing a pipe transport twice does not close a stranger's descriptor",
            "contract/test_pipes.py"
            "::test_closing_again_does_not_close_a_descriptor_that_was_given_out_since",
        ),
        Row(
            "a refused datagram reaches `error_received()`, and the endpoint stays open",
            "contract/test_datagrams.py"
            "::test_a_refused_datagram_reaches_error_received_and_the_endpoint_stays_open",
        ),
    ],
    "Callbacks and tasks": [
        Row("no timer fires early", "contract/test_timers.py::test_no_timer_fires_early"),
        Row(
            "many timers with one deadline run in the order of scheduling",
            "contract/test_timers.py::test_many_equal_deadlines_run_in_the_order_of_scheduling",
        ),
        Row(
            "timers are exact below a millisecond",
            "contract/test_timers.py::test_a_timer_is_less_late_than_asyncios_beside_it",
        ),
        Row("each callback runs in the context it belongs to", "contract/test_contextvars.py"),
        Row(
            "an asynchronous generator dropped on another thread is finished on the loop",
            "contract/test_asyncgens.py"
            "::test_a_generator_dropped_on_another_thread_is_finished_on_the_loop",
        ),
        Row(
            "Ctrl-C does what it does to asyncio, in each phase of a program",
            "contract/test_keyboard_interrupt.py",
        ),
    ],
    "Processes and tools": [
        Row(
            "the child of a `fork()` in a callback runs a loop of its own",
            "contract/test_fork.py"
            "::test_the_child_runs_a_loop_of_its_own_while_the_parents_goes_on",
        ),
        Row(
            "debug mode logs a slow callback in asyncio's words",
            "contract/test_debug_mode.py::test_a_slow_callback_is_logged_with_its_duration",
        ),
        Row(
            "debug mode shows where a handle was created",
            "contract/test_debug_mode.py::test_a_handle_tells_where_it_was_created",
        ),
        Row(
            "`python -m asyncio ps` and `pstree` see the tasks",
            "contract/test_introspection.py::test_asyncio_ps_sees_the_tasks_of_a_running_process",
        ),
    ],
}


def outcomes(loop: str) -> dict[Row, str]:
    """Run the tests of all rows on a loop; return what its cells say."""
    rows = [row for rows in SECTIONS.values() for row in rows]
    cases = run(loop, rows)
    if isinstance(cases, list):
        return {row: judge([case for case in cases if is_of(case, row)]) for row in rows}
    # One of them took the process down, or hung where no signal reaches: which?
    found = {}
    for row in rows:
        cases = run(loop, [row])
        found[row] = cases if isinstance(cases, str) else judge(cases)
    return found


def run(loop: str, rows: list[Row]) -> list[ET.Element] | str:
    """Run tests in a process of their own; return the cases of the report, or what happened."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            *(sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *(f"--timeout={TEST_SECONDS}", f"--loop={loop}", f"--junitxml={report}"),
            *(row.test for row in rows),
        ]
        try:
            subprocess.run(
                command, cwd=TESTS, capture_output=True, timeout=RUN_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return "hangs"
        return list(ET.parse(report).iter("testcase")) if report.exists() else "crashes"


def is_of(case: ET.Element, row: Row) -> bool:
    """Tell whether a test case of a report belongs to a row."""
    file, _, name = row.test.partition("::")
    module = file.removesuffix(".py").replace("/", ".")
    if not case.get("classname", "").endswith(module):
        return False
    return not name or case.get("name", "").partition("[")[0] == name


def judge(cases: list[ET.Element]) -> str:
    """Return the cell for some test cases: yes, no, how many of how many, or nothing.

    What the leak guard finds after a test is no verdict on the promise, and is left out.
    """
    results: dict[str, bool] = {}
    for case in cases:
        name = case.get("name", "")
        skipped = case.find("skipped")
        if skipped is not None and skipped.get("type") != "pytest.xfail":
            continue
        errors = [error.get("message", "") for error in case.iter("error")]
        went_well = (
            skipped is None
            and case.find("failure") is None
            and all("teardown" in message for message in errors)
        )
        # A test that fails and leaks as well is in the report twice.
        results[name] = results.get(name, True) and went_well
    passed = sum(results.values())
    failed = len(results) - passed
    if passed + failed == 0:
        return NOT_PROMISED
    if failed == 0:
        return "yes"
    return "no" if passed == 0 else f"{passed} of {passed + failed}"


def heading() -> str:
    """Return what the page says before the tables."""
    python = "{}.{}.{}".format(*sys.version_info[:3])
    uvloop, zuvloop = (importlib.metadata.version(name) for name in ("uvloop", "zuvloop"))
    return f"""\
# Differences

What asyncio, uvloop {uvloop}, zuvloop {zuvloop} and TokioLoop do, on CPython {python}. Each cell
is the outcome of the test that its row names, run on that loop; `nox -s differences` writes this
page. "3 of 4" means that the test has four variants, or the file four tests, of which three pass;
"{NOT_PROMISED}" that the promise is not that loop's, because asyncio does not make it.

Where TokioLoop and asyncio differ, the difference is meant: asyncio's outcome is a known defect
there (a strict expected failure of the test) or a promise that it does not make.
"""


def page(jobs: int) -> str:
    """Run everything and return the page."""
    with ThreadPoolExecutor(jobs) as pool:
        found = dict(zip(LABELS, pool.map(outcomes, LABELS), strict=True))
    parts = [heading()]
    for section, rows in SECTIONS.items():
        parts.append(f"\n## {section}\n\n")
        parts.append(f"| | {' | '.join(LABELS.values())} | test |\n")
        parts.append(f"|---|{'---|' * (len(LABELS) + 1)}\n")
        for row in rows:
            line = " | ".join(found[loop][row] for loop in LABELS)
            parts.append(f"| {row.promise} | {line} | {link(row)} |\n")
    return "".join(parts)


def link(row: Row) -> str:
    """Return a link to the test of a row, named by its file."""
    file = row.test.partition("::")[0]
    return f"[{Path(file).stem.removeprefix('test_')}](../tests/{file})"


def main() -> int:
    """Read the command line, run, and write or compare."""
    parser = argparse.ArgumentParser(description="Write docs/differences.md from test results.")
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="loops at a time")
    options = parser.parse_args()
    written = page(options.jobs)
    if not options.check:
        PAGE.write_text(written)
        return 0
    if PAGE.read_text() == written:
        return 0
    sys.stdout.write(written)
    return 1


if __name__ == "__main__":
    sys.exit(main())

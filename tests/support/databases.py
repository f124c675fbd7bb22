"""Database servers of the tests: PostgreSQL and Redis, on Unix sockets in a temporary folder."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.threads import PEER_TIMEOUT

POSTGRESQL_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin")


def find_program(name: str) -> str:
    """Return the path of a server's program; skip the test if there is none."""
    if (found := shutil.which(name)) is not None:
        return found
    for pattern in POSTGRESQL_FOLDERS:
        for folder in sorted(Path("/").glob(pattern.lstrip("/")), reverse=True):
            if (folder / name).exists():
                return str(folder / name)
    pytest.skip(f"there is no {name}: install the packages postgresql and redis-server")


@contextlib.contextmanager
def running(arguments: list[str], path: Path, user: str | None = None) -> Iterator[None]:
    """Run a server until the end of the ``with`` statement; wait until it listens on a path."""
    process = subprocess.Popen(
        arguments, user=user, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=-1
    )
    try:
        deadline = time.monotonic() + PEER_TIMEOUT
        while True:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(path))
                break
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                pytest.fail(f"{arguments[0]} did not start: {process.communicate()[1].decode()}")
            time.sleep(0.005)
        yield
    finally:
        # PostgreSQL waits for its clients after SIGTERM.
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PEER_TIMEOUT)


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """Run PostgreSQL; give the folder of its socket. User and database are ``postgres``."""
    initdb, postgres = find_program("initdb"), find_program("postgres")
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        user = None
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root.
            names = {entry.pw_name for entry in pwd.getpwall()}
            user = "postgres" if "postgres" in names else "nobody"
            os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        data = f"{folder}/data"
        options = ["--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8"]
        subprocess.run(
            [initdb, *options, "--no-instructions", f"--pgdata={data}"],
            user=user,
            cwd=folder,
            check=True,
            capture_output=True,
        )
        settings = ["listen_addresses=", f"unix_socket_directories={folder}", "fsync=off"]
        arguments = [postgres, "-D", data, *(f"--{setting}" for setting in settings)]
        with running(arguments, Path(folder, ".s.PGSQL.5432"), user):
            yield folder


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """Run Redis; give the path of its socket."""
    program = find_program("redis-server")
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        path = Path(folder, "socket")
        options = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", folder]
        with running([program, *options], path):
            yield str(path)

"""Applications that tests of workers write, run on two workers and ask what they saw."""

import types
from collections.abc import Iterable
from pathlib import Path
from textwrap import dedent
from typing import Any

import rloop
from support.workers import Meeting, write_modules

Sources = dict[str, str]


class Application:
    """An application's modules in a folder of ``sys.path``, and what they have recorded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[tuple[int, Any]] = []
        self.meeting = Meeting(2)
        self.exchanged: list[Any] = [None, None]
        self.recorder = types.ModuleType("recorder")

    def share(self, **values: object) -> None:
        """Set attributes of the module that the workers share."""
        for name, value in values.items():
            setattr(self.recorder, name, value)

    def write(self, sources: Sources) -> None:
        """Write the modules' files."""
        write_modules(self.folder, {name: dedent(text) for name, text in sources.items()})

    def run(
        self,
        sources: Sources,
        main: str = "app:main",
        modules: Iterable[str] = ("app",),
        **options: Any,
    ) -> list[Any]:
        """Write the modules, run `main` on two workers and return what it returned."""
        self.write(sources)
        return rloop.run_workers(main, workers=2, modules=modules, **options)

    def record(self, what: Any) -> None:
        """Keep something that a worker has seen. The application calls this."""
        self.events.append((rloop.current_worker().index, what))

    def exchange(self, value: Any) -> Any:
        """Return what the other worker calls this with, once it does."""
        index = rloop.current_worker().index
        self.exchanged[index] = value
        self.meeting.wait()
        other = self.exchanged[1 - index]
        self.meeting.wait()
        return other

    def recorded(self) -> list[list[Any]]:
        """Return what each worker has recorded."""
        return [[what for index, what in self.events if index == worker] for worker in (0, 1)]


def assert_own_modules(found: list[dict[str, types.ModuleType]], names: Iterable[str]) -> None:
    """Check that each worker has modules of these names, which are its own."""
    for name in names:
        modules = [of_worker[name] for of_worker in found]
        assert modules[0] is not modules[1], name
        assert [module.__name__ for module in modules] == [name] * 2
        specs = [module.__spec__ for module in modules]
        assert [spec.name for spec in specs if spec is not None] == [name] * 2
        parent, _, child = name.rpartition(".")
        if parent:
            for of_worker in found:
                assert getattr(of_worker[parent], child) is of_worker[name]

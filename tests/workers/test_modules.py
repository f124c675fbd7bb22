"""The application is imported once for each worker, whatever imports it."""

import importlib.machinery
import importlib.util
import sys
import zipfile
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import rloop
from support.applications import Application, assert_own_modules
from support.workers import program, several_workers, write_modules

pytestmark = several_workers


def test_imports_of_every_kind_give_each_worker_its_own_module(app: Application) -> None:
    recording = "import recorder\nrecorder.record(__name__)\n"
    names = [
        "app",
        "app.absolute",
        "app.attribute",
        "app.by_call",
        "app.by_name",
        "app.by_relative_name",
        "app.deep",
        "app.deep.er",
        "app.deep.er.est",
        "app.function",
        "app.main",
        "app.on_demand",
        "app.relative",
        "app.star",
        "app.through_parent",
        "app.type_only",
    ]
    sources = {f"{name.replace('.', '/')}.py": recording for name in names}
    for package in ("app", "app/deep", "app/deep/er"):
        sources[f"{package}/__init__.py"] = sources.pop(f"{package}.py")
    sources["app/__init__.py"] += """
def __getattr__(name):
    import importlib
    if name == "on_demand":
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(name)
"""
    sources["app/star.py"] += "__all__ = ['value']\nvalue = object()\n"
    sources["app/deep/er/est.py"] += "from ... import relative, through_parent\n"
    sources["app/main.py"] += """
import importlib, sys
import app.absolute
import app.deep.er.est as renamed
from app import attribute
from . import relative, on_demand
from .star import *
from typing import TYPE_CHECKING
if not TYPE_CHECKING:
    import app.type_only

async def main():
    from .function import recorder
    importlib.import_module("app.by_name")
    importlib.import_module(".by_relative_name", __package__)
    __import__("app.by_call", globals(), locals(), ["recorder"], 0)
    assert renamed is app.deep.er.est is sys.modules["app.deep.er.est"]
    assert value is sys.modules["app.star"].value
    assert sys.modules[__name__].main is main
    return dict(sys.modules)
"""
    found = app.run(sources, "app.main:main")
    assert_own_modules(found, names)
    assert [sorted(recorded) for recorded in app.recorded()] == [names, names]
    assert [of_worker["sys"] for of_worker in found] == [sys, sys]
    assert not [name for name in sys.modules if name.partition(".")[0] == "app"]


def test_workers_that_import_at_the_same_time_wait_for_nobody_but_themselves(
    app: Application,
) -> None:
    sources = {
        # A module of worker 0 that is not complete before the same module of worker 1 has begun.
        "app/__init__.py": """
            import recorder
            recorder.meet()
            from .circular import first
            recorder.meet()
            from .circular.second import value
            async def main():
                return value(), first.value()
        """,
        "app/circular/__init__.py": "import recorder\nrecorder.meet()\n",
        "app/circular/first.py": """
            from . import second
            def value():
                return second.NUMBER
        """,
        "app/circular/second.py": """
            import app.circular.first
            from app.circular import first
            NUMBER = 2
            def value():
                return first.value() + app.circular.first.value()
        """,
    }
    assert app.run(sources) == [(4, 2), (4, 2)]


def test_state_of_a_module_is_its_workers(app: Application) -> None:
    sources = {
        "app.py": """
            import functools, recorder, rloop
            number = 0
            @functools.cache
            def cached():
                return rloop.current_worker().index
            async def main():
                global number
                number += 1 + cached()
                recorder.meet()
                return number
        """
    }
    assert app.run(sources) == [1, 2]


def test_threads_of_a_worker_import_its_modules(app: Application) -> None:
    sources = {
        "app/__init__.py": """
            import _thread, asyncio, concurrent.futures, importlib, sys, threading
            async def main():
                loop = asyncio.get_running_loop()
                found = []
                names = ["thread", "to_thread", "executor", "own_executor", "low_level"]
                modules = {name: f"{__name__}.{name}" for name in names}
                def load(name):
                    found.append(importlib.import_module(modules[name]))
                thread = threading.Thread(target=load, args=["thread"])
                thread.start()
                await asyncio.to_thread(load, "to_thread")
                await loop.run_in_executor(None, load, "executor")
                with concurrent.futures.ThreadPoolExecutor() as executor:
                    await loop.run_in_executor(executor, load, "own_executor")
                done = threading.Event()
                def load_low_level():
                    load("low_level")
                    done.set()
                _thread.start_new_thread(load_low_level, ())
                await asyncio.to_thread(done.wait)
                await asyncio.to_thread(thread.join)
                assert {id(module) for module in found} == {
                    id(sys.modules[name]) for name in modules.values()
                }
                return {module.__name__: module for module in found}
        """,
        **{
            f"app/{name}.py": ""
            for name in ("thread", "to_thread", "executor", "own_executor", "low_level")
        },
    }
    found = app.run(sources)
    assert len(found[0]) == 5
    for name in found[0]:
        assert found[0][name] is not found[1][name]


def test_a_failing_import_fails_as_in_a_process_and_may_be_repeated(app: Application) -> None:
    sources = {
        "app/__init__.py": """
            import importlib, sys
            is_mended = False
            async def main():
                global is_mended
                seen = []
                for name in ("app.fails", "app.fails", "app.fails.child", "app.absent"):
                    try:
                        importlib.import_module(name)
                    except Exception as error:
                        seen.append((type(error), str(error), name in sys.modules))
                try:
                    from app import absent
                except ImportError as error:
                    seen.append((type(error), error.msg.partition(" (")[0], error.name))
                is_mended = True
                from app.fails import answer
                return [*seen, answer]
        """,
        "app/fails.py": """
            import app, recorder
            recorder.record(__name__)
            if not app.is_mended:
                raise LookupError("broken")
            answer = 42
        """,
    }
    expected = [
        (LookupError, "broken", False),
        (LookupError, "broken", False),
        (LookupError, "broken", False),
        (ModuleNotFoundError, "No module named 'app.absent'", False),
        (ImportError, "cannot import name 'absent' from 'app'", "app"),
        42,
    ]
    assert app.run(sources) == [expected] * 2
    assert app.recorded() == [["app.fails"] * 4] * 2


def test_modules_that_replace_themselves_are_replaced_for_their_worker(app: Application) -> None:
    sources = {
        "app/__init__.py": """
            import importlib, sys, types
            import app.instance, app.classed, app.plain
            from app import instance as imported
            async def main():
                import app
                assert type(app.instance).__name__ == type(imported).__name__ == "Replacement"
                assert sys.modules["app.instance"] is app.instance
                app.classed.value = 3
                assert app.classed.value == 6
                before = app.plain
                before.value = 1
                assert importlib.reload(before) is before and before.value == 0
                del sys.modules["app.plain"]
                import app.plain as after
                assert after is not before and after is app.plain
                made = sys.modules["app.made"] = types.ModuleType("app.made")
                made.answer = 42
                from app.made import answer
                assert "app.made" in list(sys.modules)
                assert sys.modules.pop("app.made") is made and "app.made" not in sys.modules
                assert "app.made" not in list(sys.modules) and "app.plain" in list(sys.modules)
                return app.instance, app.classed, after
        """,
        "app/plain.py": "value = 0\n",
        "app/instance.py": """
            import sys
            class Replacement:
                pass
            sys.modules[__name__] = Replacement()
        """,
        "app/classed.py": """
            import sys, types
            class Class(types.ModuleType):
                @property
                def value(self):
                    return self.__dict__["doubled"]
                @value.setter
                def value(self, value):
                    self.__dict__["doubled"] = 2 * value
            sys.modules[__name__].__class__ = Class
        """,
    }
    for first, second in zip(*app.run(sources), strict=True):
        assert first is not second


def test_packages_of_several_folders_are_copied(
    app: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extended = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)"
    write_modules(
        tmp_path,
        {
            "second/space/two.py": "from . import one\nfrom .three import value\n",
            "second/space/three.py": "value = object()\n",
            "second/extended/__init__.py": extended,
            "second/extended/other.py": "",
            "third/added.py": "",
        },
    )
    monkeypatch.syspath_prepend(tmp_path / "second")
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("zipped/__init__.py", "from .inner import value\n")
        archive.writestr("zipped/inner.py", "value = object()\n")
    monkeypatch.syspath_prepend(tmp_path / "archive.zip")
    sources = {
        "app/__init__.py": f"""
            import sys
            import space.one, space.two, extended, zipped
            from app.moved import added
            __path__.append({str(tmp_path / "third")!r})
            import app.added
            async def main():
                assert type(space.__path__).__name__.endswith("NamespacePath")
                assert len(space.__path__) == len(extended.__path__) == 2
                from extended import other
                return dict(sys.modules)
        """,
        "app/moved/__init__.py": f"__path__ = [{str(tmp_path / 'third')!r}]\n",
        "space/one.py": "",
        "extended/__init__.py": extended,
    }
    found = app.run(sources, modules=["app", "space", "extended", "zipped"])
    names = ["space", "space.one", "space.two", "space.three", "extended", "extended.other"]
    assert_own_modules(found, [*names, "zipped", "zipped.inner", "app.added", "app.moved.added"])


def test_an_extension_module_is_refused_with_its_name_and_the_way_out(app: Application) -> None:
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    sources = {
        "app/__init__.py": "async def main():\n    from app.deep import fast\n",
        "app/deep/__init__.py": "",
        f"app/deep/fast{suffix}": "",
    }
    with pytest.raises(ImportError) as caught:
        app.run(sources)
    path = app.folder / "app" / "deep" / f"fast{suffix}"
    assert (caught.value.name, caught.value.path) == ("app.deep.fast", str(path))
    assert caught.value.msg == (
        f"the extension module app.deep.fast ({path}) cannot be imported once for each worker: let "
        "the workers share it, with 'python -m rloop --shared app.deep.fast' or "
        "rloop.run_workers(..., shared=['app.deep.fast'])"
    )


def test_modules_that_are_said_to_be_shared_are_shared(app: Application) -> None:
    extension = importlib.util.find_spec("multidict._multidict")
    assert extension is not None
    assert extension.origin is not None
    sources = {
        "app/__init__.py": """
            import app.common, app.common.inner, app.native._multidict, sys
            async def main():
                assert app.native._multidict is sys.modules["app.native._multidict"]
                assert app.native._multidict.MultiDict(key=1)["key"] == 1
                return app, app.native, app.common, app.common.inner, app.native._multidict
        """,
        "app/native/__init__.py": "",
        "app/common/__init__.py": "import recorder\nrecorder.record(__name__)\n",
        "app/common/inner.py": "import recorder\nrecorder.record(__name__)\n",
    }
    app.write(sources)
    source = Path(extension.origin)
    (app.folder / "app" / "native" / source.name).write_bytes(source.read_bytes())
    try:
        first, second = app.run({}, shared=["app.native._multidict", "app.common"])
    finally:
        for name in [name for name in sys.modules if name.startswith("app.")]:
            del sys.modules[name]
    same = [one is other for one, other in zip(first, second, strict=True)]
    assert same == [False, False, True, True, True]
    assert sorted(what for _, what in app.events) == ["app.common", "app.common.inner"]


def test_without_a_list_all_but_installed_modules_are_copied(
    app: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_modules(
        tmp_path,
        {
            "site-packages/installed_package/__init__.py": "",
            "site-packages/installed_module.py": "",
            "target/with_metadata.py": "",
            "target/with_metadata-1.0.dist-info/METADATA": "Name: with_metadata",
            "beside/space/part.py": "",
            "site-packages/space/installed.py": "",
        },
    )
    for folder in ("site-packages", "target", "beside"):
        monkeypatch.syspath_prepend(tmp_path / folder)
    names = [
        "app",
        "app.part",
        "beside",
        "space.part",
        "installed_package",
        "installed_module",
        "with_metadata",
        "space.installed",
        "json",
        "pytest",
    ]
    sources = {
        "app/__init__.py": f"""
            import importlib, sys
            async def main():
                return [importlib.import_module(name) for name in {names}]
        """,
        "app/part.py": "",
        "beside.py": "",
    }
    app.write(sources)
    try:
        found: list[list[Any]] = rloop.run_workers("app:main", workers=2)
    finally:
        for name in {*names, "space"} - {"json", "pytest"}:
            sys.modules.pop(name, None)
    copied = [name for name, one, other in zip(names, *found, strict=True) if one is not other]
    assert copied == ["app", "app.part", "beside", "space.part"]


@pytest.mark.skipif(sys.version_info < (3, 15), reason="PEP 810: lazy imports")
def test_lazy_imports_give_each_worker_its_own_module(app: Application) -> None:
    sources = {
        "app/__init__.py": """
            import sys
            lazy import app.first
            lazy import app.deep.second as second
            lazy from app import third
            lazy from app.fourth import value
            async def main():
                assert not [name for name in sys.modules if name.startswith("app.")]
                values = [app.first.value, second.value, third.value, value]
                return values, {name: module for name, module in sys.modules.items()}
        """,
        "app/deep/__init__.py": "",
        **{
            f"app/{name}.py": "import recorder\nrecorder.record(__name__)\nvalue = object()\n"
            for name in ("first", "deep/second", "third", "fourth")
        },
    }
    found = app.run(sources)
    names = ["app", "app.deep", "app.deep.second", "app.first", "app.fourth", "app.third"]
    assert_own_modules([modules for _, modules in found], names)
    assert not {id(value) for value in found[0][0]} & {id(value) for value in found[1][0]}
    assert [sorted(recorded) for recorded in app.recorded()] == [
        ["app.deep.second", "app.first", "app.fourth", "app.third"]
    ] * 2


MAIN_PROGRAM = {
    "main.py": """
        from __future__ import annotations
        import asyncio, dataclasses, pickle, sys, typing
        import rloop, helper
        from support.workers import say

        state = []

        @dataclasses.dataclass
        class Model:
            name: Name
            next: Model | None = None

        class Name(str): ...

        def find():
            return helper.find_main()

        async def main():
            import __main__
            index = rloop.current_worker().index
            assert __main__ is sys.modules["__main__"] is find()
            assert typing.get_type_hints(Model)["name"] is Name
            model = Model(Name("a"), Model(Name("b")))
            assert pickle.loads(pickle.dumps(model)) == model
            state.append(index)
            helper.state.append(index)
            say(__name__, index, __main__.state, helper.state, sys.argv[1:], __spec__ is None)

        if __name__ == "__main__":
            asyncio.run(main())
            say("end", rloop.current_worker().index)
    """,
    "helper.py": """
        state = []
        def find_main():
            import __main__
            return __main__
    """,
}


@pytest.mark.parametrize("kind", ["script", "module", "package"])
def test_main_is_each_workers_own(kind: str, tmp_path: Path) -> None:
    sources = {name: dedent(text) for name, text in MAIN_PROGRAM.items()}
    target = {"script": ["main.py"], "module": ["-m", "main"], "package": ["-m", "main"]}[kind]
    if kind == "package":
        sources["main/__main__.py"] = sources.pop("main.py")
        sources["main/__init__.py"] = ""
    write_modules(tmp_path, sources)
    arguments = ["-m", "rloop", "--workers", "2", *target, "one", "--two"]
    with program("-W", "ignore", *arguments, folder=tmp_path) as running:
        status, lines, error = running.end()
    assert (status, error) == (0, "")
    assert sorted(lines) == [
        *(
            f"__main__ {index} [{index}] [{index}] ['one', '--two'] {kind == 'script'}"
            for index in (0, 1)
        ),
        "end 0",
        "end 1",
    ]


def test_processes_that_a_worker_starts_are_processes_without_workers(tmp_path: Path) -> None:
    source = """
        import asyncio, concurrent.futures, multiprocessing, sys
        import helper
        from support.workers import say

        async def main():
            import rloop
            index = rloop.current_worker().index
            loop = asyncio.get_running_loop()
            context = multiprocessing.get_context("fork" if index else "spawn")
            with concurrent.futures.ProcessPoolExecutor(1, context) as executor:
                say(*await loop.run_in_executor(executor, helper.describe, index))

        if __name__ == "__main__":
            asyncio.run(main())
    """
    helper = """
        import rloop, sys
        def describe(index):
            try:
                rloop.current_worker()
            except RuntimeError:
                return index, __name__, type(sys.modules).__name__, rloop.TokioLoop()._worker
    """
    write_modules(tmp_path, {"main.py": dedent(source), "helper.py": dedent(helper)})
    arguments = ["-W", "ignore", "-m", "rloop", "--workers", "2", "main.py"]
    with program(*arguments, folder=tmp_path) as running:
        status, lines, error = running.end()
    assert (status, error) == (0, "")
    assert sorted(lines) == ["0 helper dict None", "1 helper _Modules None"]

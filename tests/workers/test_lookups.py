"""Lookups of a module or a class by its name find the worker's own."""

import logging
import os
from pathlib import Path

from support.applications import Application
from support.workers import program, several_workers

pytestmark = several_workers


def test_annotations_are_resolved_in_the_workers_own_module(app: Application) -> None:
    sources = {
        "app.py": """
            from __future__ import annotations
            import copy, dataclasses, inspect, typing, weakref
            from typing import ClassVar, Generic, NamedTuple, Optional, Protocol, TypedDict, TypeVar

            T = TypeVar("T")

            @dataclasses.dataclass(order=True)
            class Point:
                x: Number
                label: ClassVar[Text] = "point"
                initial: dataclasses.InitVar[Number | None] = None
                _: dataclasses.KW_ONLY
                next: Point | None = None

            @dataclasses.dataclass(slots=True, frozen=True)
            class Slotted(Generic[T]):
                item: Optional[Point] = dataclasses.field(default_factory=lambda: Point(2))

            @dataclasses.dataclass
            class Child(Point):
                extra: list[Slotted[Number]] = dataclasses.field(default_factory=list)

            class Row(NamedTuple):
                point: Point

            class Options(TypedDict, total=False):
                point: typing.Required[Point]

            class Named(Protocol):
                owner: Slotted

            def function(point: Point, *rest: Row) -> Options: ...

            class Number(int): ...
            class Text(str): ...

            def own(annotation):
                return annotation

            async def main():
                assert [field.name for field in dataclasses.fields(Point)] == ["x", "next"]
                assert Point.__init__.__defaults__ == (None,)
                child = Child(1, next=Point(2), extra=[Slotted()])
                assert dataclasses.asdict(child)["extra"] == [{"item": {"x": 2, "next": None}}]
                assert dataclasses.replace(child, x=3).x == 3 and Point(1) < Point(2)
                made = dataclasses.make_dataclass("Made", [("point", "Point")])
                assert copy.deepcopy(child) == child and made(child).point is child
                hints = {
                    found.__name__: typing.get_type_hints(found)
                    for found in (Point, Child, Slotted, Row, Options, Named, function)
                }
                assert hints["Point"]["next"] == Optional[Point]
                assert hints["Slotted"] == {"item": Optional[Point]}
                assert hints["Child"]["extra"] == list[Slotted[Number]]
                assert hints["function"] == {"point": Point, "rest": Row, "return": Options}
                signature = inspect.signature(function, eval_str=True)
                assert signature.return_annotation is Options
                return Point, hints["Row"]["point"], hints["Options"]["point"]
        """
    }
    found = app.run(sources)
    for first, *others in found:
        assert all(other is first for other in others)
    assert found[0][0] is not found[1][0]


def test_pickles_hold_names_and_load_as_the_workers_own(app: Application) -> None:
    sources = {
        "app/__init__.py": """
            import copy, copyreg, enum, functools, pickle, recorder
            from .models import Color, Flags, Node, Outer, Reduced, Slots, function

            pickles = []

            def make():
                node = Node("a", Color.RED, Flags.READ | Flags.WRITE)
                node.children = [Node("b", Color.BLUE, Flags.READ), Outer.Inner(), Slots(3)]
                return [node, function, Node, Color, Reduced(5), functools.partial(function, 1)]

            async def main():
                for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
                    if protocol > 1:
                        loaded = pickle.loads(pickle.dumps(make(), protocol))
                        assert repr(loaded) == repr(make())
                        assert type(loaded[0]) is Node and loaded[1] is function
                        assert loaded[0].children[0].color is Color.BLUE
                        # The pickler that is written in Python.
                        assert repr(pickle._loads(pickle._dumps(make(), protocol))) == repr(make())
                    recorder.record(pickle.dumps(Node("c", Color.RED, Flags.READ), protocol))
                copied, deep = copy.copy(make()[0]), copy.deepcopy(make())
                assert type(copied) is type(deep[0]) is Node and deep[2] is Node
                assert deep[0].color is Color.RED and deep[0].children[1].__class__ is Outer.Inner
                recorder.meet()
                loaded = [pickle.loads(data) for _, data in recorder.events]
                assert {type(node) for node in loaded} == {Node}
                foreign = recorder.exchange(make()[0])
                assert type(foreign) is not Node
                try:
                    pickle.dumps(foreign)
                except pickle.PicklingError as error:
                    return "it's not the same object as app.models.Node" in str(error)
        """,
        "app/models.py": """
            import copyreg, enum
            class Color(enum.Enum):
                RED = 1
                BLUE = "blue"
            class Flags(enum.IntFlag):
                READ = 1
                WRITE = 2
            class Node:
                def __init__(self, name, color, flags):
                    self.name, self.color, self.flags, self.children = name, color, flags, []
                def __repr__(self):
                    return f"Node({self.__dict__})"
            class Outer:
                class Inner:
                    def __repr__(self):
                        return "Inner"
            class Slots:
                __slots__ = ("value",)
                def __init__(self, value):
                    self.value = value
                def __repr__(self):
                    return f"Slots({self.value})"
            class Reduced:
                def __init__(self, value):
                    self.value = value
                def __repr__(self):
                    return f"Reduced({self.value})"
            copyreg.pickle(Reduced, lambda reduced: (Reduced, (reduced.value,)))
            def function(*arguments):
                return arguments
        """,
    }
    assert app.run(sources) == [True, True]


def test_classes_that_are_registered_are_the_workers_own(app: Application) -> None:
    sources = {
        "app/__init__.py": """
            import abc, collections.abc, functools

            @functools.singledispatch
            def describe(value):
                return "object"

            class Base:
                children = []
                def __init_subclass__(cls, **options):
                    cls.children.append(cls)

            class Meta(type):
                instances = {}
                def __new__(mcs, name, bases, namespace):
                    made = super().__new__(mcs, name, bases, namespace)
                    return mcs.instances.setdefault(name, made)

            class Abstract(abc.ABC):
                @functools.singledispatchmethod
                def method(self, value):
                    return "object"

            from . import plugins

            async def main():
                plugin = plugins.Plugin()
                assert Base.children == [plugins.Plugin, plugins.Other]
                assert Meta.instances == {"Made": plugins.Made}
                assert issubclass(plugins.Virtual, Abstract)
                assert describe(plugin) == "plugin" and describe(plugins.Other()) == "object"
                assert plugins.Concrete().method(plugin) == "plugin"
                assert isinstance(plugins.Sized(), collections.abc.Sized)
                match plugin:
                    case plugins.Other():
                        return None
                    case plugins.Plugin(name=name):
                        return name, plugins.Color["RED"], plugins.Color(1), plugins.A + 1
        """,
        "app/plugins.py": """
            import enum
            from app import Abstract, Base, Meta, describe
            class Plugin(Base):
                name = "own"
            class Other(Base): ...
            class Made(metaclass=Meta): ...
            @Abstract.register
            class Virtual: ...
            class Concrete(Abstract): ...
            class Sized:
                def __len__(self): return 0
            class Color(enum.Enum):
                RED = enum.auto()
            Mode = enum.IntEnum("Mode", "A B", module=__name__)
            enum.global_enum(Mode)
            @describe.register
            def _(value: Plugin):
                return "plugin"
            @Abstract.method.register
            def _(self, value: Plugin):
                return "plugin"
        """,
    }
    first, second = app.run(sources)
    assert first[0] == second[0] == "own"
    assert first[1] is first[2] is not second[1]
    assert first[3] == second[3] == 2


def test_loggers_have_the_names_of_modules_and_are_shared(app: Application) -> None:
    sources = {
        "app/__init__.py": """
            import logging
            from .service import work
            async def main():
                work()
                return logging.getLogger(__name__)
        """,
        "app/service.py": """
            import logging
            log = logging.getLogger(__name__)
            def work():
                log.warning("working")
        """,
    }
    records: list[tuple[str, str, str, str | None]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append((record.name, record.module, record.funcName, record.threadName))

    handler = Handler()
    logging.getLogger("app").addHandler(handler)
    try:
        found = app.run(sources)
    finally:
        logging.getLogger("app").removeHandler(handler)
    assert found == [logging.getLogger("app")] * 2
    assert sorted(records) == [
        ("app.service", "service", "work", "rloop-worker-0"),
        ("app.service", "service", "work", "rloop-worker-1"),
    ]


def test_resources_and_sources_are_found_by_the_modules_of_a_worker(app: Application) -> None:
    sources = {
        "app/__init__.py": """
            import importlib.resources, inspect, os, pkgutil, sys, traceback
            from .code import Class, fail, function

            async def main():
                text = importlib.resources.files(__name__).joinpath("data.txt").read_text()
                assert text == pkgutil.get_data(__name__, "data.txt").decode() == "data"
                with importlib.resources.as_file(importlib.resources.files("app.sub")) as folder:
                    assert "more.txt" in os.listdir(folder)
                names = [module.name for module in pkgutil.walk_packages(__path__, "app.")]
                assert names == ["app.code", "app.sub", "app.sub.module"]
                assert pkgutil.resolve_name("app.code:Class.method") is Class.method
                try:
                    fail()
                except LookupError as error:
                    lines = traceback.format_exception(error)
                assert 'raise LookupError("here")' in "".join(lines)
                module = inspect.getmodule(function)
                assert module is sys.modules["app.code"] is inspect.getmodule(Class)
                assert inspect.stack()[0].function == "main"
                return inspect.getsource(function), inspect.getsource(Class), inspect.getfile(Class)
        """,
        "app/data.txt": "data",
        "app/sub/__init__.py": "",
        "app/sub/module.py": "",
        "app/sub/more.txt": "",
        "app/code.py": """
            def function(): ...
            class Class:
                def method(self):
                    return 42
            def fail():
                raise LookupError("here")
        """,
    }
    found = app.run(sources)
    assert found[0] == found[1]
    assert found[0][0] == "def function(): ...\n"
    assert found[0][1].startswith("class Class:\n    def method(self):")
    assert found[0][2] == str(app.folder / "app" / "code.py")


def test_pydantic_models_refer_to_classes_of_their_own_module(app: Application) -> None:
    sources = {
        "app.py": """
            from __future__ import annotations
            import pickle, typing
            from pydantic import BaseModel, TypeAdapter, dataclasses, field_validator

            class Node(BaseModel):
                name: Name
                value: Leaf | Branch
                children: list[Node] = []

                @field_validator("name", mode="after")
                @classmethod
                def check(cls, value: Name) -> Name:
                    return value.upper()

            class Leaf(BaseModel):
                kind: typing.Literal["leaf"]

            class Branch(BaseModel):
                kind: typing.Literal["branch"]
                leaves: tuple[Leaf, ...]

            @dataclasses.dataclass
            class Holder:
                node: Node

            Name = typing.Annotated[str, "name"]

            async def main():
                data = {"name": "a", "value": {"kind": "branch", "leaves": [{"kind": "leaf"}]}}
                node = Node.model_validate({**data, "children": [data]})
                assert type(node.value) is Branch and type(node.value.leaves[0]) is Leaf
                assert type(node.children[0]) is Node and node.children[0].name == "A"
                assert Node.model_validate_json(node.model_dump_json()) == node
                assert pickle.loads(pickle.dumps(node)) == node
                assert TypeAdapter(list[Holder]).validate_python([{"node": node}])[0].node is node
                assert "Branch" in Node.model_json_schema()["$defs"]
                return Node, Branch
        """
    }
    for first, second in zip(*app.run(sources), strict=True):
        assert first is not second


def test_sqlalchemy_models_are_mapped_once_for_each_worker(app: Application) -> None:
    sources = {
        "app/__init__.py": """
            import sqlalchemy
            from sqlalchemy import orm
            from .models import Author, Base, Book

            async def main():
                engine = sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.StaticPool)
                Base.metadata.create_all(engine)
                with orm.Session(engine) as session:
                    session.add(Author(name="A", books=[Book(title="one"), Book(title="two")]))
                    session.commit()
                    found = session.scalars(sqlalchemy.select(Book).join(Author)).all()
                    assert [book.author.name for book in found] == ["A", "A"]
                    assert {type(book) for book in found} == {Book}
                engine.dispose()
                return Base, Author, Base.registry, Base.metadata
        """,
        "app/models.py": """
            from __future__ import annotations
            from sqlalchemy import ForeignKey
            from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

            class Base(DeclarativeBase): ...

            class Author(Base):
                __tablename__ = "author"
                id: Mapped[int] = mapped_column(primary_key=True)
                name: Mapped[str]
                books: Mapped[list[Book]] = relationship(back_populates="author")

            class Book(Base):
                __tablename__ = "book"
                id: Mapped[int] = mapped_column(primary_key=True)
                title: Mapped[str | None]
                author_id: Mapped[int] = mapped_column(ForeignKey("author.id"))
                author: Mapped[Author] = relationship("Author", back_populates="books")
        """,
    }
    for first, second in zip(*app.run(sources), strict=True):
        assert first is not second


DJANGO = {
    "mysite/settings.py": """
        SECRET_KEY = "test"
        INSTALLED_APPS = ["plugin", "polls"]
        ROOT_URLCONF = "mysite.urls"
        DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
        ALLOWED_HOSTS = ["*"]
    """,
    "mysite/urls.py": """
        from django.urls import path
        from polls.views import index
        urlpatterns = [path("", index)]
    """,
    "mysite/asgi.py": """
        import os
        from django.core.asgi import get_asgi_application
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
        application = get_asgi_application()
    """,
    "polls/models.py": """
        from django.db import models
        from plugin.models import Plugged
        class Question(models.Model):
            text = models.CharField(max_length=100)
        class Choice(Plugged):
            question = models.ForeignKey("Question", models.CASCADE)
    """,
    "polls/views.py": """
        from django.http import JsonResponse
        from polls.models import Choice, Question
        async def index(request):
            related = Choice._meta.get_field("question").related_model
            return JsonResponse({"own": related is Question})
    """,
    "target/plugin/models.py": """
        from django.db import models
        class Plugged(models.Model):
            number = models.IntegerField()
            class Meta:
                abstract = True
    """,
    "target/plugin-1.0.dist-info/METADATA": "Name: plugin\nRequires-Dist: Django >=5",
    "target/plugin-1.0.dist-info/RECORD": "plugin/models.py,,\n",
    "target/unrelated.py": "",
    "target/unrelated-1.0.dist-info/METADATA": "Name: unrelated\nRequires-Dist: django-free",
    "main.py": """
        import asyncio, sys
        from support.workers import say
        import unrelated

        async def main():
            from mysite.asgi import application
            from django.apps import apps
            from django.conf import settings
            from django.test import AsyncClient
            import asgiref, plugin.models, polls.models
            response = await AsyncClient().get("/")
            say(response.json(), settings.SECRET_KEY)
            assert apps.get_model("polls.Question") is polls.models.Question
            assert plugin.models.models is polls.models.models
            say("own", *map(id, (settings, apps, polls.models, plugin.models)))
            say("shared", *map(id, (unrelated, asgiref)))

        asyncio.run(main())
    """,
}


def test_django_registers_the_models_of_each_worker_in_a_copy_of_its_own(app: Application) -> None:
    # In a process of its own: asgiref starts a thread that does not end.
    app.write(DJANGO)
    arguments = ["-W", "ignore", "-W", "error:Model", "-m", "rloop", "--workers", "2", "main.py"]
    path = os.pathsep.join([str(Path(__file__).parent.parent), str(app.folder / "target")])
    with program(*arguments, folder=app.folder, environment={"PYTHONPATH": path}) as running:
        status, lines, error = running.end()
    assert (status, error) == (0, "")
    assert lines.count("{'own': True} test") == 2
    for kind, is_same in (("own", False), ("shared", True)):
        first, second = (line.split()[1:] for line in lines if line.startswith(kind))
        assert [one == other for one, other in zip(first, second, strict=True)] == [is_same] * len(
            first
        )

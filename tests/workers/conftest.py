"""An application for tests of workers, with a module ``recorder`` that its workers share."""

import sys
import types
from pathlib import Path

import pytest

from support.applications import Application


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Application:
    folder = tmp_path / "application"
    folder.mkdir()
    application = Application(folder)
    recorder = types.ModuleType("recorder")
    for name, value in {
        "events": application.events,
        "exchange": application.exchange,
        "meet": application.meeting.wait,
        "record": application.record,
    }.items():
        setattr(recorder, name, value)
    monkeypatch.setitem(sys.modules, "recorder", recorder)
    monkeypatch.syspath_prepend(folder)
    return application

"""An application for tests of workers, with a module ``recorder`` that its workers share."""

import sys
from pathlib import Path

import pytest

from support.applications import Application


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Application:
    folder = tmp_path / "application"
    folder.mkdir()
    application = Application(folder)
    application.share(
        events=application.events,
        exchange=application.exchange,
        meet=application.meeting.wait,
        record=application.record,
    )
    monkeypatch.setitem(sys.modules, "recorder", application.recorder)
    monkeypatch.syspath_prepend(folder)
    return application

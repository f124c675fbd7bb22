"""`import rloop` of an installation that has files of another distribution fails and says so.

PyPI's ``rloop`` is another project. Its files here are made up: they have its names, and import
each other as they do. ``nox -s mixed`` installs the real ones.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rloop
from rloop import _rloop

THEIRS = {
    "__init__.py": "from ._compat import policy\nfrom .loop import RLoop\n",
    "_compat.py": "policy = object\n",
    "loop.py": "from ._compat import policy\nclass RLoop: pass\n",
    "server.py": "from . import _compat\n",
}
"""The files of the other distribution; `__init__.py` and `loop.py` are also names of ours."""

OURS = Path(rloop.__file__).parent


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of our package, in a folder that `import_from` puts on the path."""
    copy = tmp_path / "rloop"
    shutil.copytree(OURS, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def import_from(package: Path) -> subprocess.CompletedProcess[str]:
    """Import the package in another interpreter, from its folder's folder."""
    return subprocess.run(
        [sys.executable, "-c", "import rloop; print(rloop.__file__)"],
        capture_output=True,
        check=False,
        cwd=package.parent,
        text=True,
    )


def assert_is_refused(package: Path) -> None:
    outcome = import_from(package)
    assert outcome.returncode == 1, outcome.stdout
    message = outcome.stderr.splitlines()[-1]
    assert message.startswith(f"ImportError: the folder {package} has files of two distributions")
    assert "'pip uninstall --yes tokioloop rloop'" in message


def test_import_of_our_files_alone_succeeds(installed: Path) -> None:
    outcome = import_from(installed)
    assert outcome.stdout == f"{installed / '__init__.py'}\n", outcome.stderr


def test_import_fails_where_they_were_installed_over_us(installed: Path) -> None:
    for name, text in THEIRS.items():
        (installed / name).write_text(text, encoding="utf-8")
    assert_is_refused(installed)


def test_import_fails_where_we_were_installed_over_them(installed: Path) -> None:
    for name, text in THEIRS.items():
        if not (installed / name).exists():
            (installed / name).write_text(text, encoding="utf-8")
    assert_is_refused(installed)


@pytest.mark.parametrize("name", ["__init__.py", "_compat.py", "loop.py"])
def test_import_fails_if_one_file_is_theirs(name: str, installed: Path) -> None:
    """Installers that write in parallel leave any mixture of the common names."""
    (installed / name).write_text(THEIRS[name], encoding="utf-8")
    assert_is_refused(installed)


def test_import_fails_if_the_extension_module_is_of_another_build(installed: Path) -> None:
    (installed / Path(_rloop.__file__).name).unlink()
    (installed / "_rloop.py").write_text("__version__ = '0.5.0'\n", encoding="utf-8")
    outcome = import_from(installed)
    assert outcome.returncode == 1, outcome.stdout
    assert "_rloop.py is not the extension module of tokioloop" in outcome.stderr
    assert "pip install --force-reinstall tokioloop==" in outcome.stderr

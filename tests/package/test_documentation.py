"""Every Python program in docs/ runs and prints what the page says.

A program is a fenced block marked ``python``; what it prints is in a block marked ``text`` right
below it. A block without one is a fragment, which is not run.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.programs import run_program

DOCUMENTS = Path(__file__).parents[2] / "docs"
PROGRAM = re.compile(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```\n", re.DOTALL | re.MULTILINE)


def programs() -> Iterator[object]:
    """Find the programs and what they print, named after the page and the heading above each."""
    for page in sorted(DOCUMENTS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for match in PROGRAM.finditer(text):
            heading = re.findall(r"^#+ (.*)$", text[: match.start()], re.MULTILINE)[-1]
            yield pytest.param(*match.groups(), id=f"{page.name}: {heading}")


@pytest.mark.skipif(sys.version_info < (3, 14), reason="a loop of several threads needs 3.14")
@pytest.mark.parametrize(("program", "output"), list(programs()))
def test_a_documented_program_prints_what_the_page_says(program: str, output: str) -> None:
    outcome = run_program(program, "rloop")
    assert (outcome.returncode, outcome.stdout) == (0, output), outcome.stderr

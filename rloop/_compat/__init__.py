"""Raises ImportError: this folder has files of two distributions.

The distribution ``rloop`` on PyPI is another project, which is imported by the same name. Its
``__init__`` first imports its module ``_compat``. Python prefers this package to a module of that
name, so the import ends here if that distribution was installed over this one. If this one was
installed over that one, ``rloop/_installation.py`` finds ``_compat.py`` and imports this package.
"""

import os

raise ImportError(
    f"the folder {os.path.dirname(os.path.dirname(__file__))} has files of two distributions, "
    "tokioloop (TokioLoop) and rloop (another project), which are both imported as rloop. "
    "Neither works like that: run 'pip uninstall --yes tokioloop rloop', then install one of them"
)

"""Progress bars where someone watches, and nothing where a program does.

A notebook that nbclient, nbval or a build executes gets no bar, so its outputs hold no times and stay
comparable. `COURSEKIT_QUIET=1` silences bars everywhere.
"""

import os
import sys

FRONT_ENDS = (
    "JPY_SESSION_NAME",
    "COLAB_RELEASE_TAG",
    "VSCODE_PID",
    "VSCODE_CWD",
)  # set by JupyterLab, Colab, VS Code


def audience():
    """Who watches: "notebook" (JupyterLab, Colab, VS Code), "terminal", or None.

    Kernels started by nbclient or nbval look like any other, so a notebook counts only where a front end has
    said that it is there.
    """
    from coursekit.plot import in_notebook

    if os.environ.get("COURSEKIT_QUIET", "0") not in ("", "0") or "PYTEST_VERSION" in os.environ:
        return None
    if in_notebook():
        return "notebook" if any(name in os.environ for name in FRONT_ENDS) else None
    return "terminal" if sys.stderr is not None and sys.stderr.isatty() else None


def progress_bar(*arguments, **options):
    """A tqdm bar (arguments as tqdm's), which shows itself only where someone watches."""
    from tqdm.auto import tqdm

    return tqdm(*arguments, disable=audience() is None, **options)

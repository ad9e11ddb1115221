"""The command `adapterhub`: errors in one line, data on stdout, everything else on stderr.

Exit codes: 0 ok, 1 other, 2 usage, 3 not found, 4 ambiguous, 5 authentication, 6 integrity, 7 network, 8 policy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; `sys.argv` if None.

    Returns:
        The exit code. As a console script, this is the code of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments in (["--version"], ["-V"]):  # the one answer that needs nothing loaded
        from adapterhub.client.__about__ import __version__

        print(f"adapterhub-client {__version__}")
        return 0
    from adapterhub.client.cli.run import run

    code = run(arguments)
    _flush()
    return code


def _flush() -> None:
    """Write out what is left; a reader that went away (`adapterhub search | head`) is no error."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

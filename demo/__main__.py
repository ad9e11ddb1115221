"""`make demo`: introduce, train, extract, publish, see, find, fetch, stitch and predict, with every claim checked.

    python -m demo [--keep] [--folder .demo]

Ends with status 0 if every claim is so, 1 otherwise. The hub it starts is stopped again unless --keep is given.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from adapterhub.spec import AdapterHubError
from demo.hub import Hub
from demo.report import DemoError, Report, console, waiting


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keep", action="store_true", help="leave the hub running and print its address")
    parser.add_argument("--folder", type=Path, default=Path(".demo"), help="where inputs are kept and this run works")
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    hub = Hub(run / "hub", run / "hub.log")
    report = Report()
    keep = False
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with waiting("loading PyTorch"):
            from demo import steps
        steps.life_cycle(folder, hub, report)
        keep = options.keep
        if keep:
            hub.start()
    except (DemoError, AdapterHubError) as error:
        report.broken.append(str(error))
    except KeyboardInterrupt:
        report.broken.append("interrupted")
    finally:
        if not keep:
            hub.stop()
    report.print_summary()
    if keep:
        process = hub.process
        console.print(
            f"The hub goes on at {hub.endpoint} (process {process.pid if process else '?'}; end it with kill)."
        )
    if report.broken:
        return 1
    console.print("[bold green]Everything is as claimed.[/bold green]")
    return 0


if __name__ == "__main__":
    sys.exit(main())

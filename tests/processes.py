"""Commands started as processes of their own, waited for by what they do, and looked for afterwards."""

import os
import subprocess
import sys
import time
from pathlib import Path

COMMAND = [sys.executable, "-c", "import sys; from scalesim.cli import main; sys.exit(main())"]
LONGEST = 600.0  # seconds for anything that is waited for, on a busy machine


def started(*args, **options):
    """Start a command in a session of its own, whose processes can be told from others."""
    return subprocess.Popen(
        [*COMMAND, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        **options,
    )


def left_of(session):
    """Return the processes of a session that are still there."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, _, _, of = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:4]
            except OSError:
                continue
            if int(of) == session and state != "Z":
                found.append(folder.name)
    return found


def waited_for(condition, running=None, seconds=LONGEST):
    """Wait until something holds, as long as a busy machine may take, or until a process ends before."""
    until = time.monotonic() + seconds
    while not condition():
        assert running is None or running.poll() is None, running.communicate()
        assert time.monotonic() < until, "what was waited for did not come"
        time.sleep(0.02)

"""Launches one sandbox as its caller, who may be an ordinary user: reads JSON from stdin, prints JSON.

Standard library and workbench.sandbox only, so that any Python 3.11 can run it.
"""

import json
import subprocess
import sys
from pathlib import Path

from workbench.sandbox import PYTHON, Limits, Sandbox, launch

spec = json.load(sys.stdin)
running = launch(
    Sandbox(
        command=[PYTHON if part == "PYTHON" else part for part in spec["command"]],
        env=spec.get("env", {}),
        read_only={Path(path): inside for path, inside in spec.get("read_only", {}).items()},
        writable={Path(path): inside for path, inside in spec.get("writable", {}).items()},
        home=Path(spec["home"]) if spec.get("home") else None,
        forwards={int(port): path for port, path in spec.get("forwards", {}).items()},
        limits=Limits(**spec.get("limits", {})),
        outlives_launcher=spec.get("outlives_launcher", False),
    ),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
)
if spec.get("announce"):
    print(json.dumps({"child_pid": running.child_pid, "started": running.started}), flush=True)
assert running.process.stdout is not None
said = running.process.stdout.read().decode(errors="replace")
print(json.dumps({"code": running.wait(), "said": said}))

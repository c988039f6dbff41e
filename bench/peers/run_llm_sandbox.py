"""Runs in the environment of llm-sandbox: for each line on stdin, one session (one container) as its README has it,
with the image and the engine that our own adapter uses; prints what the program printed.

Each session makes a virtual environment and upgrades pip in it: the library has no switch for that. Pip is told to
look nowhere, and the container gets an init, or its end would take ten seconds.
"""

from __future__ import annotations

import sys

from llm_sandbox import SandboxSession

SOURCE = "import os\nos.makedirs('out', exist_ok=True)\nopen('out/answer', 'w').write('42')\nprint(6 * 7)\n"
CONTAINER = {
    "command": ["sleep", "600"],
    "init": True,
    "environment": {"PIP_NO_INDEX": "1"},
    "network_mode": "none",
}


def main() -> None:
    """One line in, one line out."""
    for _ in sys.stdin:
        with SandboxSession(
            lang="python", image=sys.argv[1], runtime_configs=CONTAINER, verbose=False
        ) as session:
            print(session.run(SOURCE).stdout.strip(), flush=True)


if __name__ == "__main__":
    main()

# mypy: ignore-errors
"""Runs programs as processes of their own without paying for the import of pandas each time.

Started under the programs' interpreter with their libraries. Reads lines of JSON {"folder"}, forks, runs
main.py there with output to the files stdout and stderr, answers {"exit_code"}.
"""

import json
import os
import runpy
import sys
import traceback
from typing import NoReturn

import matplotlib
import numpy
import pandas

assert numpy and pandas
matplotlib.use("Agg")
import matplotlib.pyplot  # noqa: E402  # the slowest import, after its backend is chosen


def run(folder: str) -> NoReturn:
    """Become the program."""
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    code = 0
    try:
        runpy.run_path("main.py", run_name="__main__")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001  # as the interpreter does for any program
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


for line in sys.stdin:
    child = os.fork()
    if child == 0:
        run(json.loads(line)["folder"])
    _, status = os.waitpid(child, 0)
    sys.stdout.write(json.dumps({"exit_code": os.waitstatus_to_exitcode(status)}) + "\n")
    sys.stdout.flush()

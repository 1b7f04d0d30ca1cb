# SPDX-License-Identifier: Apache-2.0
"""Instructions of one process by function, counted by callgrind."""

import collections
import os
import pathlib
import re
import subprocess
import tempfile


def stripped(executable, folder):
    """A copy without debug information, which older valgrinds cannot read; the symbols stay."""
    copy = pathlib.Path(folder) / pathlib.Path(executable).name
    subprocess.run(["strip", "-g", "-o", str(copy), str(executable)], check=True)
    return copy


def count(executable, arguments, environment=None):
    """Instructions spent in each function itself, as a Counter by name."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out"
        run = subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", str(executable), *map(str, arguments)],
            capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})},
        )
        if run.returncode != 0:
            raise SystemExit(f"{executable} {arguments} ended with {run.returncode}:\n{run.stdout}{run.stderr}")
        return self_cost(out.read_text(errors="replace").splitlines())


def self_cost(lines):
    """Reads a callgrind profile: `fn=(id) name`, then lines of cost; the line after `calls=` is the callee's."""
    names, cost = {}, collections.Counter()
    function, callee_cost_follows = None, False
    for line in lines:
        if line.startswith("fn="):
            identifier, name = re.match(r"fn=(\(\d+\))(?: (.*))?", line).groups()
            function = names.setdefault(identifier, name) or names[identifier]
        elif line.startswith("cfn="):
            identifier, name = re.match(r"cfn=(\(\d+\))(?: (.*))?", line).groups()
            names.setdefault(identifier, name)
        elif line.startswith("calls="):
            callee_cost_follows = True
        elif line[:1].isdigit() or line[:1] in "+-*":
            fields = line.split()  # position, instructions; a cost of zero may be left out
            if not callee_cost_follows and len(fields) > 1:
                cost[function] += int(fields[1])
            callee_cost_follows = False
    return cost


def per_operation(executable, case, operations, environment=None):
    """Instructions per operation by function: the difference of two lengths of run, so that start-up cancels."""
    short = count(executable, [case, operations], environment)
    long = count(executable, [case, operations * 3], environment)
    return {
        name: (long[name] - short[name]) / (operations * 2) for name in long if long[name] != short[name]
    }

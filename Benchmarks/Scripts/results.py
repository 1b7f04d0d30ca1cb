# SPDX-License-Identifier: Apache-2.0
"""Where results are kept: figures as JSON in .build/results, and the report's sections between their marks."""

import datetime
import json
import os
import pathlib
import platform
import subprocess

BENCHMARKS = pathlib.Path(__file__).resolve().parent.parent
ROOT = BENCHMARKS.parent
REPORT = BENCHMARKS / "REPORT.md"
FIGURES = BENCHMARKS / ".build" / "results"
# What a figure depends on: all but what the runs themselves write.
SOURCES = ["--", ":(top)", ":(top,exclude)Benchmarks/REPORT.md", ":(top,exclude)Benchmarks/ratios.svg"]


def machine():
    """The machine in one line, for the report."""
    model = "unknown processor"
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith(("model name", "Model")):
                model = line.split(":", 1)[1].strip()
                break
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}"


def revision():
    """The commit that was measured; marked where the tree differs from it."""
    def git(*arguments):
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        ).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + (" with changes" if git("status", "--porcelain", *SOURCES) else "")


def today():
    return datetime.date.today().isoformat()


def save(name, figures):
    FIGURES.mkdir(parents=True, exist_ok=True)
    (FIGURES / f"{name}.json").write_text(json.dumps(figures, indent=1))


def load(name):
    path = FIGURES / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def table(header, rows, left=1):
    """A Markdown table; the first `left` columns are aligned left, the others right."""
    rule = ["---" if column < left else "---:" for column in range(len(header))]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [header, rule, *rows])


def write_section(name, text):
    """Replaces the section `name` of the report, or appends it."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    report = REPORT.read_text() if REPORT.exists() else "# Benchmark report\n"
    section = f"{begin}\n{text.strip()}\n{end}"
    if begin in report:
        head, rest = report.split(begin, 1)
        report = head + section + rest.split(end, 1)[1]
    else:
        report = report.rstrip() + "\n\n" + section + "\n"
    REPORT.write_text(report)


def build(product, package=BENCHMARKS):
    """Builds a product for release and returns the folder that it is in."""
    swift = ["swift", "build", "-c", "release"]
    subprocess.run([*swift, "--product", product], cwd=package, check=True)
    folder = subprocess.run([*swift, "--show-bin-path"], cwd=package, check=True, capture_output=True, text=True)
    return pathlib.Path(folder.stdout.strip())


def build_dropin():
    """Builds libibverbs.so.1 and librdmacm.so.1 and returns the folder that they are in."""
    subprocess.run([str(ROOT / "Dropin" / "build")], check=True)
    return ROOT / ".build-dropin" / "lib"


def compile_peer(name, *libraries):
    """Compiles Peers/NAME.c, against libraries that the package itself must not need."""
    program = BENCHMARKS / ".build" / name
    source = BENCHMARKS / "Peers" / f"{name}.c"
    subprocess.run(["clang", "-O2", "-o", str(program), str(source), *(f"-l{library}" for library in libraries)], check=True)
    return program

# SPDX-License-Identifier: Apache-2.0
"""Counts the instructions of post + poll: C through verbs.h's inline functions beside Swift through `Verbs`."""

import argparse
import pathlib
import tempfile

import callgrind
import results

# Operation, the C cases, the Swift cases.
ROWS = [
    ("SEND, one post and one poll", "send-idiom", "send-careful", "send-raw", "send-owned"),
    ("SEND, 16 posts with one doorbell, one poll", "batch-idiom", "batch-careful", "batch-raw", "batch-owned"),
    ("RECEIVE, one post and one poll", "receive-idiom", "receive-careful", "receive-raw", "receive-owned"),
]
COLUMNS = ["C idiom", "C careful", "Swift raw", "Swift ownership"]
PROGRAMS = {"instructions-c": slice(0, 2), "instructions-swift": slice(2, 4)}
PROVIDER = "counting_"


def measure(executable, case, operations, environment):
    """Instructions per operation outside and inside the provider."""
    by_function = callgrind.per_operation(executable, case, operations, environment)
    provider = sum(cost for name, cost in by_function.items() if name and name.startswith(PROVIDER))
    return {"client": sum(by_function.values()) - provider, "provider": provider, "functions": by_function}


def counted(rows, operations):
    """All figures by case name; both programs post to the same provider."""
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        library = results.build("CountingVerbs") / "libCountingVerbs.so"
        callgrind.stripped(library, folder).rename(pathlib.Path(folder) / "libibverbs.so.1")
        environment = {"LD_LIBRARY_PATH": folder, "VERBS_PROVIDER": "system"}
        for program, columns in PROGRAMS.items():
            cases = [case for _, *row in rows for case in row[columns]]
            executable = callgrind.stripped(results.build(program) / program, folder)
            figures |= {case: measure(executable, case, operations, environment) for case in cases}
    return figures


def cell(figures, case):
    return f"{figures[case]['client']:.1f}"


def ratio(figures, case, reference):
    return f"{figures[case]['client'] / figures[reference]['client']:.2f}"


def report(rows, figures):
    """The table in Markdown: what the caller spends, and what the provider spends beside it."""
    lines = []
    for operation, idiom, careful, raw, owned in rows:
        cells = [cell(figures, case) for case in (idiom, careful, raw, owned)]
        ratios = [ratio(figures, raw, idiom), ratio(figures, raw, careful), ratio(figures, owned, idiom)]
        lines.append([operation, *cells, *ratios, f"{figures[idiom]['provider']:.1f}"])
    header = ["operation", *COLUMNS, "raw / idiom", "raw / careful", "ownership / idiom", "provider"]
    return results.table(header, lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=16000, help="operations of the shorter run")
    parser.add_argument("--smoke", action="store_true", help="one small count of each program; writes no report")
    options = parser.parse_args()

    if options.smoke:
        figures = counted(ROWS[:1], 1600)
        print(report(ROWS[:1], figures))
        return
    figures = counted(ROWS, options.operations - options.operations % 16)
    table = report(ROWS, figures)
    print(table)
    results.save("instructions", {case: {k: figures[case][k] for k in ("client", "provider")} for case in figures})
    results.write_section(
        "instructions",
        "## Instructions per operation\n\n"
        f"{results.today()}, {results.machine()}, commit {results.revision()}. Instructions of the caller for one work "
        "request, from filling it to having judged its completion; the provider's own are in the last column and are "
        "the same for all. Counted by callgrind as the difference of two lengths of run.\n\n" + table,
    )


if __name__ == "__main__":
    main()

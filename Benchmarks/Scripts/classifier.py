# SPDX-License-Identifier: Apache-2.0
"""The classifier in user space beside DPDK's rte_acl, on the same rules and packets, by turns."""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import tempfile

import results

KINDS = {"acl": "access list", "fw": "firewall", "ipc": "chains"}
COUNTS = (1_000, 10_000, 100_000)
TARGETS = {"acl": 10e6, "fw": 4e6}
SEED = 1
SCRATCH = results.BENCHMARKS / ".build" / "classifier"


def build():
    """The classifier is no product: its benchmark is a target of the main package, which this variable adds."""
    command = ["swift", "build", "-c", "release", "--package-path", str(results.ROOT), "--scratch-path", str(SCRATCH)]
    environment = os.environ | {"CLASSIFIER_BENCHMARK": "1"}
    subprocess.run([*command, "--product", "classifier"], env=environment, check=True)
    return SCRATCH / "release" / "classifier"


def on_one_core(priority):
    return ["chrt", "-f", "10", "taskset", "-c", "1"] if priority else ["taskset", "-c", "1"]


def ours(program, rule_set, priority):
    command = [*on_one_core(priority), program, "measure", rule_set]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peer(program, rule_set, count, priority, limit, memory):
    """Lookups in a second of dpdk-test-acl; None where it cannot build its tables in the time and memory given."""
    with tempfile.TemporaryDirectory() as folder:
        rules, trace = pathlib.Path(folder) / "rules", pathlib.Path(folder) / "trace"
        subprocess.run([program, "files", rule_set, rules, trace], check=True)
        # A file goes to rte_acl as it is: it has ranges of ports, which our rules do not have.
        file = rules if ":" in rule_set else rule_set
        command = [
            *(["chrt", "-f", "10"] if priority else []),
            "dpdk-test-acl", "--no-huge", "--no-pci", "-m", str(memory), "-l", "1", "--", f"--rulesf={file}",
            f"--tracef={trace}", "--iter=5", "--verbose=1", f"--tracenum={200_000}", f"--rulenum={count}",
        ]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            return None, f"not built in {limit} s"
        found = re.search(r"@lcore 1: .* ([0-9.]+) pkt/sec", run.stdout + run.stderr)
        return (float(found.group(1)), "") if found else (None, f"failed with status {run.returncode}")


def row(name, target, figures, rate, why):
    mine = statistics.median(figures["lookups"])
    verdict = f"≥ {target / 1e6:.0f} M, {'met' if mine >= target else '**missed**'}" if target else ""
    more = f" ({figures['values']:,} of ours)" if figures["values"] != figures["rules"] else ""
    return [
        name, f"{figures['rules']:,}{more}", f"**{mine / 1e6:.1f} M**",
        f"{min(figures['lookups']) / 1e6:.1f} to {max(figures['lookups']) / 1e6:.1f} M", verdict,
        f"{rate / 1e6:.2f} M" if rate else why, f"**{mine / rate:.2f}**" if rate else "",
        f"{figures['changes'] / 1e3:.0f} k with {figures['lookups_meanwhile'] / 1e6:.1f} M lookups",
        f"{figures['tables']}", f"{figures['build']:.1f} s",
    ]


def ratio_target(everything):
    """Whether five times the lookups of rte_acl were reached where the rules are many."""
    compared = [figures for figures in everything if figures["rules"] >= COUNTS[-1] * 0.75 and figures["peer"]]
    missed = [
        f"{figures['name']} ({ratio:.1f})" for figures in compared
        if (ratio := statistics.median(figures["lookups"]) / figures["peer"]) < 5
    ]
    verdict = f"**missed** on: {', '.join(missed)}" if missed else "met"
    return f"The aim of five times its lookups at {COUNTS[-1]:,} rules is {verdict}.\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--priority", action="store_true", help="run with real-time priority, which a busy machine needs")
    parser.add_argument("--limit", type=int, default=120, help="seconds that rte_acl may build for")
    parser.add_argument("--memory", type=int, default=8192, help="MiB that rte_acl may use")
    parser.add_argument("--only", help="kinds, comma-separated: acl,fw,ipc")
    parser.add_argument("--rules", nargs="+", help="files in ClassBench's format, instead of generated sets")
    options = parser.parse_args()
    program = build()
    if options.rules:
        sets = [(pathlib.Path(path).name, str(pathlib.Path(path).resolve()), None) for path in options.rules]
    else:
        sets = [
            (KINDS[kind], f"{kind}:{count}:{SEED}", TARGETS.get(kind) if count == COUNTS[-1] else None)
            for kind in (options.only.split(",") if options.only else KINDS) for count in COUNTS
        ]
    rows, everything = [], []
    for name, rule_set, target in sets:
        figures = ours(program, rule_set, options.priority)
        if figures["wrong"]:
            raise SystemExit(f"{name}: {figures['wrong']} of 512 packets were given to the wrong rule")
        rate, why = peer(program, rule_set, figures["rules"], options.priority, options.limit, options.memory)
        everything.append({"name": name, **figures, "peer": rate})
        rows.append(row(name, target, figures, rate, why))
        print(rows[-1], flush=True)
    section = "classifier-files" if options.rules else "classifier"
    results.save(section, everything)
    header = [
        "rules", "number", "lookups/s, median of 7", "spread", "target", "rte_acl", "ours / rte_acl",
        "inserts and deletes/s", "tables", "build",
    ]
    title, what = ("Flow classifier", "generated rule sets (Sources/Classifier)")
    if options.rules:
        title, what = ("Flow classifier, rule sets of files", "rule sets in ClassBench's format, whose ranges of ports are several of our rules each")
    text = (
        f"## {title}\n\n{results.today()}, {results.machine()}, commit {results.revision()}. One core"
        f"{', real-time priority' if options.priority else ''}; {what}, 200,000 packets drawn"
        " from the rules, other bits at random, no flow cache. rte_acl is dpdk-test-acl of DPDK 22.11 with the same rules and"
        " packets, right after ours; 512 packets of each set were compared with a linear search. Inserts and deletes are counted"
        " while one batch of 32 packets is looked up after each pair of them.\n\n"
        + results.table(header, rows)
        + "\n\nrte_acl compiles all rules into one automaton, which no rule is added to or taken from after that; on few rules it is"
        " several times faster than hash tables.\n"
        + ratio_target(everything)
    )
    results.write_section(section, text)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Throughput of the software device with 1, 8, 64 and 1,024 queue pairs, by turns, as ratios to that with 8."""

import argparse
import json
import os
import statistics
import subprocess

import results

COUNTS = [1, 8, 64, 1024]
BASE = 8
SIZE = 65536


def measure(verbs, count, seconds, environment):
    """The average bandwidth of RDMA WRITE between two processes, in GB/s."""
    command = [
        verbs, "perf", "write-bw", "--loopback", "--json", "-d", "soft_lo", "-s", SIZE, "-q", count, "-t", 16,
        "-D", seconds, "-f", 0,
    ]
    run = subprocess.run(
        list(map(str, command)), env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False)
    if run.returncode != 0:
        raise SystemExit(f"verbs perf with {count} queue pairs: {run.stderr.strip() or run.stdout.strip()}")
    return json.loads(run.stdout)["bandwidth"][0]["BW_average"] * 2**20 / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    arguments = parser.parse_args()
    verbs = results.build("verbs", results.ROOT) / "verbs"

    rows, figures = [], {}
    for way, environment in [("shared memory", {}), ("UDP", {"VERBS_SOFT_SAME_HOST": "0"})]:
        found = {count: [] for count in COUNTS}
        for turn in range(arguments.rounds):
            for count in COUNTS:
                found[count].append(measure(verbs, count, arguments.seconds, environment))
                print(f"{way}, round {turn + 1}, {count} queue pairs: {found[count][-1]:.2f} GB/s", flush=True)
        figures[way] = found
        for count in COUNTS:
            ratios = [value / base for value, base in zip(found[count], found[BASE])]
            ratio = statistics.median(ratios)
            target = "" if count != COUNTS[-1] else "≥ 0.7, met" if ratio >= 0.7 else "≥ 0.7, **missed**"
            rows.append([
                way, f"{count:,}", f"**{ratio:.2f}**", f"{min(ratios):.2f} to {max(ratios):.2f}", target,
                f"{statistics.median(found[count]):.2f} GB/s",
            ])
    results.save("queue-pairs", figures)
    results.write_section("queue-pairs", f"""
## Many queue pairs

{results.today()}, {results.machine()}, commit {results.revision()}. RDMA WRITE of 64 KiB between two processes of one host, 16 outstanding on each queue pair, {arguments.rounds} rounds by turns. A ratio is to 8 queue pairs in the same round. An idle queue pair takes about 3 KB and its queues (a test says so).

{results.table(["way", "queue pairs", "ratio to 8, median", "spread", "target", "context"], rows)}
""")


if __name__ == "__main__":
    main()

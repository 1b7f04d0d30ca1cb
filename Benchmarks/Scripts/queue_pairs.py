# SPDX-License-Identifier: Apache-2.0
"""Throughput of the software device with 1, 8, 64 and 1,024 queue pairs, by turns, as ratios to that with 8.

Each queue pair has its own buffer, so 1,024 of them leave the caches in which 8 stay. A fifth turn tells the two apart: 8 queue pairs
with as many bytes.
"""

import argparse
import json
import os
import statistics
import subprocess

import results

SIZE = 65536
DEPTH = 16
# As many bytes on 8 queue pairs as 1,024 have, with fewer outstanding.
LARGE_SIZE = SIZE * 128
LARGE_DEPTH = 4
MOST = (1024, SIZE, DEPTH)
# The first is what the others are compared with.
TURNS = [(8, SIZE, DEPTH), (1, SIZE, DEPTH), (64, SIZE, DEPTH), MOST, (8, LARGE_SIZE, LARGE_DEPTH)]


def measure(verbs, turn, options, environment):
    """The average bandwidth of RDMA WRITE between two processes, in GB/s."""
    count, size, depth = turn
    command = [
        *(["chrt", "-f", "1"] if options.priority else []),
        verbs, "perf", "write-bw", "--loopback", "--json", "-d", "soft_lo", "-s", size, "-q", count, "-t", depth,
        "-D", options.seconds, "-f", 0,
    ]
    run = subprocess.run(
        list(map(str, command)), env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False)
    if run.returncode != 0:
        raise SystemExit(f"verbs perf with {count} queue pairs: {run.stderr.strip() or run.stdout.strip()}")
    return json.loads(run.stdout)["bandwidth"][0]["BW_average"] * 2**20 / 1e9


def row(way, turn, found):
    """The line of the report for one turn: a tuple of queue pairs, message size and depth."""
    count, size, _ = turn
    ratios = [value / base for value, base in zip(found[turn], found[TURNS[0]])]
    ratio = statistics.median(ratios)
    target = ""
    if turn == MOST:
        target = "≥ 0.7, met" if ratio >= 0.7 else "≥ 0.7, **missed**"
    return [
        way, f"{count:,}", f"{size // 1024:,} KiB", f"**{ratio:.2f}**", f"{min(ratios):.2f} to {max(ratios):.2f}", target,
        f"{statistics.median(found[turn]):.2f} GB/s",
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--priority", action="store_true", help="run with real-time priority, which a busy machine needs")
    options = parser.parse_args()
    verbs = results.build("verbs", results.ROOT) / "verbs"

    rows, figures = [], {}
    for way, environment in [("shared memory", {}), ("UDP", {"VERBS_SOFT_SAME_HOST": "0"})]:
        found = {turn: [] for turn in TURNS}
        for number in range(options.rounds):
            for turn in TURNS:
                found[turn].append(measure(verbs, turn, options, environment))
                print(f"{way}, round {number + 1}, {turn[0]} queue pairs, {turn[1]} B: {found[turn][-1]:.2f} GB/s", flush=True)
        figures[way] = {f"{count} x {size}": found[count, size, depth] for count, size, depth in TURNS}
        rows += [row(way, turn, found) for turn in TURNS]
    results.save("queue-pairs", figures)
    results.write_section("queue-pairs", f"""
## Many queue pairs

{results.today()}, {results.machine()}{', real-time priority' if options.priority else ''}, commit {results.revision()}. RDMA WRITE between two processes of one host, {DEPTH} outstanding on each queue pair, {options.rounds} rounds by turns. A ratio is to 8 queue pairs of 64 KiB in the same round. Each queue pair has its own buffer: with 1,024 they are 64 MiB at each end, which no cache holds. The rows of {LARGE_SIZE >> 20} MiB ({LARGE_DEPTH} outstanding) are 8 queue pairs with as many bytes: what they lose is the memory's, not the queue pairs'. An idle queue pair takes about 3 KB and its queues (a test says so).

{results.table(["way", "queue pairs", "message", "ratio to 8, median", "spread", "target", "context"], rows)}
""")


if __name__ == "__main__":
    main()

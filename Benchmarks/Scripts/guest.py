# SPDX-License-Identifier: Apache-2.0
"""`verbs perf` over the software device beside perftest over the kernel's rxe, by turns, in one guest."""

import argparse
import statistics
import subprocess

import results

MACHINE = results.ROOT / "Tests" / "VirtualMachine"


def measure(kernel, rounds, limit):
    """Runs the guest and returns {(test, size): [(ours, theirs), ...]}."""
    verbs = results.build("verbs", results.ROOT) / "verbs"
    command = [MACHINE / "rxe-vm", "-k", kernel, "-t", str(limit), MACHINE / "guest" / "compare", verbs, str(rounds)]
    figures = {}
    with subprocess.Popen(list(map(str, command)), cwd=results.ROOT, stdout=subprocess.PIPE, text=True) as guest:
        for line in guest.stdout:
            print(line, end="", flush=True)
            words = line.split()
            if len(words) == 5 and "none" not in words and words[1].isdigit():
                figures.setdefault((words[0], int(words[1])), []).append((float(words[3]), float(words[4])))
    if guest.returncode != 0 or not figures:
        raise SystemExit(f"the guest ended with status {guest.returncode}")
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kernel", default="6.1")
    parser.add_argument("--limit", type=int, default=1800, help="seconds that the guest may run")
    arguments = parser.parse_args()
    figures = measure(arguments.kernel, arguments.rounds, arguments.limit)

    rows = []
    for (test, size), pairs in figures.items():
        is_bandwidth = test.endswith("-bw")
        ratios = [ours / theirs for ours, theirs in pairs]
        ratio = statistics.median(ratios)
        met = ratio >= 1 if is_bandwidth else ratio <= 1
        ours, theirs = (statistics.median(side) for side in zip(*pairs))
        rows.append([
            test, f"{size:,} B", f"**{ratio:.2f}**", f"{min(ratios):.2f} to {max(ratios):.2f}",
            ("≥ 1" if is_bandwidth else "≤ 1") + (", met" if met else ", missed"),
            f"{ours:.1f} / {theirs:.1f} " + ("MiB/s" if is_bandwidth else "µs"),
        ])
    results.save("guest", {f"{test} {size}": pairs for (test, size), pairs in figures.items()})
    results.write_section("guest", f"""
## Beside rxe, in the guest

{results.today()}, {results.machine()}, commit {results.revision()}. The guest has Linux {arguments.kernel} and two emulated processors. Two processes of it on one address, ours and perftest over rxe by turns, {arguments.rounds} rounds. rxe hands such packets from one queue pair to the other inside the kernel. A ratio is ours divided by rxe's of the same round: above 1 is better for bandwidth, below 1 for latency. Emulation makes all absolute figures meaningless.

{results.table(["test", "message", "ours / rxe, median", "spread", "target", "context: ours / rxe"], rows, left=2)}
""")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Where our two ends spend their time: `perf record` on both processes of one run, the largest functions of each."""

import argparse
import dataclasses
import subprocess

import contestants
import peers
import results

RECORD = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "4000"]


def recorded(contestant, folder):
    """The contestant with each end under perf, which writes server.data and client.data."""
    def under_perf(end, command):
        return [*RECORD, "-o", str(folder / f"{end}.data"), "--", *command]

    return dataclasses.replace(
        contestant, server=under_perf("server", contestant.server), client=under_perf("client", contestant.client))


def report(data, count):
    """The functions with the largest share of their own, Swift names made readable."""
    text = subprocess.run(
        ["perf", "report", "-i", str(data), "--stdio", "--sort", "dso,symbol", "--percent-limit", "0.3"],
        check=True, capture_output=True, text=True,
    ).stdout
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    readable = subprocess.run(
        ["swift", "demangle", "--compact", "--simplified"], input="\n".join(lines[:count]), check=True,
        capture_output=True, text=True,
    ).stdout
    return "\n".join(line[:180] for line in readable.splitlines())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("test", nargs="?", default="write-bw", choices=["write-bw", "send-lat"])
    parser.add_argument("--seconds", type=float, default=2, help="length of a bandwidth run (default %(default)s)")
    parser.add_argument("--count", type=int, default=30, help="functions to print for each end (default %(default)s)")
    parser.add_argument("--no-pin", dest="pin", action="store_false", help="let the scheduler place the two ends")
    parser.add_argument("--priority", action="store_true", help="run both ends with real-time priority (needs root)")
    options = parser.parse_args()

    verbs = results.build("verbs", results.ROOT) / "verbs"
    ours = (contestants.ours_bandwidth(verbs, "write-bw", 65536, options.seconds) if options.test == "write-bw"
            else contestants.ours_latency(verbs, "send-lat", 64, 200000))
    results.FIGURES.mkdir(parents=True, exist_ok=True)
    figure, _ = peers.run(recorded(ours, results.FIGURES), peers.Placement(options.pin, options.priority))
    print(f"{ours.name}: {figure:.3f} under perf")
    for end in ("client", "server"):
        print(f"\n{end}\n{report(results.FIGURES / f'{end}.data', options.count)}")


if __name__ == "__main__":
    main()

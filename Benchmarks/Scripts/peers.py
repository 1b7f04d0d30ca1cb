# SPDX-License-Identifier: Apache-2.0
"""Runs the software device and each peer by turns, two processes on one host, and reports ratios."""

import argparse
import os
import re
import resource
import socket
import statistics
import subprocess
import time

import contestants
import results

START_LIMIT, RUN_LIMIT = 15, 60  # seconds
HEADINGS = {
    "peers": "Software device beside its peers",
    "same-host": "Processes of one host",
    "drop-in": "Programs of others over the drop-in libraries",
}


class Failure(Exception):
    """A contestant that did not start, did not end or printed no figure."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port):
    """Whether somebody listens on the TCP port; asked of the kernel, so that no connection is spent."""
    suffix = f":{port:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table) as file:
            for line in file:
                fields = line.split()
                if fields[1].endswith(suffix) and fields[3] == "0A":
                    return True
    return False


def busy_seconds():
    """Time that all processors have worked, or had stolen from them by the hypervisor."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq, steal, *_ = map(int, file.readline().split()[1:])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def children_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Placement:
    """On which processor, and with which priority, each end runs."""

    def __init__(self, pin, priority):
        self.prefix = ["chrt", "--rr", "1"] if priority else []
        self.pin = pin

    def command(self, words, core, port):
        place = ["taskset", "-c", str(core)] if self.pin else []
        return [*self.prefix, *place, *(word.replace("{port}", str(port)) for word in words)]


def await_server(contestant, server, port):
    """Returns the port once the server can be reached."""
    if contestant.announces_port:
        announced = re.match(r"port=(\d+)", server.stdout.readline())
        if announced:
            return int(announced.group(1))
    else:
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline and server.poll() is None:
            if listens(port):
                return port
            time.sleep(0.02)
    server.kill()
    raise Failure(f"{contestant.name}: the server did not start: {server.communicate()[0].strip()}")


def run(contestant, placement):
    """One run: the figure, and the share of the machine that others used meanwhile."""
    environment = {**os.environ, **contestant.environment}
    port = free_port()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment}
    busy, ours, start = busy_seconds(), children_seconds(), time.monotonic()
    server = subprocess.Popen(placement.command(contestant.server, 0, port), **pipes)
    try:
        port = await_server(contestant, server, port)
        client = subprocess.run(
            placement.command(contestant.client, 1, port), timeout=RUN_LIMIT, check=False, **pipes)
        if client.returncode != 0:
            raise Failure(f"{contestant.name}: the client ended with {client.returncode}: {client.stdout.strip()}")
        figure = contestant.read(client.stdout)
        server.communicate(timeout=START_LIMIT)
    except subprocess.TimeoutExpired as expired:
        raise Failure(f"{contestant.name}: did not end: {' '.join(expired.cmd)}") from expired
    except (AttributeError, IndexError, StopIteration, ValueError) as unreadable:
        raise Failure(f"{contestant.name}: no figure in: {client.stdout.strip()}") from unreadable
    finally:
        if server.poll() is None:
            server.kill()
        server.wait()
    elapsed = time.monotonic() - start
    others = (busy_seconds() - busy) - (children_seconds() - ours)
    return figure, max(0.0, others) / (elapsed * os.cpu_count())


def fight(duel, options, placement):
    """`rounds` turns of ours and the peer; one that other work disturbed is repeated while attempts last.

    With real-time priority other work only gets what the two ends leave, and disturbs nothing.
    """
    turns, attempts = [], options.rounds + (0 if options.priority else options.repeats)
    while len(turns) < options.rounds and attempts > 0:
        attempts -= 1
        (ours, noise_ours), (peer, noise_peer) = run(duel.ours, placement), run(duel.peer, placement)
        noise = max(noise_ours, noise_peer)
        kept = noise <= options.noise or attempts < options.rounds - len(turns)
        print(f"    ours {ours:9.3f}  peer {peer:9.3f}  ratio {ours / peer:6.3f}"
              f"  others' share {noise:4.0%}{'' if kept else '  (repeated)'}", flush=True)
        if kept:
            turns.append({"ours": ours, "peer": peer, "ratio": ours / peer, "noise": noise})
    return turns


def summary(name, duel, turns):
    ratios = [turn["ratio"] for turn in turns]
    median = statistics.median(ratios)
    return {
        "name": name, "quantity": duel.quantity, "ours_name": duel.ours.name, "peer_name": duel.peer.name,
        "higher_is_better": duel.higher_is_better, "target": duel.target, "met": duel.meets(median),
        "ratio": median, "ratio_low": min(ratios), "ratio_high": max(ratios),
        "ours": statistics.median(turn["ours"] for turn in turns),
        "peer": statistics.median(turn["peer"] for turn in turns),
        "noise": max(turn["noise"] for turn in turns), "rounds": len(turns),
    }


def target(row):
    if row["target"] is None:
        return "context"
    bound = f"{'≥' if row['higher_is_better'] else '≤'} {row['target']:g}"
    return f"{bound}, {'met' if row['met'] else '**missed**'}"


def report(rows, failures, options):
    def line(row):
        unit = "GB/s" if row["higher_is_better"] else "µs"
        return [
            row["quantity"], row["peer_name"], f"**{row['ratio']:.2f}**",
            f"{row['ratio_low']:.2f} to {row['ratio_high']:.2f}", target(row),
            f"{row['ours']:.2f} / {row['peer']:.2f} {unit}",
        ]

    header = ["quantity", "peer", "ours / peer, median", "spread", "target", "context: ours / peer"]
    place = "each end pinned to a core of its own" if options.pin else "not pinned"
    place += ", with real-time priority" if options.priority else ""
    text = (
        f"## {HEADINGS[options.section]}\n\n"
        f"{results.today()}, {results.machine()}, commit {results.revision()}. Two processes on one host, {place}; "
        f"ours and the peer by turns, {options.rounds} rounds of each pair. A ratio is ours divided by the peer's of "
        "the same round: above 1 is better for bandwidth, below 1 for latency. The absolute figures in the last "
        "column are context for this machine only.\n\n" + results.table(header, map(line, rows), left=2)
    )
    if options.section == "peers":
        text += "\n\n![The ratios as bars](ratios.svg)"
    disturbed = [row["name"] for row in rows if row["noise"] > options.noise and not options.priority]
    if disturbed:
        text += f"\n\nOther work took more than {options.noise:.0%} of the machine during: {', '.join(disturbed)}."
    for failure in failures:
        text += f"\n\nNot measured: {failure}"
    return text


def section_pairs(options):
    """The pairs of the section, their programs built."""
    verbs = results.build("verbs", results.ROOT) / "verbs"
    if options.section == "drop-in":
        return contestants.dropin_duels(verbs, results.build_dropin(), options.seconds)
    pairs = contestants.duels(
        verbs,
        results.build("udp-peer") / "udp-peer",
        results.compile_peer("libfabric-stream", "fabric") if options.section == "peers" else None,
        results.compile_peer("memory-copy"),
        options.seconds,
    )
    return {name: duel for name, duel in pairs.items() if (name in contestants.SAME_HOST) == (options.section == "same-host")}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each pair (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=1, help="length of a bandwidth run (default %(default)s)")
    parser.add_argument("--no-pin", dest="pin", action="store_false", help="let the scheduler place the two ends")
    parser.add_argument("--priority", action="store_true", help="run both ends with real-time priority (needs root)")
    parser.add_argument("--section", choices=HEADINGS, default="peers", help="which pairs (default %(default)s)")
    parser.add_argument("--only", help="names of pairs, separated by commas")
    parser.add_argument("--noise", type=float, default=0.1, help="share of the machine others may use in a round")
    parser.add_argument("--repeats", type=int, default=5, help="disturbed rounds to repeat for each pair")
    options = parser.parse_args()

    pairs = section_pairs(options)
    names = options.only.split(",") if options.only else list(pairs)
    if unknown := [name for name in names if name not in pairs]:
        parser.error(f"no such pair: {', '.join(unknown)}; there are {', '.join(pairs)}")
    placement = Placement(options.pin, options.priority)
    rows, failures = [], []
    for name in names:
        duel = pairs[name]
        print(f"{name}: {duel.ours.name} against {duel.peer.name}", flush=True)
        try:
            rows.append(summary(name, duel, fight(duel, options, placement)))
        except Failure as failure:
            print(f"    {failure}", flush=True)
            failures.append(f"{name}: {failure}")
    text = report(rows, failures, options)
    print("\n" + text)
    if options.only is None:
        results.save(options.section, {"rows": rows, "machine": results.machine(), "date": results.today()})
        results.write_section(options.section, text)
    if failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

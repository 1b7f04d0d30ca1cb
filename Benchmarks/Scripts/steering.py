# SPDX-License-Identifier: Apache-2.0
"""Frames that a raw packet queue pair receives in a second, beside DPDK's testpmd on the same interface, by turns."""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import results

SIZES = (64, 1500)
PORT = 7000
# Receives posted: 1 MiB of them, which stays in the cache that is near. What arrives meanwhile waits in the place's own frames.
DEPTH = 512
# Of ours, the place; of DPDK, the driver; and the least ratio that is wanted.
PAIRS = {
    "packet-ring": ("packet-ring", "net_af_packet0,iface=b1,framesz=2048,blocksz=65536,framecnt=4096", "net_af_packet", 1.1),
    "packet": ("packet", "net_af_packet0,iface=b1,framesz=2048,blocksz=65536,framecnt=4096", "net_af_packet", None),
    "xdp-direct": ("xdp-direct", "net_af_xdp0,iface=b1", "net_af_xdp", 0.95),
    "xdp": ("xdp", "net_af_xdp0,iface=b1", "net_af_xdp", 0.95),
}
START_LIMIT = 20  # seconds
LINGER = 1  # seconds; the kernel lets go of an AF_XDP socket a little later than its process


class Failure(Exception):
    """A receiver that did not start, did not end, or printed no figure."""


def make_interfaces():
    """b0 and b1, the two ends of a wire, in the network namespace that this process has for itself."""
    for words in ("link set lo up", "link add b0 type veth peer name b1", "addr add 10.91.0.2/24 dev b1", "link set b0 up",
                  "link set b1 up"):
        subprocess.run(["ip", *words.split()], check=True)
    # Frames that are redirected to the other end are taken up by NAPI, which this turns on.
    subprocess.run(["ethtool", "-K", "b1", "gro", "on"], check=True, capture_output=True)
    time.sleep(1)


def prefix(options, core):
    return [*(["chrt", "-f", "1"] if options.priority else []), "taskset", "-c", str(core)]


def source(options, size, seconds):
    """The frames that come, on a processor of their own."""
    program = options.source
    command = [*prefix(options, 0), program, "b0", str(size), str(seconds), str(PORT)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_for(file, text, process):
    """Waits until the process has written the text."""
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        file.seek(0)
        if text in file.read():
            return
        time.sleep(0.05)
    file.seek(0)
    raise Failure(f"the receiver did not start: {file.read().strip()[-400:]}")


def ours(options, place, size):
    """Frames in a second."""
    time.sleep(LINGER)
    with tempfile.TemporaryFile("w+") as output:
        command = [*prefix(options, 1), options.verbs, "perf", "raw-bw", "--server", "-d", "b1", "-s", str(size), "-D",
                   str(options.seconds), "--place", place, "-K", str(PORT), "-r", str(DEPTH)]
        # Receives are filled in place where the interface is one program's alone.
        command += ["--mode", "exclusive"] if place == "xdp-direct" else []
        receiver = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | {"VERBS_PROVIDER": "soft"})
        try:
            wait_for(output, "#bytes", receiver)
            sender = source(options, size, options.seconds + 1)
            receiver.wait(timeout=options.seconds + START_LIMIT)
            sender.wait()
        except subprocess.TimeoutExpired as expired:
            raise Failure("the receiver did not end") from expired
        finally:
            if receiver.poll() is None:
                receiver.kill()
                receiver.wait()
        output.seek(0)
        text = output.read()
    rate = re.search(rf"^ {size}\s.*\s([0-9.]+)$", text, re.MULTILINE)
    if receiver.returncode != 0 or not rate:
        raise Failure(f"the receiver ended with {receiver.returncode}: {text.strip()[-400:]}")
    return float(rate.group(1)) * 1e6


def testpmd(options, device, size):
    """Frames in a second: the median of what testpmd shows each second while frames come."""
    time.sleep(LINGER)
    with tempfile.TemporaryFile("w+") as output:
        command = ["dpdk-testpmd", "--no-huge", "-m", "1024", "--no-pci", "-l", "0,1", "--main-lcore", "0", f"--vdev={device}",
                   "--", "--forward-mode=rxonly", "--stats-period", "1", "--no-mlockall", "--total-num-mbufs=65536"]
        receiver = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_for(output, "Port statistics", receiver)
            if options.priority:
                set_priority(receiver.pid)
            sender = source(options, size, options.seconds + 2)
            sender.wait()
            receiver.send_signal(signal.SIGINT)
            receiver.wait(timeout=START_LIMIT)
        except subprocess.TimeoutExpired as expired:
            raise Failure("testpmd did not end") from expired
        finally:
            if receiver.poll() is None:
                receiver.kill()
                receiver.wait()
            # A program of testpmd stays when it is killed.
            subprocess.run(["ip", "link", "set", "dev", "b1", "xdp", "off"], check=False, capture_output=True)
        output.seek(0)
        text = output.read()
    rates = [int(rate) for rate in re.findall(r"Rx-pps:\s+([0-9]+)", text)]
    # The first and the last second with frames are not whole; testpmd shows some of them late, and two as one.
    busy = [rate for rate in rates if rate > 0]
    busy = busy[1:-1] or busy
    if not busy:
        raise Failure(f"testpmd received nothing: {text.strip()[-400:]}")
    return float(statistics.median(busy))


def set_priority(process):
    """The thread that polls; it runs on processor 1 alone."""
    for thread in os.listdir(f"/proc/{process}/task"):
        with open(f"/proc/{process}/task/{thread}/comm") as file:
            if "worker" in file.read():
                subprocess.run(["chrt", "-f", "-p", "1", thread], check=False)


def places(options):
    """The places that our device has on this interface, which no other program uses."""
    shown = subprocess.run([options.verbs, "steer", "-d", "b1", "--mode", "exclusive", "--json"], check=True, capture_output=True, text=True,
                           env=os.environ | {"VERBS_PROVIDER": "soft"}).stdout
    return {line["place"]: line["canCarryOut"] for line in json.loads(shown)["places"]}


def row(name, size, turns, target):
    ratios = [mine / peer for mine, peer in turns]
    median = statistics.median(ratios)
    verdict = f"≥ {target:g}, {'met' if median >= target else '**missed**'}" if target else "context"
    mine, peer = (statistics.median(turn[index] for turn in turns) for index in range(2))
    return [name, PAIRS[name][2], f"{size} B", f"**{median:.2f}**", f"{min(ratios):.2f} to {max(ratios):.2f}", verdict,
            f"{mine / 1e3:.0f} / {peer / 1e3:.0f} k/s"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each pair (default %(default)s)")
    parser.add_argument("--seconds", type=int, default=3, help="length of a run (default %(default)s)")
    parser.add_argument("--only", help="places, separated by commas")
    parser.add_argument("--priority", action="store_true", help="run source and receivers with real-time priority")
    parser.add_argument("--verbs", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if "STEERING_NAMESPACE" not in os.environ:
        verbs = options.verbs or results.build("verbs", results.ROOT) / "verbs"
        results.FIGURES.parent.mkdir(exist_ok=True)
        results.compile_peer("frame-source")
        os.execvpe("unshare", ["unshare", "-n", sys.executable, __file__, *sys.argv[1:], "--verbs", str(verbs)],
                   os.environ | {"STEERING_NAMESPACE": "1"})
    options.source = str(results.BENCHMARKS / ".build" / "frame-source")
    make_interfaces()
    there = places(options)
    rows, missing, everything = [], [], []
    for name in options.only.split(",") if options.only else PAIRS:
        place, device, _, target = PAIRS[name]
        if not there.get(place):
            missing.append(name)
            continue
        for size in SIZES:
            turns = []
            for _ in range(options.rounds):
                mine, peer = ours(options, place, size), testpmd(options, device, size)
                turns.append((mine, peer))
                print(f"{name} {size} B: ours {mine / 1e3:.0f} k/s, testpmd {peer / 1e3:.0f} k/s, ratio {mine / peer:.2f}",
                      flush=True)
            rows.append(row(name, size, turns, target))
            everything.append({"place": name, "size": size, "turns": turns})
    load = os.getloadavg()[1]
    results.save("steering", everything)
    header = ["place", "testpmd's driver", "frame", "ours / testpmd, median", "spread", "target", "context: ours / testpmd"]
    text = (
        f"## Steered packets\n\n{results.today()}, {results.machine()}, commit {results.revision()}. Frames received in a second by"
        f" `verbs perf raw-bw --server` (a rule of a UDP port, a raw packet queue pair, {DEPTH} receives posted, completions polled) and by DPDK 22.11's"
        f" testpmd (rxonly) on the same veth interface, by turns, {options.rounds} rounds of {options.seconds} s"
        f"{', with real-time priority' if options.priority else ''}. The frames are made in the kernel (Peers/frame-source.c) on the"
        f" other processor, which also does the kernel's part of receiving them. Load of the machine in those minutes: {load:.1f}.\n\n"
        + results.table(header, rows, left=3)
    )
    if missing:
        text += f"\n\nNot measured, because the device does not have them: {', '.join(missing)}."
    print("\n" + text)
    if not options.only:
        results.write_section("steering", text)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Who is measured: for each contestant a server, a client, and how to read the figure the client prints."""

import dataclasses
import re
from collections.abc import Callable

MEBIBYTES = 2**20 / 1e9  # MiB/s -> GB/s


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A server process and a client process. `{port}` in an argument is the port that both use.

    `read` turns what the client printed into GB/s (10^9) or into microseconds of half a round trip.
    """

    name: str
    server: list[str]
    client: list[str]
    read: Callable[[str], float]
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    announces_port: bool = False  # prints "port=N" instead of listening on a TCP port of our choice


@dataclasses.dataclass(frozen=True)
class Duel:
    """Ours against a peer. `target` is a bound of ours/peer, `None` for context."""

    quantity: str
    ours: Contestant
    peer: Contestant
    higher_is_better: bool
    target: float | None = None

    def meets(self, ratio):
        if self.target is None:
            return None
        return ratio >= self.target if self.higher_is_better else ratio <= self.target


def last_row(text, first):
    """The columns of the last line that begins with the word `first`."""
    rows = [line.split() for line in text.splitlines() if line.split()[:1] == [first]]
    return rows[-1]


def numbers(line):
    return [float(word) for word in re.findall(r"[-+]?\d+(?:\.\d+)?", line)]


def ours(verbs, test, size, arguments, read, same_host):
    command = [str(verbs), "perf", test, "-d", "soft_lo", "-s", str(size), "-c", "RC", "-p", "{port}", *arguments]
    way = "shared memory" if same_host else "UDP"
    return Contestant(f"verbs perf {test} -s {size}, {way}", command, [*command, "127.0.0.1"], read,
                      environment={"VERBS_SOFT_SAME_HOST": "1" if same_host else "0"})


def ours_bandwidth(verbs, test, size, seconds, same_host=False):
    # #bytes  #iterations  peak  average  message rate; MiB/s
    iterations = max(1000, round(seconds * (16e9 if same_host else 4e9) / size))
    return ours(verbs, test, size, ["-n", str(iterations)],
                lambda out: float(last_row(out, str(size))[3]) * MEBIBYTES, same_host)


def ours_latency(verbs, test, size, iterations, same_host=False):
    # #bytes  #iterations  min  max  typical  average ...; half the round trip
    return ours(verbs, test, size, ["-n", str(iterations)],
                lambda out: float(last_row(out, str(size))[4]), same_host)


def dropin(libraries, same_host):
    """The environment of a program of others over the software device, and what its packets go by."""
    return {
        "LD_LIBRARY_PATH": str(libraries), "LD_PRELOAD": f"{libraries}/libverbs-nodes.so",
        "VERBS_SOFT_SAME_HOST": "1" if same_host else "0",
    }, "shared memory" if same_host else "UDP"


def perftest(libraries, test, size, iterations, column, scale, same_host):
    """Its options and its lines of figures are those of `verbs perf`."""
    environment, way = dropin(libraries, same_host)
    command = [f"ib_{test}", "-d", "soft_lo", "-x", "0", "-F", "-s", str(size), "-n", str(iterations), "-p", "{port}"]
    return Contestant(f"{command[0]} -s {size}, {way}", command, [*command, "127.0.0.1"],
                      lambda out: float(last_row(out, str(size))[column]) * scale, environment=environment)


def memory_copy(program, area, seconds):
    """One thread, `memcpy` of 64 KiB at a time, through two areas of so many bytes."""
    where = "in cache" if area <= 65536 else f"through {area >> 20} MiB"
    return Contestant(
        f"memcpy, 64 KiB at a time, one thread, {where}",
        [str(program), "server"],
        [str(program), str(area), str(seconds)],
        lambda out: keyed(out, "gigabytes_per_second"),
        announces_port=True,
    )


def keyed(out, key):
    return float(re.search(rf"{key}=([\d.]+)", out).group(1))


def udp_stream(udp_peer, segment, burst, seconds):
    return Contestant(
        f"plain C, UDP one way, GSO+GRO, {segment // 1024} KiB segments",
        [str(udp_peer), "sink"],
        [str(udp_peer), "source", "{port}", str(segment), str(burst), str(seconds)],
        lambda out: keyed(out, "gigabytes_per_second"),
        announces_port=True,
    )


def udp_ping(udp_peer, size, iterations):
    return Contestant(
        f"plain C, UDP ping-pong, both spin, {size} B",
        [str(udp_peer), "echo"],
        [str(udp_peer), "ping", "{port}", str(size), str(iterations)],
        lambda out: keyed(out, "microseconds"),
        announces_port=True,
    )


def libfabric_ping(size, iterations):
    """fi_pingpong prints: bytes #sent #ack total time MB/sec usec/xfer (half of a round trip)."""
    command = ["fi_pingpong", "-p", "udp;ofi_rxd", "-e", "rdm", "-S", str(size), "-I", str(iterations)]
    return Contestant(
        f"libfabric udp;ofi_rxd, ping-pong, {size} B",
        [*command, "-B", "{port}"],
        [*command, "-P", "{port}", "127.0.0.1"],
        lambda out: float(out.strip().splitlines()[-1].split()[6]),
    )


def libfabric_stream(program, size, messages):
    command = [str(program), "udp;ofi_rxd", str(size), str(messages), "{port}"]
    return Contestant(
        f"libfabric udp;ofi_rxd, 64 in flight, {size} B",
        command,
        [*command, "source"],
        lambda out: keyed(out, "gigabytes_per_second"),
        announces_port=True,
    )


def ucx(test, size, iterations, index, scale, libraries=None, same_host=False):
    """ucx_perftest -f prints: iterations, 50 %, average, overall time; average, overall MiB/s; rates.

    With `libraries` over the software device (its transport `rc` is rc_verbs), else over TCP.
    """
    environment, way = {"UCX_TLS": "tcp", "UCX_NET_DEVICES": "lo"}, "tcp"
    if libraries:
        environment, link = dropin(libraries, same_host)
        environment.update({"UCX_TLS": "rc,self", "UCX_NET_DEVICES": "soft_lo:1"})
        way = f"rc_verbs, {link}"
    return Contestant(
        f"UCX {way}, {test}, {size} B",
        ["ucx_perftest", "-p", "{port}"],
        ["ucx_perftest", "-p", "{port}", "-t", test, "-s", str(size), "-n", str(iterations),
         "-w", str(iterations // 10), "-f", "127.0.0.1"],
        lambda out: numbers(out.strip().splitlines()[-1])[index] * scale,
        environment=environment,
    )


def iperf3(size, seconds):
    return Contestant(
        f"iperf3, TCP, {size} B",
        ["iperf3", "-s", "-1", "-p", "{port}"],
        ["iperf3", "-c", "127.0.0.1", "-p", "{port}", "-l", str(size), "-t", str(max(1, round(seconds))), "-f", "k"],
        lambda out: next(
            float(re.search(r"([\d.]+) Kbits/sec", line).group(1)) / 8e6
            for line in out.splitlines() if line.rstrip().endswith("receiver")
        ),
    )


# The pairs of `run same-host`; those of `run drop-in` are below, and the others are those of `run peers`.
SAME_HOST = ("copy", "copy-cache", "shared-udp", "shared-ping")


def dropin_duels(verbs, libraries, seconds):
    """Programs of others over the drop-in libraries: beside the same test in Swift, and beside themselves over TCP."""
    pairs = {}
    for suffix, same_host in (("shared", True), ("udp", False)):
        iterations = max(1000, round(seconds * (16e9 if same_host else 4e9) / 65536))
        way = "shared memory" if same_host else "UDP"
        pairs |= {
            f"write-bw-{suffix}": Duel(
                f"64 KiB RDMA WRITE, {way}", perftest(libraries, "write_bw", 65536, iterations, 3, MEBIBYTES, same_host),
                ours_bandwidth(verbs, "write-bw", 65536, seconds, same_host), True, 0.95),
            f"send-lat-{suffix}": Duel(
                f"64 B SEND, {way}, half a round trip", perftest(libraries, "send_lat", 64, 20000, 4, 1, same_host),
                ours_latency(verbs, "send-lat", 64, 20000, same_host), False, 1.05),
            f"tag-lat-{suffix}": Duel(
                f"8 B, {way}, half a round trip", ucx("tag_lat", 8, 20000, 1, 1, libraries, same_host),
                ucx("tag_lat", 8, 20000, 1, 1), False, 1),
            f"tag-bw-{suffix}": Duel(
                f"64 KiB, {way}, one way", ucx("tag_bw", 65536, 40000, 5, MEBIBYTES, libraries, same_host),
                ucx("tag_bw", 65536, 40000, 5, MEBIBYTES), True, 1),
        }
    return pairs


def duels(verbs, udp_peer, libfabric_program, copy_program, seconds):
    """All pairs, by short name. What is compared with sockets goes over UDP itself."""
    stream = ours_bandwidth(verbs, "write-bw", 65536, seconds)
    ping = ours_latency(verbs, "send-lat", 64, 20000)
    large_ping = ours_latency(verbs, "send-lat", 65536, 4000)
    shared = ours_bandwidth(verbs, "write-bw", 65536, seconds, same_host=True)
    shared_ping = ours_latency(verbs, "send-lat", 64, 20000, same_host=True)
    bandwidth, latency = "64 KiB, one way", "64 B, half a round trip"
    shared_bandwidth = "64 KiB RDMA WRITE through shared memory"
    return {
        "udp-4k": Duel(bandwidth, stream, udp_stream(udp_peer, 4096, 61440, seconds), True, 0.5),
        "udp-1k": Duel(bandwidth, stream, udp_stream(udp_peer, 1024, 63488, seconds), True, 0.5),
        "libfabric": Duel(bandwidth, stream, libfabric_stream(libfabric_program, 65536, 6000), True, 1),
        "ucx-put": Duel(bandwidth, stream, ucx("ucp_put_bw", 65536, 20000, 5, MEBIBYTES), True, 1),
        "ucx-tag": Duel(bandwidth, stream, ucx("tag_bw", 65536, 40000, 5, MEBIBYTES), True, 1),
        "ucx-am": Duel(bandwidth, stream, ucx("ucp_am_bw", 65536, 40000, 5, MEBIBYTES), True, 1),
        "copy": Duel(shared_bandwidth, shared, memory_copy(copy_program, 256 << 20, seconds), True, 0.6),
        "copy-cache": Duel(shared_bandwidth, shared, memory_copy(copy_program, 65536, seconds), True, 0.6),
        "shared-udp": Duel(shared_bandwidth, shared, stream, True),
        "shared-ping": Duel("64 B SEND through shared memory, half a round trip", shared_ping, ping, False, 0.5),
        "iperf3": Duel(bandwidth, stream, iperf3(65536, seconds), True),
        "ping": Duel(latency, ping, udp_ping(udp_peer, 64, 20000), False, 2),
        "libfabric-ping": Duel(latency, ping, libfabric_ping(64, 20000), False),
        "ucx-ping": Duel(latency, ping, ucx("tag_lat", 64, 20000, 1, 1), False),
        "libfabric-ping-64k": Duel("64 KiB, half a round trip", large_ping, libfabric_ping(65536, 4000), False),
    }

#!/usr/bin/python3
"""Very many messages wait for a host that is away, and operators act on all of them, while other mail goes its way.

  tests/fault/million.py [--messages 1000000] [--bounced 20000] [--senders 6] [--pause 0.05] [--calls 400] [--load-seconds 300]
                         [--loader build/asan/tests/bench_queue_load] [--binary build/release/thurn] [--keep]

Two queue nodes on PostgreSQL. The messages are enqueued over RPC, as front-ends do it, until there are so many or the time is over. Then all are held,
released, retried, and dropped by a filter; and some to another such host are returned to their sender. What must hold: each act touches each
message of its filter once and no other; the numbers that the nodes tell add up after each; none is left "active"; mail to others goes on
(traffic.py judges it, and the longest time without any is printed for each act). Prints times and memory.
"""
import argparse
import re
import subprocess
import time

from traffic import World, harness, longest_gap

SLICE = 50000
SESSIONS = 20  # to one site, of all nodes


def stats(cluster):
    total = dict.fromkeys(("messages", "recipients", "active", "held"), 0)
    for line in cluster.thurn("queue", "stats").stdout.splitlines():
        for n, word in re.findall(r"(\d+) (message|recipient|active|held)", line):
            total[word + "s" if word in ("message", "recipient") else word] += int(n)
    return total


def memory(cluster):
    out = []
    for node in (1, 2):
        text = harness.http_get(cluster.address(f"QUEUE_HTTP_{node}"), "/metrics")[1]
        accounted, held = (int(float(re.search(rf"^{name} (\S+)", text, re.M)[1])) for name in ("thurn_queue_memory_bytes", "thurn_queue_messages"))
        with open(f"/proc/{cluster.pid(f'queue-{node}')}/statm", encoding="ascii") as f:
            rss = int(f.read().split()[1]) * 4096
        out.append(f"queue-{node}: {held} messages, {accounted // max(held, 1)} bytes each accounted, process {rss >> 20} MiB ({rss // max(held, 1)} each)")
    return "; ".join(out)


class Run:
    def __init__(self, world, a):
        self.world, self.a, self.cluster = world, a, world.cluster

    def load(self, n, domain, sender, seconds):
        """How many were taken."""
        e = self.cluster.env()
        nodes = [f"127.0.0.1:{int(e['PG_DIRECTORY'].rsplit(':', 1)[1].split('/')[0]) + 150 + i}" for i in (1, 2)]
        start, taken = time.monotonic(), 0
        while taken < n and time.monotonic() - start < seconds:
            r = subprocess.run([self.a.loader, str(self.cluster.folder / "tls"), str(min(SLICE, n - taken)), domain, sender, str(self.a.calls), *nodes],
                               capture_output=True, text=True, timeout=900)
            assert r.returncode == 0, r.stdout + r.stderr
            taken += min(SLICE, n - taken)
        took = time.monotonic() - start
        print(f"{taken} messages to {domain} enqueued in {took:.0f} s ({taken / took:.0f}/s)", flush=True)
        return taken

    def act(self, op, domain, want):
        start, before = time.monotonic(), self.world.total()
        r = subprocess.run([self.cluster.binary, "--url", self.cluster.env()["THURN_ADMIN_URL"], "--token", self.cluster.env()["THURN_ADMIN_TOKEN"],
                            "queue", op, "--recipient", f"@{domain}"], capture_output=True, text=True, timeout=1800)
        end = time.monotonic()
        assert r.returncode == 0, f"{op}: status {r.returncode}\n{r.stdout}{r.stderr}"
        affected = int(re.match(r"(\d+) recipient", r.stdout)[1])
        all_, one = longest_gap(self.world.senders, start, end)
        print(f"{op:8} {affected} recipients in {end - start:.1f} s; {self.world.total() - before} other messages taken meanwhile, nobody's for at most "
              f"{all_:.2f} s, a sender's for {one:.2f} s", flush=True)
        attempted = SESSIONS if op == "retry" else 0  # what is in an attempt just now needs none
        assert want - attempted <= affected <= want, f"{op} took {affected} of {want}"

    def settled(self, domain, held, there):
        """Nothing of the others is counted: their mail comes and goes, and none of it is held."""
        harness.wait_until(lambda: stats(self.cluster)["held"] == held and self.listed(domain) == there,
                           f"{held} held and {there} of {domain}: {stats(self.cluster)}, {self.listed(domain)}", 120)

    def listed(self, domain):
        out = self.cluster.thurn("queue", "list", "--recipient", f"@{domain}", "--limit", "1").stdout
        return int(re.search(r"(\d+) messages? in the queue", out)[1])

    def list(self, *filters):
        start = time.monotonic()
        out = self.cluster.thurn("queue", "list", "--limit", "3", *filters).stdout
        print(f"thurn queue list {' '.join(filters)}: {time.monotonic() - start:.2f} s\n    " + out.replace("\n", "\n    ").rstrip(), flush=True)

    def many(self):
        domain = "far.test"
        n = self.load(self.a.messages, domain, "s@out.test", self.a.load_seconds)
        print(memory(self.cluster), flush=True)
        self.settled(domain, 0, n)
        self.list("--recipient", f"@{domain}")
        self.list()
        self.act("hold", domain, n)
        self.settled(domain, n, n)
        self.act("release", domain, n)
        self.settled(domain, 0, n)
        self.act("retry", domain, n)
        self.settled(domain, 0, n)
        print(memory(self.cluster), flush=True)
        self.act("drop", domain, n)
        self.settled(domain, 0, 0)

    def bounced(self):
        """To one refusing host, returned to a sender who is here."""
        domain = "refused.test"
        n = self.load(self.a.bounced, domain, "u1@example.test", self.a.load_seconds)
        self.list("--recipient", f"@{domain}")
        start = time.monotonic()
        self.act("bounce", domain, n)
        self.settled(domain, 0, 0)

        def arrived():
            box = self.cluster.imap("u1@example.test")
            box.select("INBOX", readonly=True)
            got = len(box.uid("SEARCH", None, "FROM", "MAILER-DAEMON")[1][0].split())
            box.logout()
            return got >= n
        harness.wait_until(arrived, f"{n} notices of failure", 600)
        print(f"{n} notices of failure were delivered {time.monotonic() - start:.1f} s after the act began", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--messages", type=int, default=1000000)
    p.add_argument("--bounced", type=int, default=20000)
    p.add_argument("--senders", type=int, default=6)
    p.add_argument("--pause", type=float, default=0.05, help="of a sender between two messages")
    p.add_argument("--calls", type=int, default=400, help="Enqueue calls under way at a time")
    p.add_argument("--load-seconds", type=float, default=300, help="no more is enqueued after that")
    p.add_argument("--loader", default=str(harness.ROOT / "build/asan/tests/bench_queue_load"))
    p.add_argument("--binary", default=None)
    p.add_argument("--keep", action="store_true")
    a = p.parse_args()
    away = {(f"{d}.", "MX"): [f"10 mx.{d}."] for d in ("far.test", "refused.test")}
    away |= {(f"mx.{d}.", "A"): ["127.0.0.9"] for d in ("far.test", "refused.test")}  # where nobody listens
    with World(a.senders, a.pause, a.binary, a.keep, records=away) as world:
        world.start()
        run = Run(world, a)
        run.many()
        run.bounced()
        world.end()
        print("1 passed, 0 failed")


if __name__ == "__main__":
    main()

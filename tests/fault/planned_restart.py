#!/usr/bin/python3
"""What senders notice of planned restarts, and how soon local mail comes after a shard was away.

  tests/fault/planned_restart.py [--senders 12] [--away 15] [--pause 0.02] [--binary build/release/thurn] [--keep]

Starts deploy/dev-cluster and senders whose mail goes through the queue. First both queue nodes are restarted in turn by SIGTERM, the second
as soon as the first says that it is ready: nobody's mail may go untaken for more than two seconds, and what is refused is refused
with 4xx. Then a shard's PostgreSQL is killed, mail for it is accepted meanwhile, and it is started again: all of that mail must be there
within three seconds of its recovery. Prints the times.
"""
import argparse
import pathlib
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import harness  # noqa: E402
from cluster import Cluster  # noqa: E402
from traffic import ACCOUNTS, ERRORS, Mailbox, Sender, judge, longest_gap, missing  # noqa: E402
from harness import PASSWORD, wait_until  # noqa: E402

GAP_MAX, LATE_MAX = 2.0, 3.0


def start_senders(cluster, a, first):
    stop = threading.Event()
    senders = [Sender(first + i, cluster, stop, a.pause, "queue") for i in range(a.senders)]
    for s in senders:
        s.start()
    wait_until(lambda: all(s.accepted for s in senders), "everybody's first message")
    return senders, stop


def end_senders(senders, stop):
    stop.set()
    for s in senders:
        s.join(90)
        assert not s.is_alive(), "a sender hangs"


def ready(cluster, node):
    return harness.http_get(cluster.address(f"QUEUE_HTTP_{node}"), "/readyz")[0] == 200


def rolling_restart(cluster, a):
    senders, stop = start_senders(cluster, a, 0)
    start = time.monotonic()
    for node in (1, 2):
        began = time.monotonic()
        cluster.do("kill", f"queue-{node}", "TERM")
        stopped = time.monotonic()
        cluster.do("run", f"queue-{node}")
        up = time.monotonic()
        wait_until(lambda: ready(cluster, node), f"queue-{node} to be ready")
        print(f"queue-{node}: stopped in {stopped - began:.2f} s, ready {time.monotonic() - up:.2f} s after its start", flush=True)
    time.sleep(2)
    all_, one = longest_gap(senders, start, time.monotonic())
    end_senders(senders, stop)
    print(f"rolling restart: {sum(len(s.accepted) for s in senders)} taken; nobody's for at most {all_:.2f} s, a sender's for {one:.2f} s")
    assert all_ < GAP_MAX, "mail was not taken for too long"
    return senders


def reads(box):
    try:
        box.look()
        return True
    except ERRORS:
        return False


def shard_away(cluster, a, boxes, others):
    cluster.do("kill", "pg-shard-1", "KILL")
    a.pause = max(a.pause, 0.5)  # how fast a backlog drains is another question
    senders, stop = start_senders(cluster, a, 800)
    time.sleep(a.away)
    end_senders(senders, stop)
    left = missing(senders, boxes)
    cluster.do("run", "pg-shard-1")
    wait_until(lambda: subprocess.run(["psql", cluster.env()["PG_SHARD_1"], "-c", "SELECT 1"], capture_output=True).returncode == 0,
               "the shard's recovery to end", 60)
    back = time.monotonic()
    wait_until(lambda: "0 messages in the queue" in cluster.thurn("queue", "list").stdout.splitlines(), "the queue to be empty", 120)
    took = time.monotonic() - back
    for box in boxes.values():
        wait_until(lambda: reads(box), f"{box.user}'s mailbox to be readable")
    assert not missing(senders + others, boxes), missing(senders + others, boxes)
    print(f"shard away {a.away:.0f} s: {sum(len(s.accepted) for s in senders)} accepted meanwhile, all there {took:.2f} s after it was back")
    assert left and took < LATE_MAX, (left, took)
    return senders


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--senders", type=int, default=12)
    p.add_argument("--away", type=float, default=15)
    p.add_argument("--pause", type=float, default=0.02)
    p.add_argument("--binary", default=None)
    p.add_argument("--keep", action="store_true")
    a = p.parse_args()
    with Cluster(binary=a.binary, keep=a.keep) as cluster:
        cluster.thurn("domain", "add", "example.test")
        cluster.thurn("account", "add", "--from-file", "-", stdin="".join(f"u{i}@example.test,{PASSWORD},\n" for i in range(1, ACCOUNTS + 1)))
        boxes = {f"u{i}": Mailbox(cluster, f"u{i}") for i in range(1, ACCOUNTS + 1)}
        senders = rolling_restart(cluster, a)
        senders += shard_away(cluster, a, boxes, senders)
        for box in boxes.values():
            box.look_at_all()
        judge(senders, boxes)
        print("1 passed, 0 failed")


if __name__ == "__main__":
    main()

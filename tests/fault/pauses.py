#!/usr/bin/python3
"""A process that stands still does no harm: each role is paused (SIGSTOP) for 5 and for 30 seconds while mail comes in.

  tests/fault/pauses.py [--senders 12] [--times 5,30] [--victims store-1,queue-1,…] [--pause 0.05] [--binary build/release/thurn] [--keep]

A paused process keeps its connections, its locks and what it was about to write: worse than a dead one. What must hold in the end is in traffic.py.
Beyond that, the healthy node of a paused queue node serves on: it may never be without its own shards. Prints how long mail was not taken.
"""
import argparse
import re
import time

from traffic import World, harness, longest_gap

VICTIMS = ("store-1", "queue-1", "auth-1", "frontend-1", "redis", "pg-shard-1", "pg-queue", "pg-directory", "s3")


def shards_owned(cluster, node):
    text = harness.http_get(cluster.address(f"QUEUE_HTTP_{node}"), "/metrics")[1]
    return int(re.search(r"^thurn_queue_shards_owned (\d+)", text, re.M)[1])


def pause(world, victim, seconds):
    cluster, start, least = world.cluster, time.monotonic(), 256
    before = world.total()
    cluster.do("kill", victim, "STOP")
    try:
        while time.monotonic() - start < seconds:
            time.sleep(0.25)
            if victim == "queue-1":
                least = min(least, shards_owned(cluster, 2))
    finally:
        cluster.do("kill", victim, "CONT")
    world.taken_again(f"{victim} went on")
    all_, one = longest_gap(world.senders, start, time.monotonic())
    words = f"; the other node never had fewer than {least} shards" if victim == "queue-1" else ""
    print(f"{victim:12} paused {seconds:2} s: {world.total() - before:5} taken; nobody's for at most {all_:.2f} s, a sender's for {one:.2f} s{words}", flush=True)
    assert least > 0, "the healthy queue node lost its own shards"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--senders", type=int, default=12)
    p.add_argument("--times", default="5,30", help="seconds")
    p.add_argument("--pause", type=float, default=0.05, help="of a sender between two messages")
    p.add_argument("--victims", default=",".join(VICTIMS))
    p.add_argument("--binary", default=None)
    p.add_argument("--keep", action="store_true")
    a = p.parse_args()
    with World(a.senders, a.pause, a.binary, a.keep) as world:
        world.start()
        for seconds in a.times.split(","):
            for victim in a.victims.split(","):
                time.sleep(1)
                pause(world, victim, int(seconds))
        world.end()
        print("1 passed, 0 failed")


if __name__ == "__main__":
    main()

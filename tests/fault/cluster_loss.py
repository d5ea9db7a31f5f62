#!/usr/bin/python3
"""Nothing that was acknowledged is lost or doubled: senders run against a whole cluster while its parts are killed in turn.

  tests/fault/cluster_loss.py [--senders 20] [--seconds 6] [--victims store-1,queue-1,…] [--pause 0.05] [--binary build/release/thurn]
                              [--keep]

Starts deploy/dev-cluster (2 front-ends, stores, queues, auths, shards), then, with the senders running, takes each victim away for a while:
`kill -9` of one store, one queue owner, one auth, one front-end, Redis, the queue's PostgreSQL and a shard's, and of the S3 server; the S3 server
hung (s3-hang); its bucket renamed, so that it is not there (s3-bucket). Senders are of five kinds: mail from outside for one account; for an alias
of two accounts on two shards; with a wish for a notice, so that it goes through the queue; submission after a login; and for an alias that leads
away to another host. Messages have 100 bytes to 5 MiB. Who cannot connect tries the other front-end, as mail servers do. What must hold in the end
is in traffic.py. Prints what was sent, refused and found, and how long each fault kept mail from being taken.
"""
import argparse
import os
import subprocess
import time

from traffic import World, harness, longest_gap, wait_until

VICTIMS = ("store-1", "queue-1", "auth-1", "frontend-1", "redis", "pg-shard-1", "pg-queue", "s3", "s3-hang", "s3-bucket")


def queue_shards_taken(cluster, victim):
    """How many seconds pass until the other queue node owns all shards."""
    other = "QUEUE_HTTP_2" if victim == "queue-1" else "QUEUE_HTTP_1"
    start = time.monotonic()
    wait_until(lambda: "thurn_queue_shards_owned 256" in harness.http_get(cluster.address(other), "/metrics")[1],
               "the other queue node to take over", 60)
    return time.monotonic() - start


def rename_bucket(cluster, old, new):
    env = dict(os.environ, CEPH_CONF=str(cluster.folder / "s3/ceph.conf"), CEPH_ARGS="")
    r = subprocess.run(["radosgw-admin", "bucket", "link", "--uid=thurn", f"--bucket={old}", f"--bucket-new-name={new}"], env=env, capture_output=True, text=True,
                       timeout=60)
    assert r.returncode == 0, r.stdout + r.stderr


def take_away(cluster, victim):
    if victim == "s3-hang":
        cluster.do("kill", "s3", "STOP")
    elif victim == "s3-bucket":
        rename_bucket(cluster, "thurn", "away")
    else:
        cluster.do("kill", victim, "KILL")


def give_back(cluster, victim):
    if victim == "s3-hang":
        cluster.do("kill", "s3", "CONT")
    elif victim == "s3-bucket":
        rename_bucket(cluster, "away", "thurn")
    else:
        cluster.do("run", victim)


def kill_and_return(world, victim, seconds):
    before, start = world.total(), time.monotonic()
    take_away(world.cluster, victim)
    words = ""
    if victim.startswith("queue-"):
        words = f"; its shards were taken over after {queue_shards_taken(world.cluster, victim):.1f} s"
    time.sleep(max(seconds - (time.monotonic() - start), 0))
    give_back(world.cluster, victim)
    up = time.monotonic()
    time.sleep(seconds / 2)
    world.taken_again(f"{victim} came back")
    all_, one = longest_gap(world.senders, start, time.monotonic())
    print(f"{victim:12} away {up - start:4.1f} s: {world.total() - before:5} taken; nobody's for at most {all_:.2f} s, a sender's "
          f"for {one:.2f} s{words}", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--senders", type=int, default=20)
    p.add_argument("--seconds", type=float, default=6, help="how long each victim is away at least")
    p.add_argument("--pause", type=float, default=0.05, help="of a sender between two messages")
    p.add_argument("--victims", default=",".join(VICTIMS))
    p.add_argument("--binary", default=None)
    p.add_argument("--keep", action="store_true")
    a = p.parse_args()
    with World(a.senders, a.pause, a.binary, a.keep) as world:
        world.start()
        for victim in a.victims.split(","):
            time.sleep(a.seconds / 2)
            kill_and_return(world, victim, a.seconds)
        time.sleep(a.seconds / 2)
        world.end()
        print("1 passed, 0 failed")


if __name__ == "__main__":
    main()

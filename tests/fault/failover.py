#!/usr/bin/python3
"""A standby that lacks the last commits takes over: of a shard, of the queue, of the directory, one after the other, under load.

  tests/fault/failover.py [--senders 12] [--lost 4] [--victims pg-shard-1,pg-queue,pg-directory] [--pause 0.05] [--binary build/release/thurn] [--keep]

Each database has a streaming standby, both are in the DSN. Replication is cut, mail goes on for some seconds (what that commits is lost: nothing can
save it), the primary is killed and the standby promoted. Then must hold:
  - mail from before the cut and from after the promotion is where it belongs, once; of what was taken in between none is there twice;
  - no UID ever means another message than before, UIDVALIDITY stays, and what comes after the promotion is above every UID that was seen;
  - no address that exists is refused for good;
  - an account made in the lost time is gone, one made after it reads nobody's mail, and `thurn verify` tells of what only a shard knows.
"""
import argparse
import imaplib
import re
import time

from traffic import PASSWORD, World, longest_gap, wait_until


def uids_of(world):
    """{user: {uid: X-Id}} as a reader sees it now."""
    seen = {}
    for user, box in world.boxes.items():
        if user == "sink":
            continue
        c = world.cluster.imap(f"{user}@example.test")
        c.select("INBOX", readonly=True)
        data = c.uid("FETCH", "1:*", "(UID BODY.PEEK[HEADER.FIELDS (X-Id)])")[1]
        seen[user] = {}
        for item, after in zip(data, data[1:] + [b""]):
            if isinstance(item, tuple):
                uid = int(re.search(rb"UID (\d+)", item[0] + (after if isinstance(after, bytes) else b""))[1])
                seen[user][uid] = item[1].split(b":", 1)[1].strip().decode() if b":" in item[1] else ""
        c.logout()
    return seen


def fail_over(world, victim, lost_seconds):
    cluster = world.cluster
    settled = {i for s in world.senders for i in list(s.accepted)}
    time.sleep(2)  # what is under way then is there before the cut
    cluster.do("freeze", victim)
    cut = {i for s in world.senders for i in list(s.accepted)}
    if victim == "pg-directory":
        cluster.thurn("account", "add", "lost@example.test", "--password", PASSWORD)
        wait_until(lambda: deliver(world, "lost", "lost-mail"), "mail for the account that will be lost")
    time.sleep(lost_seconds)
    before = uids_of(world)
    seen = {user: set(world.boxes[user].uids) | set(before[user]) for user in before}
    start = time.monotonic()
    cluster.do("kill", victim, "KILL")
    cluster.do("promote", victim)
    world.taken_again(f"{victim}'s standby took over")
    now = uids_of(world)
    for user, uids in now.items():  # what the reader saw in the lost time is gone, and none of its UIDs may come again
        world.boxes[user].uids.difference_update(seen[user] - set(uids))
    all_, one = longest_gap(world.senders, start, time.monotonic())
    print(f"{victim:12} failed over: nobody's mail for at most {all_:.2f} s, a sender's for {one:.2f} s; {len(cut)} before the cut", flush=True)
    return settled, before


def deliver(world, user, ident):
    with world.cluster.smtp() as s:
        try:
            s.sendmail("x@out.test", [f"{user}@example.test"], f"Subject: x\r\nX-Id: {ident}\r\n\r\nx\r\n".encode())
        except Exception as e:
            assert not getattr(e, "recipients", None) or all(code < 500 for code, _ in e.recipients.values()), e
            return False
    return True


def is_refused(cluster, login):
    try:
        cluster.imap(login)
        return False
    except imaplib.IMAP4.error:
        return True


def check_accounts(world):
    c = world.cluster
    c.thurn("account", "add", "other@example.test", "--password", PASSWORD)
    box = c.imap("other@example.test")
    assert box.select("INBOX")[1] == [b"0"], "a new account reads another's mail"
    wait_until(lambda: is_refused(c, "lost@example.test"), "the account that was lost to be unknown: answers are kept for a while", 60)
    r = c.thurn("verify", check=False)
    print("verify:", r.returncode, (r.stdout + r.stderr).strip().replace("\n", " | ")[:300])
    assert r.returncode == 4 and "does not know it" in r.stdout, r.stdout


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--senders", type=int, default=12)
    p.add_argument("--lost", type=float, default=4, help="seconds whose commits are lost")
    p.add_argument("--victims", default="pg-shard-1,pg-queue,pg-directory")
    p.add_argument("--pause", type=float, default=0.05, help="of a sender between two messages")
    p.add_argument("--binary", default=None)
    p.add_argument("--keep", action="store_true")
    a = p.parse_args()
    with World(a.senders, a.pause, a.binary, a.keep, "--standbys", "yes") as world:
        world.start()
        may_be_lost, befores = set(), []
        for victim in a.victims.split(","):
            time.sleep(3)
            settled, before = fail_over(world, victim, a.lost)
            befores.append(before)
            in_between = {i for s in world.senders for i in list(s.accepted)} - settled
            may_be_lost |= in_between  # the window, generously: until mail was taken again
            if victim == "pg-directory":
                check_accounts(world)
        for s in world.senders:  # what nobody can promise is not asked for
            for i in [i for i in s.accepted if i in may_be_lost]:
                s.unknown[i] = s.accepted.pop(i)
        time.sleep(5)
        world.end()
        now = uids_of(world)
        for before in befores:
            for user, uids in before.items():
                other = {u: (i, now[user][u]) for u, i in uids.items() if u in now[user] and now[user][u] != i}
                assert not other, f"{user}: UIDs that mean another message now: {list(other.items())[:5]}"
        print("1 passed, 0 failed")


if __name__ == "__main__":
    main()

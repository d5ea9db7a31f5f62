#!/bin/bash
# s3.sh start DIR | stop DIR: a real S3 server for tests: Ceph radosgw with one mon and one OSD in memory, on loopback.
# Free ports are looked for at the start. DIR/env then has THURN_TEST_S3=endpoint,bucket,access key,secret key.
# Needs radosgw, ceph-mon, ceph-osd, ceph-common. Ends only what it started.
set -eu
cmd=${1:-}; dir=${2:-}
[ -n "$dir" ] || { sed -n 2,4p "$0"; exit 2; }
case " ${THURN_TEST_WITHOUT:-} " in *" s3 "*) exit 0 ;; esac
export CEPH_CONF=$dir/ceph.conf CEPH_ARGS=
key=TESTACCESSKEY0000001 secret=testsecretkey00000000000000000000000001 bucket=thurn

for program in radosgw ceph-mon ceph-osd ceph; do
    command -v $program >/dev/null || { echo "$program is not installed" >&2; exit 1; }
done

# Seven ports in a row below the ephemeral range that nobody listens on.
free_ports() {
    python3 - <<'P'
import random, socket
def free(p):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", p))
            return True
        except OSError:
            return False
while True:
    p = random.randrange(12000, 19000)
    if all(free(p + i) for i in range(12)):
        print(p)
        break
P
}

conf() {
    cat >"$dir/ceph.conf" <<C
[global]
fsid = $(cat "$dir/fsid")
mon host = [v2:127.0.0.1:$((port + 1))]
ms bind ipv4 = true
ms bind ipv6 = false
ms bind msgr1 = false
public network = 127.0.0.0/8
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind port min = $((port + 2))
ms bind port max = $((port + 11))
auth cluster required = none
auth service required = none
auth client required = none
# With auth none the secure mode, radosgw's own default towards the mon, cannot be negotiated.
ms mon client mode = crc
run dir = $dir/run
admin socket = $dir/run/\$cluster-\$name.\$pid.asok
pid file = $dir/run/\$name.pid
crash dir = $dir/run
log file = $dir/log/\$name.log
log to stderr = false
err to stderr = false
mon cluster log file = $dir/log/cluster.log
mon data = $dir/mon
osd data = $dir/osd
rgw data = $dir/rgw
keyring = $dir/keyring
osd objectstore = memstore
memstore device bytes = $((2 << 30))
osd class load list = *
osd class default list = *
osd memory target = 1073741824
osd crush chooseleaf type = 0
osd crush update on start = true
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
mon allow pool size one = true
paxos propose interval = 0.05
paxos min wait = 0.01
mon election timeout = 1
mon lease = 5
mon max pg per osd = 2000
mon warn on pool no redundancy = false
mon data avail crit = 1
mon osd full ratio = .99
mon osd nearfull ratio = .98
mon osd backfillfull ratio = .98
osd failsafe full ratio = .995
osd scrub load threshold = 0.001
rgw frontends = beast endpoint=127.0.0.1:$port tcp_nodelay=1
rgw thread pool size = 32
rgw enable usage log = false
rgw enable ops log = false
rgw num control oids = 1
rgw override bucket index max shards = 1
rgw run sync thread = false
rgw dynamic resharding = false
C
}

background() {
    local name=$1
    shift
    setsid "$@" >>"$dir/log/$name.out" 2>&1 </dev/null &
    echo $! >"$dir/$name.pid"
}

alive() {
    [ -f "$dir/$1.pid" ] && kill -0 "$(cat "$dir/$1.pid")" 2>/dev/null
}

stop() {
    for name in radosgw osd mon; do
        if alive $name; then kill -9 "$(cat "$dir/$name.pid")" || true; fi
    done
}

answers() {
    [ "$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$port/" || true)" = 200 ]
}

start() {
    if alive radosgw; then return 0; fi
    rm -rf "$dir"
    mkdir -p "$dir/log" "$dir/run" "$dir/rgw" "$dir/mon" "$dir/osd"
    port=$(free_ports)
    cat /proc/sys/kernel/random/uuid >"$dir/fsid"
    conf
    : >"$dir/keyring"
    monmaptool --create --clobber --fsid "$(cat "$dir/fsid")" --addv a "[v2:127.0.0.1:$((port + 1))]" \
        --set-min-mon-release 16 "$dir/monmap" >/dev/null
    ceph-mon -i a --mkfs --monmap "$dir/monmap" >>"$dir/log/setup.out" 2>&1
    background mon ceph-mon -i a -f
    local uuid
    uuid=$(cat /proc/sys/kernel/random/uuid)
    timeout 60 ceph osd new "$uuid" 0 >/dev/null 2>>"$dir/log/setup.out"
    ceph-osd -i 0 --mkfs --osd-uuid "$uuid" >>"$dir/log/setup.out" 2>&1
    background osd ceph-osd -i 0 -f
    background radosgw radosgw -n client.rgw -f
    for _ in $(seq 900); do
        if answers; then break; fi
        alive radosgw || { echo "radosgw ended: $(tail -3 "$dir/log/radosgw.out")" >&2; stop; exit 1; }
        sleep 0.1
    done
    answers || { echo "radosgw does not answer" >&2; stop; exit 1; }
    radosgw-admin user create --uid=test --display-name=test --access-key="$key" --secret-key="$secret" \
        >>"$dir/log/setup.out" 2>&1
    curl -sSf -o /dev/null -X PUT --aws-sigv4 aws:amz:us-east-1:s3 -u "$key:$secret" \
        -H 'x-amz-content-sha256: UNSIGNED-PAYLOAD' "http://127.0.0.1:$port/$bucket"
    echo "http://127.0.0.1:$port,$bucket,$key,$secret" >"$dir/env"
}

case $cmd in
start) start ;;
stop) stop; rm -rf "$dir" ;;
*) sed -n 2,4p "$0"; exit 2 ;;
esac

#!/bin/bash
# pg.sh start DIR | stop DIR | standby DIR PRIMARY | promote DIR | kill DIR: a throw-away PostgreSQL cluster on a Unix socket in DIR (no TCP port), for tests.
# Run as root it runs as user postgres, as initdb refuses root. PG_FSYNC=on makes it durable (for benches).
# Connect with: host=DIR port=5432 user=test dbname=postgres
set -eu
# A standby follows the cluster in PRIMARY until it is promoted; kill ends a server without a word and leaves its files.
cmd=${1:-}; dir=${2:-}; primary=${3:-}
[ -n "$dir" ] || { sed -n 2,5p "$0"; exit 2; }
case " ${THURN_TEST_WITHOUT:-} " in *" pg "*) exit 0 ;; esac
bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -1)
[ -x "$bin/initdb" ] || { echo "PostgreSQL is not installed (package postgresql)" >&2; exit 1; }
if [ "$(id -u)" = 0 ]; then
    as() { (cd / && setpriv --reuid=postgres --regid=postgres --init-groups env HOME="$dir" "$@"); }
else
    as() { "$@"; }
fi

start() {
    if [ -s "$dir/data/PG_VERSION" ] && as "$bin/pg_ctl" -D "$dir/data" status >/dev/null 2>&1; then
        return 0
    fi
    rm -rf "$dir"
    mkdir -p "$dir"
    [ "$(id -u)" != 0 ] || chown postgres "$dir"
    as "$bin/initdb" -D "$dir/data" -U test --auth=trust -E UTF8 --locale=C.UTF-8 -N >"$dir/initdb.log" 2>&1 ||
        { cat "$dir/initdb.log" >&2; exit 1; }
    cat >>"$dir/data/postgresql.conf" <<C
listen_addresses = ''
port = 5432
unix_socket_directories = '$dir'
fsync = ${PG_FSYNC:-off}
shared_buffers = ${PG_BUFFERS:-64MB}
max_connections = 200
max_wal_size = 2GB
log_min_messages = warning
C
    # The server must not keep ctest's pipe open.
    as "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t 60 start >/dev/null 2>&1 </dev/null ||
        { tail -5 "$dir/log" >&2; exit 1; }
}

standby() {
    mkdir -p "$dir"
    [ "$(id -u)" != 0 ] || chown postgres "$dir"
    as "$bin/pg_basebackup" -h "$primary" -U test -D "$dir/data" -R -c fast >"$dir/basebackup.log" 2>&1 || { cat "$dir/basebackup.log" >&2; exit 1; }
    echo "unix_socket_directories = '$dir'" >>"$dir/data/postgresql.conf"
    as "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t 60 start >/dev/null 2>&1 </dev/null || { tail -5 "$dir/log" >&2; exit 1; }
}

case $cmd in
start) start ;;
standby) standby ;;
promote) as "$bin/pg_ctl" -D "$dir/data" -w promote >/dev/null ;;
kill) as "$bin/pg_ctl" -D "$dir/data" -m immediate -w stop >/dev/null 2>&1 ;;
stop) as "$bin/pg_ctl" -D "$dir/data" -m immediate -w stop >/dev/null 2>&1 || true; rm -rf "$dir" ;;
*) sed -n 2,5p "$0"; exit 2 ;;
esac

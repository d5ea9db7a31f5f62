#!/bin/sh
# Put a built Thurn in place as a service: program, unit, user, config, folder, first domain and account. `systemctl start thurn`
# is what is left. Run again it replaces program and unit and leaves config and data as they are. A folder /var/lib/thurn that an earlier
# server left (./start as root) is taken over, with its settings, when that server is stopped.
#
#   deploy/install.sh PROGRAM [you@example.com]
#     --user NAME      runs as this user, made when it is missing (thurn)
#     --prefix DIR     the program goes to DIR/bin (/usr/local)
#     --destdir DIR    everything goes below DIR, for images and packages: no user is made, systemd is not told
set -eu
here=$(dirname "$0")
. "$here/user.sh"

user=thurn prefix=/usr/local destdir='' program='' address=''
while [ $# -gt 0 ]; do
  case $1 in
  --user | --prefix | --destdir)
    [ $# -gt 1 ] || { echo "install: $1 needs a value" >&2; exit 2; }
    case $1 in
    --user) user=$2 ;;
    --prefix) prefix=$2 ;;
    --destdir) destdir=$2 ;;
    esac
    shift
    ;;
  -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *@*) address=$1 ;;
  *) [ -z "$program" ] || { echo "install: what is '$1'? See --help" >&2; exit 2; }; program=$1 ;;
  esac
  shift
done
[ -n "$program" ] && [ -x "$program" ] || { echo "install: '$program' is no program; build it by ./start --build-only" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "install: this makes a user and writes to $prefix and /etc: run it as root (sudo)" >&2; exit 1; }

data=$destdir/var/lib/thurn etc=$destdir/etc/thurn unit=$destdir/etc/systemd/system/thurn.service

# What stands in the way (a server that runs on the folder, a folder that is not ours) is said before anything is changed.
if [ ! -e "$etc/thurn.yaml" ]; then
  "$program" setup ${address:+"$address"} --dry-run --service --user "$user" --data "$data" --port-offset 0 || {
    status=$?
    echo "install: nothing was changed" >&2
    exit $status
  }
fi
[ -n "$destdir" ] || ensure_user "$user" /var/lib/thurn
group=$(id -gn "$user")

if [ ! -e "$etc/thurn.yaml" ]; then
  # It makes the folder, or takes over what an earlier server left, and goes on as that user.
  "$program" setup ${address:+"$address"} --service --user "$user" --data "$data" --port-offset 0
  install -d -m 750 -o root -g "$group" "$etc"
  { cat "$data/thurn.yaml" && { grep -q '^data:' "$data/thurn.yaml" || echo "data: /var/lib/thurn"; }; } >"$etc/thurn.yaml.new"
  chown "root:$group" "$etc/thurn.yaml.new"
  chmod 640 "$etc/thurn.yaml.new" # secrets may stand in it
  mv "$etc/thurn.yaml.new" "$etc/thurn.yaml"
  rm "$data/thurn.yaml"
  echo "The settings moved from $data/thurn.yaml to $etc/thurn.yaml"
elif [ -n "$address" ]; then
  echo "install: $etc/thurn.yaml is there and stays; add $address by 'thurn domain add' and 'thurn account add'" >&2
fi

install -d -m 755 "$destdir$prefix/bin" "$(dirname "$unit")"
install -m 755 "$program" "$destdir$prefix/bin/thurn.new"
mv "$destdir$prefix/bin/thurn.new" "$destdir$prefix/bin/thurn" # a running server keeps its own file
sed -e "s|^ExecStart=[^ ]*|ExecStart=$prefix/bin/thurn|" -e "s|^User=.*|User=$user|" -e "s|^Group=.*|Group=$group|" \
  "$here/systemd/thurn.service" >"$unit"
chmod 644 "$unit"
[ -d "$data" ] || install -d -m 700 -o "$user" -g "$group" "$data"

if [ -z "$destdir" ] && [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  systemctl --quiet enable thurn
fi
echo "Installed. Settings: /etc/thurn/thurn.yaml. To begin: systemctl start thurn"

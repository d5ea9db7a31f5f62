#!/bin/sh
# Put a built Thurn in place as a service: program, unit, user, config, folder, first domain and account. `systemctl start thurn`
# is what is left. Run again it replaces program and unit and leaves config and data as they are.
#
#   deploy/install.sh PROGRAM [you@example.com]
#     --user NAME      runs as this user, made when it is missing (thurn)
#     --prefix DIR     the program goes to DIR/bin (/usr/local)
#     --destdir DIR    everything goes below DIR, for images and packages: no user is made, systemd is not told
set -eu
here=$(dirname "$0")

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
  -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *@*) address=$1 ;;
  *) [ -z "$program" ] || { echo "install: what is '$1'? See --help" >&2; exit 2; }; program=$1 ;;
  esac
  shift
done
[ -n "$program" ] && [ -x "$program" ] || { echo "install: '$program' is no program; build it by ./start --build-only" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "install: this makes a user and writes to $prefix and /etc: run it as root (sudo)" >&2; exit 1; }

if [ -z "$destdir" ] && ! id "$user" >/dev/null 2>&1; then
  useradd --system --user-group --home-dir /var/lib/thurn --no-create-home --shell /usr/sbin/nologin "$user"
fi
group=$(id -gn "$user")
data=$destdir/var/lib/thurn etc=$destdir/etc/thurn unit=$destdir/etc/systemd/system/thurn.service

install -d -m 755 "$destdir$prefix/bin" "$(dirname "$unit")"
install -m 755 "$program" "$destdir$prefix/bin/thurn.new"
mv "$destdir$prefix/bin/thurn.new" "$destdir$prefix/bin/thurn" # a running server keeps its own file
sed -e "s|^ExecStart=[^ ]*|ExecStart=$prefix/bin/thurn|" -e "s|^User=.*|User=$user|" -e "s|^Group=.*|Group=$group|" \
  "$here/systemd/thurn.service" >"$unit"
chmod 644 "$unit"
install -d -m 700 -o "$user" -g "$group" "$data"
install -d -m 750 -o root -g "$group" "$etc"

if [ ! -e "$etc/thurn.yaml" ]; then
  # As the user it will run as, so that all files are its own.
  setpriv --reuid "$user" --regid "$group" --init-groups --inh-caps +net_bind_service --ambient-caps +net_bind_service \
    "$destdir$prefix/bin/thurn" setup ${address:+"$address"} --service --data "$data" --port-offset 0
  { cat "$data/thurn.yaml" && echo "data: /var/lib/thurn"; } >"$etc/thurn.yaml.new"
  chown "root:$group" "$etc/thurn.yaml.new"
  chmod 640 "$etc/thurn.yaml.new" # secrets may stand in it
  mv "$etc/thurn.yaml.new" "$etc/thurn.yaml"
  rm "$data/thurn.yaml"
elif [ -n "$address" ]; then
  echo "install: $etc/thurn.yaml is there and stays; add $address by 'thurn domain add' and 'thurn account add'" >&2
fi

if [ -z "$destdir" ] && [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  systemctl --quiet enable thurn
fi
echo "Installed. Settings: /etc/thurn/thurn.yaml. To begin: systemctl start thurn"

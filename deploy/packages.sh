# Debian packages, one list for each purpose; sourced by ./start, ./test and the container file.
BUILD_PACKAGES="gcc cmake ninja-build pkg-config libuv1-dev libssl-dev libprotobuf-c-dev protobuf-c-compiler
  protobuf-compiler libpq-dev libhiredis-dev libcurl4-openssl-dev libsqlite3-dev libunbound-dev libidn2-dev libpsl-dev
  libicu-dev libpcre2-dev libzstd-dev libargon2-dev libzxcvbn-dev libcrypt-dev libyaml-dev libjansson-dev libhttp-parser-dev gawk ca-certificates"
TEST_PACKAGES="ccache libcmocka-dev postgresql redis-server radosgw ceph-mon ceph-osd ceph-common postfix swaks libnet-ssleay-perl isync curl
  knot unbound python3 procps strace openssl netcat-openbsd shellcheck clang-format"
CI_PACKAGES="clang clang-tidy libclang-rt-14-dev valgrind libc6-dbg"

# ensure_packages WHAT PACKAGE… : install those that are missing, or say how and stop.
ensure_packages() {
  what=$1
  shift
  missing=
  for p in "$@"; do
    case $(dpkg-query -W -f='${Status}' "$p" 2>/dev/null) in
    *"install ok installed") ;;
    *) missing="$missing $p" ;;
    esac
  done
  [ -z "$missing" ] && return 0
  command -v apt-get >/dev/null || {
    echo "$what needs these Debian packages (or your system's equivalents):$missing" >&2
    exit 1
  }
  if [ "$(id -u)" = 0 ]; then
    sudo=
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo=sudo
  else
    echo "$what needs packages that are not installed. Run this, then try again:" >&2
    echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends$missing" >&2
    exit 1
  fi
  echo "Installing:$missing"
  log=$(mktemp)
  trap 'rm -f "$log"; exit 130' INT
  trap 'rm -f "$log"; exit 143' TERM HUP
  $sudo apt-get -o DPkg::Lock::Timeout=300 update -q >"$log" 2>&1 || true
  # shellcheck disable=SC2086
  if ! $sudo env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y \
    --no-install-recommends $missing >>"$log" 2>&1 </dev/null; then
    tail -20 "$log" >&2
    echo "Installing failed; the whole output is in $log" >&2
    exit 1
  fi
  rm -f "$log"
  trap - INT TERM HUP
}

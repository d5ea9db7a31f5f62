# shellcheck shell=sh
# The system user that the server runs as; sourced by ./start and deploy/install.sh, which are root.

# ensure_user NAME HOME : make it when it is missing. 1 and a reason on standard error when it cannot be made.
ensure_user() (
  PATH=$PATH:/usr/sbin:/sbin
  id "$1" >/dev/null 2>&1 && return 0
  command -v useradd >/dev/null || {
    echo "user '$1' is not there, and there is no useradd to make it" >&2
    return 1
  }
  useradd --system --user-group --home-dir "$2" --no-create-home --shell /usr/sbin/nologin "$1"
)

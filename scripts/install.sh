# Sourced by the other scripts: makes .venv and installs the project with pinned versions, once.
# A second run installs nothing, unless the files that say what to install have changed.

fail() { echo "error: $*" >&2; exit 1; }

python=${PYTHON:-}
if [ -z "$python" ]; then
  for candidate in python3.11 python3.12 python3.13 python3; do
    if command -v "$candidate" >/dev/null &&
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      python=$candidate
      break
    fi
  done
fi
[ -n "$python" ] || fail "Python 3.11 or newer is needed and none was found; install it, or say \
where it is: PYTHON=/path/to/python3.11 $0"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
  fail "Python 3.11 or newer is needed, and $python is $("$python" -V 2>&1)"

stamp=.venv/installed
wanted=$(cat setup.cfg pyproject.toml constraints.txt | cksum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  echo "installing into .venv (once; a few minutes)"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  [ -x .venv/bin/python ] || "$python" -m venv .venv ||
    fail "could not make .venv with $python; on Debian and Ubuntu: apt install python3-venv"
  pip_install() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$@" \
      >"$log" 2>&1 && return
    cat "$log" >&2
    if grep -qiE 'connection|timed out|name resolution|no matching distribution|retries' "$log"; then
      fail "pip could not reach a package index; check the network, or pip's index settings"
    fi
    fail "pip could not install the project; its words stand above"
  }
  extras=dmcontrol,mujoco,minari,experiments,joblib,dev
  if .venv/bin/python -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then
    extras=$extras,bullet,metadrive
  else
    echo "without bullet/ and metadrive/ environments: their simulators need Python 3.11"
  fi
  pip_install -e ".[$extras]"
  # Without their dependencies: the first asks for an outdated gymnasium, though it works with
  # today's, and of the second only a table is read.
  pip_install --no-deps bullet-safety-gym d4rl
  echo "$wanted" >"$stamp"
fi


#!/usr/bin/env bash
# The front door: ./launch.sh <script> [flags] runs experiments/<script>.py.
#
# The first use makes .venv beside this file and installs the project into it, with CUDA jax
# where nvidia-smi answers and CPU jax elsewhere. Later uses start at once; they reinstall only
# when setup.py or pyproject.toml changed, or when a GPU turned up.
#
#   ./launch.sh help           every script in one line each
#   ./launch.sh test [args]    the tests (arguments go to pytest)
#   ./launch.sh lint           ruff check and ruff format --check
#
# PYTHON=<interpreter> picks the Python of the install; DISPLACEMENT_JAX=cpu|cuda overrides
# the look for a GPU.
set -u

readonly OLDEST_MINOR=11  # of Python 3; the same bound as python_requires in setup.py

self=${BASH_SOURCE[0]}
while [ -L "$self" ]; do  # a link to this file, from ~/bin for example, is followed
  link=$(readlink "$self")
  case $link in
    /*) self=$link ;;
    *) self=$(dirname -- "$self")/$link ;;
  esac
done
root=$(CDPATH='' cd -- "$(dirname -- "$self")" && pwd -P) || exit 1
readonly root venv=$root/.venv log=$root/.venv-install.log
readonly python=$venv/bin/python stamp=$venv/.installed

say() { printf '%s\n' "$*" >&2; }
fail() {
  say "launch.sh: $*"
  exit 1
}

# ---- the scripts -----------------------------------------------------------------------------

scripts() {  # the names of the files in experiments/ that can be run
  local file
  for file in "$root"/experiments/*.py; do
    if grep -q 'app\.run(' "$file" 2>/dev/null; then
      basename -- "$file" .py
    fi
  done
}

summary() {  # the first line of text in the module docstring of one script
  awk '!inside && sub(/^[rRuU]?"""/, "") { inside = 1 }
       inside && NF { sub(/""".*/, ""); print; exit }' "$root/experiments/$1.py"
}

help() {
  local name
  echo "usage: ./launch.sh <script> [flags]"
  echo
  for name in $(scripts); do
    printf '  %-10s %s\n' "$name" "$(summary "$name")"
  done
  echo
  printf '  %-10s %s\n' \
    test "Run the tests; arguments go to pytest." \
    lint "Check the code with ruff." \
    help "Print this list."
  echo
  echo "./launch.sh <script> --help lists the flags of a script."
}

# ---- the installation ------------------------------------------------------------------------

version_of() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null; }

recent_enough() {  # is version $1, such as 3.11.7, at least 3.$OLDEST_MINOR?
  local major minor
  IFS=. read -r major minor _ <<<"$1"
  [ "$major" -gt 3 ] || { [ "$major" -eq 3 ] && [ "$minor" -ge "$OLDEST_MINOR" ]; }
} 2>/dev/null

find_python() {  # prints an interpreter that is recent enough, or fails with a plain message
  local candidate version found=""
  if [ -n "${PYTHON:-}" ]; then
    version=$(version_of "$PYTHON") || fail "PYTHON=$PYTHON does not start as a Python" \
      "interpreter. Set it to Python 3.$OLDEST_MINOR or newer, or unset it."
    recent_enough "$version" || fail "PYTHON=$PYTHON is Python $version, but 3.$OLDEST_MINOR or" \
      "newer is needed. Set PYTHON to a newer interpreter, or unset it."
    printf '%s\n' "$PYTHON"
    return
  fi
  for candidate in python3 python3.13 python3.12 python3.11 python; do
    version=$(version_of "$candidate") || continue
    if recent_enough "$version"; then
      printf '%s\n' "$candidate"
      return
    fi
    found="$found, $candidate is Python $version"
  done
  fail "Python 3.$OLDEST_MINOR or newer is needed; found ${found:+only:${found#,}}${found:-none}." \
    "Install one and try again, or name it: PYTHON=/path/to/python3 ./launch.sh ..."
}

jax_kind() {  # cpu or cuda
  local answer=cpu limit=""
  case ${DISPLACEMENT_JAX:-} in
    cpu | cuda) answer=$DISPLACEMENT_JAX ;;
    "")
      # CUDA jax also runs without a GPU, so a CUDA install is kept on the nodes that have none.
      command -v timeout >/dev/null && limit="timeout 10"
      if grep -qs '^cuda' "$stamp"; then
        answer=cuda
      elif command -v nvidia-smi >/dev/null && $limit nvidia-smi >/dev/null 2>&1; then
        answer=cuda
      fi
      ;;
    *) fail "DISPLACEMENT_JAX=$DISPLACEMENT_JAX is unknown. Set it to cpu or cuda, or unset it." ;;
  esac
  printf '%s\n' "$answer"
}

installed() { [ -x "$python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; }

fail_install() {  # the end of the log says why; addresses in it are of no use to the reader
  say "launch.sh: $1"
  say "The end of $log:"
  tail -n 15 "$log" | sed -E -e 's#[a-z+]+://[^[:space:],;]*#<address>#g' \
    -e "s/host='[^']*'/host=<name>/g" -e 's/^/  /' >&2
  exit 1
}

install() {
  local base extras=dev version
  : >>"$log" || fail "cannot write $log. Make $root writable and try again."
  exec 9>>"$log"
  if command -v flock >/dev/null && ! flock -n 9; then
    say "Waiting for the install that another launch.sh has begun ..."
    flock 9 || fail "cannot lock $log. Remove it and try again."
  fi
  if ! installed; then
    # A stamp is written last and removed first, so half an install never counts as one.
    if [ -e "$stamp" ]; then
      say "Updating .venv (setup.py, pyproject.toml, folder or GPU changed) ..."
    else
      say "Installing into .venv (first use, a few minutes) ..."
    fi
    rm -f "$stamp"
    : >"$log"
    version=$(version_of "$python") || version=0.0.0
    if ! recent_enough "$version" || ! "$python" -m pip --version >>"$log" 2>&1; then
      base=$(find_python) || exit 1
      "$base" -m venv --clear "$venv" >>"$log" 2>&1 </dev/null || fail_install \
        "$base could not make $venv. On Debian or Ubuntu: sudo apt install python3-venv."
    fi
    [ "$kind" = cuda ] && extras=dev,cuda
    (CDPATH='' cd -- "$root" && "$python" -m pip install --disable-pip-version-check --no-input \
      -e ".[$extras]") >>"$log" 2>&1 </dev/null || fail_install \
      "pip could not install the project. Check the network and the disk, then try again."
    printf '%s\n' "$wanted" >"$stamp.new" && mv -f "$stamp.new" "$stamp" ||
      fail "cannot write $stamp. Make it writable and try again."
  fi
  exec 9>&-
}

prepare() {
  local sum
  sum=$(cat "$root/setup.py" "$root/pyproject.toml" | cksum) || exit 1
  kind=$(jax_kind) || exit 1
  wanted="$kind $sum $root"
  installed || install
}

# ---- the commands ----------------------------------------------------------------------------

# What XLA compiled is kept beside the installation: the second start of a script, and the tests
# that start scripts, need not compile again. The key holds versions, options and the processor.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR-$root/.venv/compiled}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=${JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS-0.2}

name=${1:-help}
[ $# -gt 0 ] && shift
case $name in
  help | -h | --help)
    help
    exit 0
    ;;
  test)
    prepare
    CDPATH='' cd -- "$root" || exit 1
    workers="-n 2" share="--dist=loadfile"  # a file's fixtures train networks, once
    for argument in "$@"; do
      case $argument in
        -n* | --numprocesses*) workers="" ;;
        --pdb | no:xdist | -pno:xdist) workers="" share="" ;;
      esac
    done
    export WANDB_MODE=disabled
    # shellcheck disable=SC2086  # several words or none
    exec "$python" -m pytest $workers $share "$@"
    ;;
  lint)
    prepare
    CDPATH='' cd -- "$root" || exit 1
    "$python" -m ruff check "$@"
    checked=$?
    "$python" -m ruff format --check "$@"
    exit $((checked ? checked : $?))
    ;;
esac

name=${name%.py}
name=${name#experiments/}
if ! scripts | grep -Fqx -- "$name"; then
  say "launch.sh: there is no script named '$name'. There are: $(scripts | paste -sd ' ' -)."
  say "./launch.sh help says what each does."
  exit 2
fi
prepare
# -P: the current folder is not searched for modules, so that files lying there cannot be
# taken for the project's. It stays the current folder: paths in the flags are relative to it.
exec "$python" -P -m "experiments.$name" "$@"

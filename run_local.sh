#!/usr/bin/env bash
# Installs what is needed into .venv beside this file, then labels music with it. See --help.
set -euo pipefail

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
VENV=$ROOT/.venv
PY=$VENV/bin/python

usage() {
  cat <<'TEXT'
Usage:
  ./run_local.sh                        make a small sample catalog and label it
  ./run_local.sh PATH... [--option...]  label these files, folders, globs or manifests
  ./run_local.sh serve [--option...]    label in a browser and by HTTP, at http://127.0.0.1:7860
  ./run_local.sh test [pytest args]     check style and types, then run the tests
  ./run_local.sh --help                 this text

The first start installs the project and what it needs into .venv beside this script, which
takes a few minutes; later starts take seconds.

Each PATH becomes --input=PATH; a word that follows an option written without '=' is taken for
that option's value, and every word after -- is a path. Options are passed on to pipeline.main,
which explains them: .venv/bin/python -m pipeline.main --help
Without --output the labels go to ./labels; those of the sample catalog go to sample/labels.
The options of serve are those of pipeline.serve: ./run_local.sh serve --help
A folder that is called test or serve is written ./test or ./serve.

Environment:
  PYTHON           the interpreter for .venv; unset: the first of python3.13 to python3.10 and
                   python3 that will do
  TORCH_INDEX_URL  package index from which PyTorch is installed before the rest, for example
                   https://download.pytorch.org/whl/cpu for a smaller build without GPU support;
                   unset: pip's own choice
TEXT
}

say() { printf 'run_local.sh: %s\n' "$*" >&2; }
die() { say "$1"; exit "${2:-1}"; }

supported() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; }

choose_python() {
  local candidate lacking='' candidates=(python3.13 python3.12 python3.11 python3.10 python3)
  [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    supported "$candidate" || continue
    if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
    lacking=${lacking:-$candidate}
  done
  [[ -z $lacking ]] || die "$lacking cannot make virtual environments: install its venv module (Debian, Ubuntu: apt-get install python3-venv)"
  [[ -z ${PYTHON:-} ]] || die "PYTHON=$PYTHON is not a Python 3.10 to 3.13: name another one, or unset it"
  die "no Python 3.10 to 3.13 found: install one (Debian, Ubuntu: apt-get install python3 python3-venv), or set PYTHON to its path"
}

make_venv() {
  local python
  if "$PY" -m pip --version >/dev/null 2>&1; then return; fi
  python=$(choose_python)
  "$python" -m venv "$VENV" >/dev/null || die "could not make $VENV with $python"
}

check_python() { # refuse a .venv of another Python than the one asked for, rather than replace it
  [[ -n ${PYTHON:-} && -x $PY ]] || return 0
  local ask='import sys; print("%d.%d" % sys.version_info[:2])' wanted held
  supported "$PYTHON" || die "PYTHON=$PYTHON is not a Python 3.10 to 3.13: name another one, or unset it"
  wanted=$("$PYTHON" -c "$ask")
  held=$("$PY" -c "$ask" 2>/dev/null) || return 0
  [[ $wanted == "$held" ]] || die "$VENV holds Python $held, PYTHON asks for $wanted: remove .venv, or unset PYTHON"
}

# What an installation depends on: the stated requirements, the interpreter, where the project lies.
fingerprint() {
  "$PY" --version 2>/dev/null || true
  cat "$ROOT/setup.py" "$ROOT/pipeline/__init__.py" | cksum
  printf '%s\n' "$ROOT"
}

install() { # install NAME EXTRAS [TORCH PACKAGE...]
  local name=$1 extras=$2
  shift 2
  check_python
  if [[ -f $VENV/.installed-$name && $(<"$VENV/.installed-$name") == "$(fingerprint)" ]]; then return; fi
  make_venv
  if compgen -G "$VENV/.installed-*" >/dev/null; then
    say 'installing into .venv what is new or has changed'
  else
    say 'first start: installing into .venv, a few minutes'
  fi
  export PIP_DISABLE_PIP_VERSION_CHECK=1
  if [[ -n ${TORCH_INDEX_URL:-} ]]; then
    "$PY" -m pip install --quiet --index-url "$TORCH_INDEX_URL" "$@"
  fi
  (cd "$ROOT" && "$PY" -m pip install --quiet --editable ".$extras")
  fingerprint >"$VENV/.installed-$name"
  [[ $name == run ]] || cp "$VENV/.installed-$name" "$VENV/.installed-run"
}

label() {
  local given=() takes_value='' input='' output='' path
  while (($#)); do
    if [[ $1 == -- ]]; then
      shift
      for path in "$@"; do given+=("--input=$path"); input=1; done
      break
    elif [[ $1 == -* && ! -e $1 ]]; then
      [[ $1 != --input && $1 != --input=* ]] || input=1
      [[ $1 != --output && $1 != --output=* ]] || output=1
      given+=("$1")
      takes_value=1
      [[ $1 != *=* ]] || takes_value=''
    elif [[ -n $takes_value ]]; then
      given+=("$1")
      takes_value=''
    else
      given+=("--input=$1")
      input=1
    fi
    shift
  done
  [[ -n $input ]] || die 'no input: name a file, a folder, a glob or a manifest first (see --help)' 2
  [[ -n $output ]] || given+=(--output=labels)
  export PYTHONSAFEPATH=1 # modules are the installed ones, whatever lies in the current folder
  install run '' torch
  exec "$PY" -m pipeline.main --runner=DirectRunner "${given[@]}"
}

label_sample() {
  cd "$ROOT"
  install run '' torch
  [[ -d sample/catalog ]] || "$PY" -m pipeline.sample --output=sample/catalog
  exec "$PY" -m pipeline.main --runner=DirectRunner --input=sample/catalog --output=sample/labels
}

serve() {
  export PYTHONSAFEPATH=1
  install serve '[serve]' torch
  exec "$PY" -m pipeline.serve "$@"
}

run_tests() {
  local failed=0 tests=0
  cd "$ROOT"
  install test '[dev,train,bench]' torch torchvision
  "$PY" -m ruff check . || failed=1
  "$PY" -m mypy --strict || failed=1
  ((failed == 0)) || say 'ruff or mypy failed, see above: the exit status will be 1 whatever the tests say'
  "$PY" -m pytest "$@" || tests=$?
  exit $((tests > 0 ? tests : failed))
}

case ${1:-} in
  '') label_sample ;;
  -h | --help) usage ;;
  serve) shift; serve "$@" ;;
  test) shift; run_tests "$@" ;;
  *) label "$@" ;;
esac

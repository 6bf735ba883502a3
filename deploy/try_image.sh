#!/usr/bin/env bash
# Builds deploy/Dockerfile without a Docker daemon and labels the sample catalog in it. See --help.
set -euo pipefail

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${CATALOG_LABELS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/catalog-labels}/image
SUITE=bookworm
POOL_PORT=${POOL_PORT:-50000}

usage() {
  cat <<'TEXT'
Usage:
  deploy/try_image.sh        build the image on a bare Debian 12, and label the sample catalog in it
  deploy/try_image.sh --help

Needs root, buildah and debootstrap (Debian, Ubuntu: apt-get install buildah debootstrap), 10 GB of
disk and some minutes. buildah follows deploy/Dockerfile as Docker would, but on a Debian from its
package archive instead of python:…-slim from a registry. Then, as the image's user,

  1. the image's entrypoint is what its users start: /opt/apache/beam/boot, catalog-labels-worker
  2. a worker pool is started as in deploy/kubernetes, and labels over Beam's portable runner
  3. the image labels alone, and the rows must be the same
  4. nothing may have been written outside /tmp

pip's settings of this machine (pip config, PIP_…) hold for the build too. /opt/catalog-labels is
mounted into the build, not committed: half of the time would go into copying PyTorch.

Environment:
  TORCH_INDEX_URL       as in deploy/Dockerfile (default: pip's own choice, several GB)
  EXTRAS                the same (default: aws)
  DEBIAN_MIRROR         (default: http://deb.debian.org/debian)
  CATALOG_LABELS_CACHE  where the bare Debian stays, in image/ (default: ~/.cache/catalog-labels)
  POOL_PORT             of the worker pool on this machine's loopback interface (default: 50000)
TEXT
}

say() { printf 'try_image.sh: %s\n' "$*"; }
die() { printf 'try_image.sh: %s\n' "$1" >&2; exit "${2:-1}"; }

check_machine() {
  local program
  [[ $(id -u) == 0 ]] || die 'needs root, to build in a chroot'
  for program in buildah debootstrap; do
    command -v "$program" >/dev/null ||
      die "$program is missing: apt-get install $program (Debian, Ubuntu)"
  done
}

in_store() { # buildah with images and containers of this run alone
  buildah --root "$WORK/store" --runroot "$WORK/run" --storage-driver "$DRIVER" "$@"
}

bare_debian() { # the base image, from a tar that is made once
  local tar=$CACHE/$SUITE.tar container
  if [[ ! -f $tar ]]; then
    say "fetching a bare Debian $SUITE"
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$SUITE" \
      "$WORK/root" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$WORK/debootstrap.log" 2>&1 ||
      die "debootstrap failed: $(tail -n 3 "$WORK/debootstrap.log")"
    rm -rf -- "$WORK/root/var/cache/apt/archives"/*.deb
    tar -C "$WORK/root" -cf "$tar.new" .
    mv -- "$tar.new" "$tar"
    rm -rf -- "$WORK/root"
  fi
  container=$(in_store from scratch)
  in_store add --quiet "$container" "$tar" / >/dev/null
  in_store commit --quiet --rm "$container" localhost/bare-debian >/dev/null
}

# pip's settings, and the certificates that it is told to trust, at the same place in the build.
pip_settings() {
  local line key value
  printf '[global]\n' >"$WORK/pip.conf"
  MOUNTS=(--volume "$WORK/pip.conf:/etc/pip.conf:ro")
  while IFS= read -r line; do
    key=${line%%=*} value=${line#*=}
    value=${value#\'} value=${value%\'}
    key=${key#global.} key=${key#:env:.}
    case $key in
      cert | index-url | extra-index-url | find-links | timeout | default-timeout | retries | trusted-host | proxy) ;;
      *) continue ;;
    esac
    printf '%s = %s\n' "$key" "$value" >>"$WORK/pip.conf"
    if [[ $value == /* && -e $value ]]; then MOUNTS+=(--volume "$value:$value:ro"); fi
  done < <(python3 -m pip config list 2>/dev/null | awk -F= '{k=$1; sub(/^.*\./,"",k)} !seen[k]++')
}

build() {
  say "building deploy/Dockerfile (storage: $DRIVER)"
  mkdir -p -- "$WORK/prefix" "$WORK/tmp"
  TMPDIR=$WORK/tmp in_store build --isolation=chroot --file "$ROOT/deploy/Dockerfile" \
    --build-arg BASE=localhost/bare-debian --build-arg EXTRAS="${EXTRAS-aws}" \
    --build-arg TORCH_INDEX_URL="${TORCH_INDEX_URL:-}" \
    --volume "$WORK/prefix:/opt/catalog-labels:rw" "${MOUNTS[@]}" \
    --tag catalog-labels "$ROOT" >"$WORK/build.log" 2>&1 ||
    die "the build failed: $(tail -n 20 "$WORK/build.log")"
  CONTAINER=$(in_store from localhost/catalog-labels)
}

inside() { # COMMAND...: as the image's user. Its host name must be one that resolves.
  in_store run --isolation=chroot --hostname localhost \
    --volume "$WORK/prefix:/opt/catalog-labels:ro" "$CONTAINER" -- "$@"
}

check_entrypoint() {
  local format='{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}}' found
  found=$(in_store inspect --type image --format "$format" localhost/catalog-labels)
  say "user and entrypoint: $found"
  [[ $found == '10001:10001 [/opt/apache/beam/boot]' ]] || die 'these are not what is documented'
  inside /opt/apache/beam/boot --help >"$WORK/help" || die 'the entrypoint does not start'
  grep -q '^usage: catalog-labels-worker' "$WORK/help" || die 'the entrypoint is another program'
}

label() { # by a worker pool, then alone; prints what was found
  # shellcheck disable=SC2016 # it is the inner shell that expands these
  inside bash -euc '
    [[ $(id -u):$(id -g) == 10001:10001 ]]
    cd /tmp
    python -m pipeline.sample --output=catalog
    python -m apache_beam.runners.worker.worker_pool_main --service_port="$0" \
      --container_executable=/opt/apache/beam/boot 2>pool.log &
    pool=$!
    trap "kill $pool" EXIT
    label() { timeout 180 python -m pipeline.main --input=catalog --progress=none "$@"; }
    label --output=pooled --runner=PortableRunner --job_endpoint=embed \
      --environment_type=EXTERNAL --environment_config="localhost:$0" || { cat pool.log >&2; exit 1; }
    grep -q "Starting worker with command .*/opt/apache/beam/boot" pool.log
    label --output=alone --precision=float32 >/dev/null
    python - <<PYTHON
import pyarrow.parquet as pq

def rows(output, name):
    table = pq.read_table(f"{output}/{name}")
    of_the_run = {"run_id", "labelled_at", "failed_at"}
    return sorted(map(str, table.select([c for c in table.column_names if c not in of_the_run]).to_pylist()))

for name in ("predictions", "windows", "failures"):
    pooled, alone = rows("pooled", name), rows("alone", name)
    assert pooled and pooled == alone, f"{name} differ: {pooled[:1]} {alone[:1]}"
    print(f"{name}: {len(pooled)} rows, the same by a worker pool and alone")
PYTHON
    find / -xdev -user 10001 -not -path "/tmp/*" -not -path "/proc/*" >written 2>/dev/null || true
    [[ ! -s written ]] || { echo "written outside /tmp: $(cat written)" >&2; exit 1; }
    echo "nothing was written outside /tmp"
  ' "$POOL_PORT"
}

clean_up() {
  if [[ -n ${CONTAINER:-} ]]; then in_store rm "$CONTAINER" >/dev/null 2>&1 || true; fi
  if [[ -d $WORK/store ]]; then in_store rmi --all --force >/dev/null 2>&1 || true; fi
  # Only below this folder, and never into something that is still mounted there.
  rm -rf --one-file-system -- "$WORK" || true
}

try_image() {
  check_machine
  DRIVER=vfs
  if grep -qw overlay /proc/filesystems; then DRIVER=overlay; fi
  mkdir -p -- "$CACHE"
  WORK=$(mktemp -d "$CACHE/work-XXXXXX")
  trap clean_up EXIT
  bare_debian
  pip_settings
  build
  check_entrypoint
  label
  say "took $SECONDS s"
}

case ${1:-} in
  '') try_image ;;
  -h | --help) usage ;;
  *) usage >&2; exit 2 ;;
esac

#!/usr/bin/env bash
# Builds the flex template, or starts a run from it. See --help.
set -euo pipefail

HERE=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

usage() {
  cat <<'TEXT'
Usage:
  deploy/dataflow/template.sh build              make the template's file on Cloud Storage
  deploy/dataflow/template.sh run INPUT OUTPUT   start a run: gs://… to gs://…
  deploy/dataflow/template.sh --help

The images are built and pushed before:
  docker build -f deploy/Dockerfile -t $IMAGE . && docker push $IMAGE
  docker build -f deploy/dataflow/Dockerfile --build-arg IMAGE=$IMAGE -t $IMAGE-template \
    deploy/dataflow && docker push $IMAGE-template

A run from a template is over for its launcher as soon as Dataflow has it. Once its job has ended,
the same command without the template closes its books (docs/deployment.md).

Environment, all of it needed:
  IMAGE     of deploy/Dockerfile in a registry: europe-west1-docker.pkg.dev/PROJECT/REPOSITORY/catalog-labels:0.1.0
  TEMPLATE  the template's file: gs://BUCKET/templates/catalog-labels.json
  REGION    of the job: europe-west1
  STAGING   folder for Dataflow's own files: gs://BUCKET/staging
TEXT
}

build() {
  gcloud dataflow flex-template build "$TEMPLATE" --image="$IMAGE-template" \
    --sdk-language=PYTHON --metadata-file="$HERE/metadata.json"
}

run() { # INPUT OUTPUT
  # One SDK process for each core is what Dataflow starts by itself; with one thread each, as many
  # bundles are worked on as there are cores. n2-standard has 4 GB for a core: enough for a ViT-B.
  gcloud dataflow flex-template run "catalog-labels-$(date -u +%Y%m%d-%H%M%S)" \
    --template-file-gcs-location="$TEMPLATE" --region="$REGION" \
    --staging-location="$STAGING" --temp-location="$STAGING/tmp" \
    --worker-machine-type=n2-standard-4 --max-workers=20 \
    --parameters="input=$1" --parameters="output=$2" \
    --parameters="sdk_container_image=$IMAGE" --parameters=experiments=use_runner_v2 \
    --parameters=number_of_worker_harness_threads=1
}

case ${1:-}:$# in
  build:1) : "${IMAGE:?}" "${TEMPLATE:?}"; build ;;
  run:3) : "${IMAGE:?}" "${TEMPLATE:?}" "${REGION:?}" "${STAGING:?}"; run "$2" "$3" ;;
  -h:1 | --help:1) usage ;;
  *) usage >&2; exit 2 ;;
esac

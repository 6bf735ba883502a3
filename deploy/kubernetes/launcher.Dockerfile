# The image that submits a run to Flink or Spark: that of deploy/Dockerfile, with Java and Beam's job
# servers, which deploy/local_cluster.sh builds from pinned versions:
#
#   deploy/local_cluster.sh flink jar && deploy/local_cluster.sh spark jar
#   docker build -f deploy/kubernetes/launcher.Dockerfile -t catalog-labels-launcher \
#     --build-arg IMAGE=catalog-labels ~/.cache/catalog-labels/jars

ARG IMAGE=catalog-labels
FROM ${IMAGE}

USER 0:0
RUN apt-get update \
    && apt-get install -y --no-install-recommends openjdk-17-jre-headless \
    && rm -rf /var/lib/apt/lists/*
# pipeline.clusters looks here.
ENV CATALOG_LABELS_CACHE=/opt/catalog-labels/cache
COPY flink-1.19-job-server.jar spark-3-job-server.jar /opt/catalog-labels/cache/jars/

USER 10001:10001
ENTRYPOINT ["python", "-m", "pipeline.main"]

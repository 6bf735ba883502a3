"""What is installed: the packages `pipeline` and `transforms`, and what they need."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
README = HERE / "README.md"


def version() -> str:
    """Read ``pipeline.__version__`` without importing the package and what it needs."""
    text = (HERE / "pipeline" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise RuntimeError("pipeline/__init__.py states no __version__")
    return found.group(1)


# Lower bounds leave room for what Python 3.10 can still get; upper bounds are the next major
# version, or for 0.x packages the next minor one where their releases break.
REQUIRES = [
    # The pipeline. Never its extras [torch] and [transformers]: they cap torch, and pip then
    # silently goes back to a Beam of years ago.
    "apache-beam>=2.77,<2.78",
    "numpy>=2.0,<3",  # every array between the stages
    "pyarrow>=14,<26",  # Parquet in and out; the upper bound is Beam's
    "librosa>=0.11,<0.12",  # silence trim and --features; the reference in tests and benchmarks
    "pyloudnorm>=0.1.1,<0.3",  # the K-weighting of --features, and the reference in tests
    "soundfile>=0.13,<1",  # decodes WAV, FLAC, Ogg and MP3; its wheels bring libsndfile
    "soxr>=0.5,<2",  # resampling
    # Decodes what soundfile cannot (AAC, ALAC, WMA…); its wheels bring FFmpeg. Version 19 no longer
    # takes the argument metadata_errors, which transforms/audio/pyav_reader.py passes.
    "av>=15,<19",
    "scipy>=1.14,<2",  # FFT and sparse matrices of the spectrogram
    "threadpoolctl>=3.1,<4",  # the same rounding of --features under every number of threads
    "torch>=2.6,<3",  # runs the models
    "transformers>=5,<6",  # the vision transformer and its checkpoint format
    "safetensors>=0.5,<1",  # weights that can be loaded without running code
    "noisereduce>=3.0.3,<4",  # the optional spectral-gate denoising
    "tqdm>=4.66,<5",  # progress on a terminal
]

TRAIN = [
    "matplotlib>=3.9,<4",  # confusion matrices and curves
    "scikit-learn>=1.5,<2",  # splits and scores
]

BENCH = [
    # Other ways to label a catalog, to compare with. What they need beside this is small.
    "dask[bag]>=2025.1,<2028",  # versions are dates: the upper bound leaves a year
    "ray[data]>=2.40,<3",
    "matplotlib>=3.9,<4",  # the chart
]

KAFKA = ["confluent-kafka>=2.6,<3"]  # writes topics, and reads them where no Java does

SERVE = [
    # The page; it relies on internals, which tests/pipeline/serving/page would show broken.
    "gradio>=6.31,<6.32",
    "fastapi>=0.115,<1",  # the API and its description
    "uvicorn>=0.34,<1",  # the HTTP server
    "python-multipart>=0.0.27,<0.1",  # parses uploads as they arrive; bounds their parts' headers
    "prometheus_client>=0.21,<1",  # metrics
    "pillow>=10,<13",  # pictures of spectrograms
]

DEV = [
    *TRAIN,
    *KAFKA,
    *SERVE,
    "pytest>=8.4,<10",
    "hypothesis>=6.100,<7",
    "ruff>=0.17,<0.18",  # a new minor version brings new rules
    "mypy>=1.18,<3",
    "duckdb>=1.2,<3",  # reads the output in the tests, as an analyst would
    "polars>=1.20,<3",  # the same
    "boto3>=1.35,<2",  # what Beam reads s3:// with
    "moto[server]>=5,<6",  # an S3 server for the tests
    "pandas>=2.2,<4",  # the same
    "kubernetes-validate>=1.34,<2",  # Kubernetes' schemas, for deploy/kubernetes
    "jsonschema>=4.20,<5",  # the Flink operator's schema, and a flex template's fields
    "pyyaml>=6,<7",
    "torchvision>=0.21,<1",  # what transformers' own image processor needs, our oracle
    "httpx>=0.27,<1",  # asks the API in tests
    "schemathesis>=4.20,<5",  # asks it everything that its OpenAPI allows
    "playwright>=1.50,<2",  # drives a browser, which is the system's own
]

EXTRAS = {
    # File systems, through Beam's own extras so that versions agree.
    "aws": ["apache-beam[aws]>=2.77,<2.78"],  # s3://
    "azure": ["apache-beam[azure]>=2.77,<2.78"],  # azfs://
    "gcp": ["apache-beam[gcp]>=2.77,<2.78"],  # gs://, and the Dataflow runner
    "hadoop": ["apache-beam[hadoop]>=2.77,<2.78"],  # hdfs://
    "kafka": KAFKA,  # live streams from and to Kafka
    "train": TRAIN,
    "serve": SERVE,  # the web app and its API
    "bench": BENCH,
    "dev": DEV,
}

setup(
    name="catalog-labels",
    version=version(),
    description="Labels music catalogs at scale with Apache Beam: audio in, Parquet out",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    author="The Catalog Labels authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["pipeline", "pipeline.*", "transforms", "transforms.*"]),
    package_data={
        "transforms.models": ["checkpoints/*/*"],
        "pipeline.serving.page": ["assets/*"],
    },
    python_requires=">=3.10,<3.14",
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [  # what Beam starts by a path
            "catalog-labels-worker = pipeline.boot:main",
            "catalog-labels-java = pipeline.java:main",
            "catalog-labels-java-worker = pipeline.java_worker:main",
        ]
    },
)

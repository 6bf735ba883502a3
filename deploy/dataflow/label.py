"""What a flex template's launcher starts: ``python -m pipeline.main`` as a file."""

import sys

from pipeline.main import main

if __name__ == "__main__":
    sys.exit(main(["--runner=DataflowRunner", *sys.argv[1:]]))

"""``python -m embedmig.workers``: a worker that another process leads."""

import sys

from embedmig.workers.processes import main

if __name__ == "__main__":
    sys.exit(main())

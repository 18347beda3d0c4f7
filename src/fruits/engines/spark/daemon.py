"""The process that Spark forks its Python workers from, on this machine, with their imports done before the fork.

A replacement for ``pyspark.daemon``, which it runs after the imports. The original reads PySpark from Spark's zip files, which
are compiled at each start and whose directories are read by each task. Here PySpark is an installed package, so the zip files are
skipped. Run by Spark as ``python -m fruits.engines.spark.daemon pyspark.worker``.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

#: Modules used by workers, given by name because engines do not import them. A worker imports missing ones itself, or fails.
_PRELOADED: Final = (
    "pyspark.sql.pandas.serializers",
    "pyarrow.ipc",
    "fruits.embedding.stage",
    "fruits.training.fitting.fit",
)


def main() -> None:
    """Import the modules, then serve Spark until it closes stdin."""
    _leave_archives()
    for name in ("pyspark.worker", *_PRELOADED):
        with suppress(ImportError):
            importlib.import_module(name)
    from pyspark import daemon  # noqa: PLC0415

    # A worker collects garbage after each task: exclude the objects that all workers share.
    gc.collect()
    gc.freeze()
    daemon.manager()  # type: ignore[no-untyped-call]


def _leave_archives() -> None:
    """Remove Spark's zip files from the path if PySpark is found without them."""
    before = list(sys.path)
    sys.path[:] = [path for path in before if not re.fullmatch(r"pyspark\.zip|py4j-[\d.]+-src\.zip", Path(path).name)]
    for path in set(before) - set(sys.path):
        sys.path_importer_cache.pop(path, None)
    if importlib.util.find_spec("pyspark") is None or importlib.util.find_spec("py4j") is None:
        sys.path[:] = before


if __name__ == "__main__":
    main()

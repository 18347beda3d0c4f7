"""The process that Spark forks its Python workers from, on this machine: with what they need imported once, before the fork.

Takes the place of ``pyspark.daemon``, which it becomes. That one reads PySpark from Spark's zip files: compiled anew at each
start, and each task reads the files' directories again. Here PySpark is an installed package, so the zip files are left
aside. Run by Spark as ``python -m fruits.engines.spark.daemon pyspark.worker``.
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

#: What workers run, named as text since engines import none of it. Whatever is missing, a worker imports, or fails to, itself.
_PRELOADED: Final = ("pyspark.sql.pandas.serializers", "pyarrow.ipc", "fruits.embedding.stage", "fruits.training.fit")


def main() -> None:
    """Import, then serve Spark until it closes our stdin."""
    _leave_archives()
    for name in ("pyspark.worker", *_PRELOADED):
        with suppress(ImportError):
            importlib.import_module(name)
    from pyspark import daemon  # noqa: PLC0415

    # A worker collects garbage after each task: what all of them share need not be looked through.
    gc.collect()
    gc.freeze()
    daemon.manager()  # type: ignore[no-untyped-call]


def _leave_archives() -> None:
    """Take Spark's own zip files off the path if PySpark is found without them."""
    before = list(sys.path)
    sys.path[:] = [path for path in before if not re.fullmatch(r"pyspark\.zip|py4j-[\d.]+-src\.zip", Path(path).name)]
    for path in set(before) - set(sys.path):
        sys.path_importer_cache.pop(path, None)
    if importlib.util.find_spec("pyspark") is None or importlib.util.find_spec("py4j") is None:
        sys.path[:] = before


if __name__ == "__main__":
    main()

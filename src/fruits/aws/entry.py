"""Entry script for Spark on the cluster; opens the session, so that the run uses the cluster and not one machine.

Uploaded unchanged and run beside the package, see ``package.py``; the job itself is :mod:`fruits.aws.job`.
"""

from pyspark.sql import SparkSession

session = SparkSession.builder.getOrCreate()
try:
    from fruits.aws.job import main

    main()
finally:
    session.stop()

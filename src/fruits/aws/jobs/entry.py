"""Entry script for Spark on the cluster; opens the session, so that the run uses the cluster and not one machine.

Uploaded unchanged and run beside the package, see ``package.py``; the job itself is :mod:`fruits.aws.jobs.job`.
"""

from pyspark.sql import SparkSession

session = SparkSession.builder.getOrCreate()
try:
    from fruits.aws.jobs.job import main

    main()
finally:
    session.stop()

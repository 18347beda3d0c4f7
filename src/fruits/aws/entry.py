"""What Spark is given to run on the cluster: opens its session, so that the run uses the cluster and not one machine.

Uploaded as it is and run beside the package, see ``package.py``; everything else is :mod:`fruits.aws.job`.
"""

from pyspark.sql import SparkSession

session = SparkSession.builder.getOrCreate()
try:
    from fruits.aws.job import main

    main()
finally:
    session.stop()

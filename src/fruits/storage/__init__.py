"""Where bytes and tables are kept, in five subjects and :mod:`fruits.storage.sanitising`, text from outside.

``objects`` in a folder or a bucket, on ``disk``; ``tables`` with a row per photo, among them the ``embeddings`` as a Delta table;
``outputs``, the folders that commands write.
"""

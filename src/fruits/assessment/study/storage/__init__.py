"""``fruits study storage``: the vectors and photos of a run as files, in bytes, time, accuracy and money."""

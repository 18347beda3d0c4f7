"""Tables with a row per photo: schemas, Parquet files, rows in bounded memory, the rows of a catalogue."""

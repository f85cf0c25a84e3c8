"""What a raw row means: the schema, encoders, past columns. numpy and xxhash only: preparation and serving share it."""

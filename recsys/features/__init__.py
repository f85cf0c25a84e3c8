"""The schema, encoders and past columns, which preparation and serving share. Needs numpy and xxhash only."""

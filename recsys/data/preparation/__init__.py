"""Turn a table into shards: types, vocabularies, split, history, past columns."""

"""Raw tables → ids → shards → batches."""

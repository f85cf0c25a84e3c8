"""CTR models: embedding → gate → join → interaction → logit. One interaction a file."""

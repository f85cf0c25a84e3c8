"""`recsys bench train`: this project, other libraries and the bare matrix products take turns at training."""

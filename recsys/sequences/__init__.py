"""How a sequence of past events becomes one vector: candidate and behaviours → D numbers. One pooling a file."""

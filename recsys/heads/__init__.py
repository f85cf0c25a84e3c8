"""From what an interaction gives a row to the logits of all labels, and their loss."""

"""How much memory, traffic and time training takes, before it runs: formulas, hardware, measured rates."""

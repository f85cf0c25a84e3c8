"""Where the processes of a run start: one launcher a file."""

"""Score raw rows from a bundle, without the training stack: `bundle` loads, `rows` reads, `server` answers."""

"""The service's pages: links and forms that work without script, kept fresh by a little of it."""

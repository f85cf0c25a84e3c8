"""The HTTP interface of the service: JSON, server-sent events, /metrics; it includes the pages."""

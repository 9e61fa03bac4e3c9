"""A publisher and a client of an archive, as YAML."""

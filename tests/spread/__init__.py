"""A client's work spread over machines: Celery with a real broker, Dagster's storage in PostgreSQL, workers that are killed.

For `make test-spread`, which installs what is needed besides: Redis and PostgreSQL come from the system.
"""

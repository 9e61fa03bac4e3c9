"""The state on a PostgreSQL server, which clients on several machines share. psycopg is imported here only."""

PRAGMA user_version = 1;
CREATE TABLE files (
  "content_hash" NOT NULL PRIMARY KEY,
  __revision INTEGER NOT NULL DEFAULT 0,
  __meta_added, __meta_last_updated, __deleted_at, __deleted_reason, __rescued
);
CREATE TABLE mmmeta_columns (name TEXT PRIMARY KEY, kind TEXT NOT NULL, revision INTEGER) WITHOUT ROWID;
CREATE TABLE mmmeta_info (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE mmmeta_local (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE mmmeta_pending (key PRIMARY KEY, base TEXT);
CREATE TABLE mmmeta_store (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX files_revision ON files (__revision);

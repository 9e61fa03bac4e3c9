PRAGMA user_version = 1;
CREATE TABLE files (
  "content_hash" NOT NULL PRIMARY KEY,
  __meta_added, __meta_last_updated, __deleted_at, __deleted_reason, __rescued,
  __state_added, __state_last_updated, __state_rescued
);
CREATE TABLE mmmeta_columns (name TEXT PRIMARY KEY, kind TEXT NOT NULL, owner TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE mmmeta_downloads (
  folder TEXT NOT NULL, folded TEXT NOT NULL, name TEXT NOT NULL, key NOT NULL,
  PRIMARY KEY (folder, folded)
) WITHOUT ROWID;
CREATE TABLE mmmeta_info (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE mmmeta_pipelines (mark TEXT PRIMARY KEY, settings TEXT, last_run TEXT) WITHOUT ROWID;
CREATE TABLE mmmeta_work (
  mark TEXT NOT NULL, key NOT NULL, worker TEXT, lease_until TEXT,
  attempts INTEGER NOT NULL DEFAULT 0, error TEXT, failed_at TEXT, failed_version, not_before TEXT,
  set_aside INTEGER NOT NULL DEFAULT 0, done_at TEXT, done_version, done_content,
  PRIMARY KEY (mark, key)
) WITHOUT ROWID;
CREATE INDEX mmmeta_work_failed ON mmmeta_work (mark) WHERE error IS NOT NULL;
CREATE INDEX mmmeta_work_worker ON mmmeta_work (worker) WHERE worker IS NOT NULL;

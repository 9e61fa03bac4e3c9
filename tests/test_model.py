"""Publishers and clients do whatever they like, in any order, and each always sees what a plain model says.

Every metadir of the test publishes, follows, keeps columns of its own and processes. One of them has metadata files. With
`MMMETA_ROUNDS=n` in the environment n times as many stories are tried, other ones each time.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mmmeta_core import DocumentError, ReadOnlyColumnError, mmmeta
from mmmeta_core.files.publish import DELETED as BY_HAND
from mmmeta_core.generate import METADATA_GONE
from mmmeta_core.metadir import Metadir
from mmmeta_core.sync import hints

ROUNDS: Final = int(os.environ.get("MMMETA_ROUNDS", "1"))
MEMORY: Final = Path("/dev/shm")  # noqa: S108 - thousands of small transactions, none of which has to outlive this
NAMES: Final = ("rows", "other", "files", "client")
KEYS: Final = [f"k{n}" for n in range(5)]
DELETED: Final = "(deleted)"
COLUMNS: Final = ("title", "number", "flag", "tags", "at", "maker:name", "clash", "mixed")
OWN: Final = ("mine", "note", "clash")

Row: TypeAlias = dict[str, Any]
Rows: TypeAlias = dict[str, Row]

TIMES: Final = [datetime(2024, 1, n, 12, tzinfo=UTC) for n in (1, 2)]
VALUES: Final[Mapping[str, list[Any]]] = {
    "title": ["", "a", "B", "007", "é"],
    "number": [-1, 0, 7, 2**53 + 1],
    "flag": [True, False],
    "tags": [[], ["x", "y"]],
    "at": TIMES,
    "maker:name": ["m", "n"],
    "clash": [1, 2],
    "mixed": [True, "yes", 3, ["l"]],
}
"""What is published. Values of several kinds are only published of the first document, which has no metadata file."""
OWN_VALUES: Final[Mapping[str, list[Any]]] = {
    "mine": [True, False, None],
    "note": ["n1", "n2", None],
    "clash": ["c1", None],
    "imported": [False],
}
CONFIGS: Final = [f"remote: {{site: 'https://host{n}/{{content_hash}}'}}\n" for n in range(3)]

names = st.sampled_from(NAMES)
keys = st.sampled_from(KEYS)
documents = st.fixed_dictionaries(
    {}, optional={name: st.sampled_from([*values, None]) for name, values in VALUES.items()}
)
written = st.fixed_dictionaries(
    {},
    optional={
        name: st.sampled_from([*values, None])
        for name, values in VALUES.items()
        if name not in ("at", "mixed")
    },
)


def visible(row: Mapping[str, Any]) -> Row:
    """Return what is set."""
    return {name: value for name, value in row.items() if value is not None}


def differing(row: Mapping[str, Any], base: Mapping[str, Any]) -> Row:
    """Return what one who has `row` says otherwise than `base`."""
    return {name: row.get(name) for name in row.keys() | base.keys() if row.get(name) != base.get(name)}


@dataclass
class Segment:
    """A revision, as the model has it."""

    documents: Rows
    store: dict[str, Any]
    config: str | None
    columns: set[str]


@dataclass
class Place:
    """What the model knows of one metadir."""

    revision: int = 0
    base: Rows = field(default_factory=dict)
    """The documents as they were published at its revision …"""
    rows: Rows = field(default_factory=dict)
    """… and as they are here, with changes that wait."""
    published_store: dict[str, Any] = field(default_factory=dict)
    store: dict[str, Any] = field(default_factory=dict)
    config: str | None = None
    synced: str | None = None
    columns: set[str] = field(default_factory=set)
    state: Rows = field(default_factory=dict)
    own: Rows = field(default_factory=dict)
    owns_clash: bool | None = None
    failed: dict[str, tuple[datetime, Row]] = field(default_factory=dict)
    files: Rows = field(default_factory=dict)
    """Metadata files on disk by name …"""
    seen: dict[str, tuple[Row, int]] = field(default_factory=dict)
    """… and as the last generate saw them."""

    def waiting(self) -> Rows:
        """Return what the next push publishes of documents."""
        found = {key: differing(row, self.base.get(key, {})) for key, row in self.rows.items()}
        return {key: delta for key, delta in found.items() if delta or key not in self.base}

    def rebase(self, base: Rows) -> None:
        """Put what waits here on what is published now, field by field."""
        waiting = self.waiting()
        self.base = base
        self.rows = {key: dict(row) for key, row in base.items()}
        for key, delta in waiting.items():
            self.rows[key] = visible({**base.get(key, {}), **delta})

    def take_store(self, published: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        for key, value in published.items():
            if self.store.get(key) == before.get(key):
                self.store = visible({**self.store, key: value})

    def take_config(self, text: str | None) -> None:
        if text is None:
            return
        if self.config in (None, self.synced):
            self.config = text
        self.synced = text

    def stage(self, key: str, changes: Mapping[str, Any]) -> None:
        self.columns |= visible(changes).keys() - {DELETED}
        self.rows[key] = visible({**self.rows.get(key, {}), **changes})

    def merge(self) -> None:
        """Do what an update does."""
        self.state = {key: dict(row) for key, row in self.rows.items()}
        if self.owns_clash is None and "clash" in self.columns:
            self.owns_clash = False

    def shown(self) -> Rows:
        """Return what `files` is to show, deleted documents included."""
        rows = {}
        for key, row in self.state.items():
            published = {name: value for name, value in row.items() if name != "clash" or not self.owns_clash}
            rows[key] = visible({**published, **self.own.get(key, {})})
        return rows


class Archive(RuleBasedStateMachine):
    """The model and the real thing, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="mmmeta-model-", dir=MEMORY if MEMORY.is_dir() else None))
        (self.folder / "remote").mkdir()
        (self.folder / "documents").mkdir()
        self.log: list[Segment] = []
        self.places = {name: Place() for name in NAMES}
        self.metadirs = {name: self.open(name) for name in NAMES}
        self.ticks = 1_600_000_000
        self.newcomers = 0

    def open(self, name: str) -> Metadir:
        root = self.folder / "documents" if name == "files" else None
        return mmmeta(self.folder / name, remote=self.folder / "remote", files_root=root)

    def teardown(self) -> None:
        try:
            self.by_log_alone()
            for name in NAMES:  # everybody comes to see everything
                self.push(name)
            for name in NAMES:
                self.pull(name)
                self.update(name)
                self.look(name)
                assert self.places[name].waiting() == {}
            self.newcomer()
        finally:
            for m in self.metadirs.values():
                m.close()
            shutil.rmtree(self.folder)

    def archive(self, revision: int | None = None) -> tuple[Rows, dict[str, Any], str | None, set[str]]:
        """Return documents, store, settings and columns as published at a revision."""
        rows: Rows = {}
        store: dict[str, Any] = {}
        config, columns = None, set()
        for segment in self.log[:revision]:
            for key, delta in segment.documents.items():
                rows[key] = visible({**rows.get(key, {}), **delta})
            store = visible({**store, **segment.store})
            config = segment.config if segment.config is not None else config
            columns |= segment.columns
        return rows, store, config, columns

    def follow(self, place: Place, snapshot: int | None) -> None:
        """Do in the model what a pull does, one that took the snapshot of this revision if there is one."""
        if place.revision == 0 and self.log:
            place.take_config(self.archive()[2])
            place.synced = None
        if snapshot is not None:
            rows, store, _, columns = self.archive(snapshot)
            before = place.published_store
            place.take_store({**dict.fromkeys(before), **store}, before)
            place.take_config(self.archive()[2])
            waiting = place.waiting()
            place.columns = columns | {name for delta in waiting.values() for name in delta} - {DELETED}
            place.rebase(rows)
            place.published_store, place.revision = store, snapshot
        for revision in range(place.revision + 1, len(self.log) + 1):
            segment = self.log[revision - 1]
            rows, store, _, columns = self.archive(revision)
            place.rebase(rows)
            place.columns |= columns
            place.take_store(segment.store, place.published_store)
            if place.revision == 0:
                place.synced = None
            place.take_config(segment.config)
            place.published_store, place.revision = store, revision

    # --- publishers

    @rule(name=names, key=keys, values=documents)
    def upsert(self, name: str, key: str, values: Row) -> None:
        if key != KEYS[0]:
            values.pop("mixed", None)
        self.metadirs[name].files.upsert({"content_hash": key, **values})
        self.places[name].stage(key, {**values, DELETED: None})
        self.places[name].merge()

    @rule(name=names, key=keys, values=documents)
    def insert(self, name: str, key: str, values: Row) -> None:
        if key != KEYS[0]:
            values.pop("mixed", None)
        place, m = self.places[name], self.metadirs[name]
        there = place.rows.get(key)
        if there is not None and DELETED not in there:
            with pytest.raises(DocumentError):
                m.files.insert(content_hash=key, **values)
        else:
            m.files.insert(content_hash=key, **values)
            place.stage(key, {**dict.fromkeys(there or {}), **values, DELETED: None})
            place.merge()

    @rule(name=names, key=keys)
    def delete(self, name: str, key: str) -> None:
        place = self.places[name]
        seen = place.state.get(key, {DELETED: ""})
        assert self.metadirs[name].files.delete(content_hash=key) is (
            DELETED not in seen and DELETED not in place.rows[key]
        )
        if DELETED not in seen and DELETED not in place.rows[key]:
            place.stage(key, {DELETED: BY_HAND})
        place.merge()

    @rule(key=st.sampled_from(KEYS[1:]), values=written)
    def write_file(self, key: str, values: Row) -> None:
        self.ticks += 1
        path = self.folder / "documents" / f"{key}.json"
        path.write_text(json.dumps({"content_hash": key, **values}))
        os.utime(path, (self.ticks, self.ticks))
        self.places["files"].files[key] = {**values, "(tick)": self.ticks}

    @rule(key=keys)
    def remove_file(self, key: str) -> None:
        (self.folder / "documents" / f"{key}.json").unlink(missing_ok=True)
        self.places["files"].files.pop(key, None)

    @rule(ensure=st.booleans())
    def generate(self, ensure: bool) -> None:
        place = self.places["files"]
        before = {key: DELETED in row for key, row in place.rows.items()}
        result = self.metadirs["files"].generate(ensure=ensure, force=True)
        read = 0
        for key in [key for key in place.seen if key not in place.files]:
            del place.seen[key]
        for key, values in place.files.items():
            old, tick = place.seen.get(key, ({}, 0))
            if tick == values["(tick)"]:
                continue
            read += 1
            said = {n: v for n, v in values.items() if n != "(tick)"}
            back = {DELETED: None} if place.rows.get(key, {}).get(DELETED) == METADATA_GONE else {}
            place.stage(key, {**dict.fromkeys(old), **said, **back})
            place.seen[key] = (visible(said), values["(tick)"])
        gone = [key for key, row in place.rows.items() if DELETED not in row and key not in place.files]
        for key in gone if ensure else []:
            place.stage(key, {DELETED: METADATA_GONE})
        assert (result.read, result.invalid) == (read, 0)
        assert result.added == len(place.rows.keys() - before.keys())
        assert result.deleted == (len(gone) if ensure else 0)
        assert result.pending >= len(place.waiting())

    @rule(name=names, key=st.sampled_from(["a", "b"]), value=st.sampled_from([1, 2, "x", None]))
    def write_store(self, name: str, key: str, value: Any) -> None:
        place, store = self.places[name], self.metadirs[name].store
        store[f"local_{key}"] = "private"
        if value is None:
            store.pop(key, None)
        else:
            store[key] = value
        place.store = visible({**place.store, key: value})

    @rule(name=names, text=st.sampled_from(CONFIGS))
    def write_config(self, name: str, text: str) -> None:
        paths = self.metadirs[name].paths
        paths.root.mkdir(parents=True, exist_ok=True)
        paths.config.write_text(text)
        self.places[name].config = text

    @rule(name=names)
    def push(self, name: str) -> None:
        place, m = self.places[name], self.metadirs[name]
        snapshot = self.snapshot_to_be_taken(place)
        pushed = m.push()
        self.follow(place, snapshot)
        documents = place.waiting()
        store = differing(place.store, place.published_store)
        config = None if place.config == place.synced else place.config
        assert pushed.published is bool(documents or store or config)
        assert m.inspect().pending == 0
        if pushed.published:
            self.log.append(Segment(documents, store, config, set(place.columns)))
            assert (pushed.documents, pushed.store_keys) == (len(documents), len(store))
            place.revision = len(self.log)
            place.base = {key: dict(row) for key, row in place.rows.items()}
            place.published_store = dict(place.store)
            place.synced = place.config
        assert pushed.revision == len(self.log)

    # --- clients

    def snapshot_to_be_taken(self, place: Place) -> int | None:
        """Return the revision of the snapshot that is less to fetch than the log, as `pull` decides it."""
        path = self.folder / "remote" / "_mmmeta" / "head.json"
        if not path.exists():
            return None
        head = json.loads(path.read_bytes())
        there = head["snapshot"]
        if there is None or there["revision"] <= place.revision:
            return None
        log = sorted((self.folder / "remote" / "_mmmeta" / "log").iterdir())
        later = sum(one.stat().st_size + 20_000 for one in log[place.revision :])
        rest = sum(one.stat().st_size + 20_000 for one in log[there["revision"] :])
        return int(there["revision"]) if there["size"] + rest < later else None

    @rule(name=names)
    def pull(self, name: str) -> None:
        place = self.places[name]
        snapshot = self.snapshot_to_be_taken(place)
        pulled = self.metadirs[name].pull()
        assert pulled.snapshot is (snapshot is not None)
        assert pulled.revision == len(self.log)
        self.follow(place, snapshot)

    @rule(name=names)
    def update(self, name: str) -> None:
        place = self.places[name]
        old = {key: DELETED in row for key, row in place.state.items()}
        if not self.metadirs[name].paths.root.is_dir():
            return
        result = self.metadirs[name].update()
        place.merge()
        new = {key: DELETED in row for key, row in place.state.items()}
        assert result.added == sum(key not in old and not gone for key, gone in new.items())
        assert result.deleted == sum(gone and not old.get(key) for key, gone in new.items())
        assert result.restored == sum(old.get(key, False) and not gone for key, gone in new.items())
        assert result.revision == place.revision
        assert result.clashes == (("clash",) if place.owns_clash and "clash" in place.columns else ())

    @rule(name=names, key=keys, column=st.sampled_from([*OWN_VALUES]), data=st.data())
    def save(self, name: str, key: str, column: str, data: st.DataObject) -> None:
        place, file = self.places[name], self.metadirs[name].files.get(key)
        assert (file is not None) == (key in place.state)
        value = data.draw(st.sampled_from(OWN_VALUES[column]))
        if file is None:
            return
        if column == "clash" and place.owns_clash is False:
            with pytest.raises(ReadOnlyColumnError):
                file[column] = value
            return
        file[column] = value
        file.save()
        if column == "clash" and (value is not None or place.owns_clash):
            place.owns_clash = True
        place.own[key] = visible({**place.own.get(key, {}), column: value})

    @rule(name=names, bad=st.frozensets(keys, max_size=2))
    def process(self, name: str, bad: frozenset[str]) -> None:
        """Each document that is due is handled once; one that failed waits until the publisher changes it."""
        place, m = self.places[name], self.metadirs[name]
        shown = place.shown()
        due = set()
        for key, row in shown.items():
            if DELETED in row or row.get("imported"):
                continue
            if key in place.failed:
                file = m.files.get(key)
                assert file is not None
                version, failed_row = place.failed[key]
                is_new = file["__meta_last_updated"] != version
                assert is_new or failed_row == place.state[key], "a document that changed has another version"
                if not is_new:
                    continue
            due.add(key)
        handled = []

        def handler(file: Any) -> dict[str, Any]:
            handled.append(file.key)
            if file.key in bad:
                place.failed[file.key] = (file["__meta_last_updated"], dict(place.state[file.key]))
                raise ValueError("bad")
            return {"note": f"handled {file.key}"}

        result = m.files.process(handler)
        assert sorted(handled) == sorted(due)
        assert (result.processed, result.failed) == (len(due - bad), len(due & bad))
        for key in due - bad:
            place.failed.pop(key, None)
            place.own[key] = {**place.own.get(key, {}), "imported": True, "note": f"handled {key}"}

    @rule(name=names)
    def retry(self, name: str) -> None:
        self.metadirs[name].retry_failed()
        self.places[name].failed.clear()

    @rule(name=names)
    def reopen(self, name: str) -> None:
        self.metadirs[name].close()
        self.metadirs[name] = self.open(name)

    @precondition(lambda self: self.log)
    @rule()
    def newcomer(self) -> None:
        """One who comes now sees all that was published, deleted documents too."""
        rows, store, config, _ = self.archive()
        self.newcomers += 1
        with mmmeta(self.folder / f"new{self.newcomers}", remote=self.folder / "remote") as m:
            m.sync()
            assert shown(m) == rows
            assert {k: v for k, v in m.store.items() if k in ("a", "b")} == store
            assert (m.paths.config.read_text() if m.paths.config.exists() else None) == config
            assert not [key for key in m.store if key.startswith("local_") and key != "local_last_updated"]
            assert m.verify().findings == ()

    @precondition(lambda self: self.log)
    @rule()
    def by_log_alone(self) -> None:
        """The log says the same as the snapshot and what follows it."""
        if not self.log:
            return
        self.newcomers += 1
        copy = self.folder / f"new{self.newcomers}"
        shutil.copytree(self.folder / "remote" / "_mmmeta" / "log", copy / "_mmmeta" / "log")
        with mmmeta(copy) as m, mmmeta(self.folder / f"{copy.name}b", remote=self.folder / "remote") as other:
            m.update()
            other.sync()
            assert shown(m) == self.archive()[0]
            for file, same in zip(m.files(deleted=None), other.files(deleted=None), strict=True):
                for column in ("__meta_added", "__meta_last_updated", "__deleted_at", "__rescued"):
                    assert file.get(column) == same.get(column), (file.key, column)

    # --- looking

    @rule(name=names, conditions=st.data(), deleted=st.sampled_from([False, True, None]))
    def find(self, name: str, conditions: st.DataObject, deleted: bool | None) -> None:
        place, m = self.places[name], self.metadirs[name]
        asked = conditions.draw(st.dictionaries(st.sampled_from([*ASKED]), st.data(), max_size=2))
        filters = {column: conditions.draw(st.sampled_from(ASKED[column])) for column in asked}
        expected = [
            key
            for key, row in sorted(place.shown().items())
            if deleted is None or (DELETED in row) is deleted
            if all(holds(row.get(column), condition) for column, condition in filters.items())
        ]
        found = [f.key for f in m.files.find(deleted=deleted, order_by="content_hash", **filters)]
        assert found == expected, filters
        assert m.files.count(deleted=deleted, **filters) == len(expected)
        cut = m.files.find(deleted=deleted, order_by="-content_hash", _limit=2, _offset=1, **filters)
        assert [f.key for f in cut] == expected[::-1][1:3]

    def look(self, name: str) -> None:
        place, m = self.places[name], self.metadirs[name]
        assert shown(m) == place.shown()
        assert len(m.files) == sum(DELETED not in row for row in place.state.values())

    @invariant()
    def everybody_sees_what_the_model_says(self) -> None:
        for name, place in self.places.items():
            if (self.folder / name / "_mmmeta" / "state.db").exists():
                self.look(name)
            store = self.metadirs[name].store
            assert {key: store[key] for key in store if key in ("a", "b")} == place.store
            config = self.metadirs[name].paths.config
            assert (config.read_text() if config.exists() else None) == place.config


def shown(m: Metadir) -> Rows:
    """Return what `files` shows, deleted documents included."""
    rows = {}
    for file in m.files(deleted=None):
        row = {name: file.get(name) for name in (*COLUMNS, *OWN, "imported") if name in file}
        if file["__deleted_at"] is not None:
            row[DELETED] = file["__deleted_reason"]
        rows[file.key] = visible(row)
    return rows


ASKED: Final[Mapping[str, list[Any]]] = {
    "title": ["a", None, "nothing", ["a", "B"], {"not": "a"}, {">=": "a"}, {"!=": None}, {"in": []}],
    "number": [0, None, 2**53 + 1, {">": -1, "<": 7}, {"between": [0, 7]}, {"notin": [0, 7]}],
    "flag": [True, False, None, {"not": True}, {"not": False}, [True, None], {"not": None}],
    "at": [*TIMES, TIMES[0].isoformat(), {">": TIMES[0]}],
    "maker:name": ["m", {"startswith": "m"}],
    "mine": [True, False, None, {"not": True}],
    "imported": [True, False],
    "nowhere": [None, False, True, 1, {"not": True}, {"not": None}, {">": 1}, [1, None]],
}


def holds(value: Any, condition: Any) -> bool:
    """Whether a value, None where it was never set, is what a filter asks for."""
    if not isinstance(condition, Mapping):
        condition = {"in" if isinstance(condition, list) else "=": condition}
    return all(_holds(value, operator, asked) for operator, asked in condition.items())


def _holds(value: Any, operator: str, asked: Any) -> bool:
    if isinstance(value, datetime):
        asked = datetime.fromisoformat(asked) if isinstance(asked, str) else asked
    if operator in ("=", "in"):
        wanted = asked if operator == "in" else [asked]
        unset = None in wanted or any(one is False for one in wanted)
        return unset if value is None else value in wanted
    if operator in ("not", "!=", "notin"):
        unwanted = asked if operator == "notin" else [asked]
        unset = None in unwanted or any(one is False for one in unwanted)
        if value is None:
            return any(one is True for one in unwanted) and not unset
        return value not in unwanted
    if value is None:
        return False
    if operator == "between":
        return bool(asked[0] <= value <= asked[1])
    if operator == "startswith":
        return bool(value.startswith(asked))
    return bool({">": value > asked, "<": value < asked, ">=": value >= asked}[operator])


@pytest.fixture(autouse=True)
def snapshots_are_due_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "_SNAPSHOT_SEGMENTS", 3)


Archive.TestCase.settings = settings(
    max_examples=7 * ROUNDS,
    stateful_step_count=40 if ROUNDS == 1 else 60,
    deadline=None,
    derandomize=ROUNDS == 1,
    print_blob=True,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
TestArchive = Archive.TestCase

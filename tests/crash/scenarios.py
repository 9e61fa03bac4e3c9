"""What is killed: each verb that writes, with what lies there before, what the next run does, and what has to be true."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crash import model
from crash.place import Place, Step
from mmmeta_core import Metadir, mmmeta

CONTENTS = {f"d{number}": f"content of {number}" * 50 for number in range(8)}


def nothing(place: Place) -> None:
    """Do nothing."""


Command = Callable[[Place], list[str]]


@dataclass(frozen=True)
class Scenario:
    """`prepare` once; then for each point `act` is killed, `between` checks what readers see, `act` and `follow` run again,
    and `check` compares."""

    name: str
    prepare: Step
    act: Step
    check: Step
    follow: Step = nothing
    between: Step = nothing
    s3: bool = False
    """Whether it also runs against a bucket."""
    command: Command | None = None
    """The same as a command line."""


def publisher(place: Place) -> Metadir:
    return mmmeta(place.publisher, files_root=place.documents, remote=place.remote)


def client(place: Place) -> Metadir:
    return mmmeta(place.client, remote=place.remote)


# --- publishers

FIRST = {f"d{number}": "first" for number in range(6)}
SECOND = {"d1": "first", "d2": "first"} | {f"d{number}": "second" for number in range(3, 8)}
CONFIG = "metadata: {types: {retrieved_at: datetime}}\n"


def first(place: Place) -> None:
    """Six documents at revision 1."""
    place.make()
    scrape_first(place)
    with publisher(place) as m:
        m.store["count"] = 6
        m.store["gone_soon"] = True
        m.sync()


def scrape_first(place: Place, **more: Any) -> None:
    for name, title in FIRST.items():
        place.scrape(name, title=title, tags=["a", name], retrieved_at="2024-05-01T12:00:00Z", **more)


def change(place: Place) -> None:
    """Change three documents, add two, remove one; and the store, and the settings."""
    for number in range(3, 8):
        place.scrape(f"d{number}", title="second", pages=number)
    (place.documents / "d0.json").unlink()
    change_store(place)


def change_store(place: Place) -> None:
    with publisher(place) as m:
        m.store["count"] = 8
        m.store["local_note"] = "mine"
        if "gone_soon" in m.store:
            del m.store["gone_soon"]


def settings(place: Place) -> None:
    (place.publisher / "_mmmeta" / "config.yml").write_text(CONFIG)


def first_and_changed(place: Place) -> None:
    first(place)
    change(place)
    settings(place)


def generate(place: Place) -> None:
    with publisher(place) as m:
        m.generate(ensure=True)


def first_and_generated(place: Place) -> None:
    first_and_changed(place)
    generate(place)


def push(place: Place) -> None:
    with publisher(place) as m:
        m.push()


def push_and_update(place: Place) -> None:
    with publisher(place) as m:
        m.push()
        m.update()
        assert not m.push().published, "published twice"


def update_publisher(place: Place) -> None:
    with publisher(place) as m:
        m.update()
        assert not m.push().published, "published twice"


def whole_for_readers(place: Place) -> None:
    model.check_between(place.kept, place.objects())


def second_published(place: Place) -> None:
    archive = model.check_remote(place.objects(), revision=2)
    assert archive.column("title") == SECOND
    assert archive.store["count"] == "8"
    assert "gone_soon" not in archive.store
    assert archive.config == CONFIG
    same_here(place, archive)
    assert (place.publisher / "_mmmeta" / "_store" / "local_note").read_text() == "mine"


def same_here(place: Place, archive: model.Archive) -> None:
    model.check_catalog(place.publisher, archive)
    model.check_store(place.publisher, archive)
    model.check_state(place.publisher, archive)
    model.check_nothing_left(place.work)


def nothing_published(place: Place) -> None:
    place.make()
    scrape_first(place)
    with publisher(place) as m:
        m.generate()
        m.store["count"] = 6


def first_published(place: Place) -> None:
    archive = model.check_remote(place.objects(), revision=1)
    assert archive.column("title") == FIRST
    assert archive.store["count"] == "6"
    assert json.loads(place.objects()["_mmmeta/head.json"])["snapshot"], "the first push leaves a snapshot"
    same_here(place, archive)


def snapshot_due(place: Place) -> None:
    """Documents so large that the next push leaves a new snapshot, too."""
    place.make()
    noise = random.Random(1)  # noqa: S311
    scrape_first(place)
    with publisher(place) as m:
        m.sync()
    for number in range(3, 8):
        place.scrape(f"d{number}", title="second", text=noise.randbytes(9_000).hex())
    (place.documents / "d0.json").unlink()
    generate(place)


def snapshot_left(place: Place) -> None:
    archive = model.check_remote(place.objects(), revision=2)
    assert archive.column("title") == SECOND
    same_here(place, archive)
    head = json.loads(place.objects()["_mmmeta/head.json"])
    assert head["snapshot"]["revision"] in (1, 2), "a killed publisher's snapshot is left to a later push"


def behind(place: Place) -> None:
    """Another publisher published in between: other columns of the same documents, and documents of its own."""
    first(place)
    change(place)
    generate(place)
    other = place.work / "other"
    with mmmeta(other, remote=place.remote) as m:
        m.pull()
        m.update()
        m.files.upsert_many(
            [{"content_hash": name, "reviewed": True} for name in ("d2", "d3", "d8")], ["content_hash"]
        )
        m.store["reviewer"] = "B"
        m.push()


def both_published(place: Place) -> None:
    archive = model.check_remote(place.objects(), revision=3)
    assert archive.column("title") == SECOND | {"d8": None}
    reviewed = {key for key, value in archive.column("reviewed").items() if value}
    assert reviewed == {"d2", "d3", "d8"}
    assert (archive.store["reviewer"], archive.store["count"]) == ("B", "8")
    same_here(place, archive)


def with_files(place: Place) -> None:
    """Documents with their files: two revisions, the second not uploaded."""
    place.make()
    for name in ("d0", "d1", "d2"):
        place.scrape(name, CONTENTS[name], title="first")
    with publisher(place) as m:
        m.generate()
        m.push(files=True)
        m.update()
    for name in ("d3", "d4", "d5", "d6"):
        place.scrape(name, CONTENTS[name], title="second")
    with publisher(place) as m:
        m.generate()


def push_files(place: Place) -> None:
    with publisher(place) as m:
        m.push(files=True)


def named_for_readers(place: Place) -> None:
    model.check_between(place.kept, place.objects(), named=True)


def files_published(place: Place) -> None:
    archive = model.check_remote(place.objects(), revision=2, named=True)
    names = {f"d{number}" for number in range(7)}
    assert {row["file_name"] for row in archive.live.values()} == {f"{name}.txt" for name in names}
    assert {f"{name}.json" for name in names} <= place.objects().keys(), "metadata files too"
    same_here(place, archive)


def sync_publisher(place: Place) -> None:
    with publisher(place) as m:
        m.sync()


def synced(place: Place) -> None:
    archive = model.check_remote(place.objects(), revision=2)
    assert archive.column("title") == SECOND | {"d0": "first"}, "sync deletes nothing"
    assert archive.config == CONFIG
    same_here(place, archive)


def write_published(place: Place) -> None:
    """Write from Python what others have as metadata files."""
    rows = [{"content_hash": f"d{n}", "title": "second", "by": {"name": "B"}} for n in range(3, 8)]
    with publisher(place) as m:
        m.files.upsert_many(rows, ["content_hash"])
        m.files.delete(content_hash="d0")


def upserted(place: Place) -> None:
    archive = model.check_remote(place.objects(), revision=2)
    assert archive.column("title") == SECOND
    assert {row["by:name"] for key, row in archive.live.items() if key > "d2"} == {"B"}
    same_here(place, archive)


def write_store(place: Place) -> None:
    with publisher(place) as m:
        for number in range(4):
            m.store[f"k{number}"] = [number, "text"]
        m.touch("touched")
        m.store["count"] = 8
        if "gone_soon" in m.store:
            del m.store["gone_soon"]
        m.store["local_note"] = "mine"


def store_whole(place: Place) -> None:
    """No value is half there."""
    folder = place.publisher / "_mmmeta" / "_store"
    for path in folder.iterdir():
        text = path.read_text()
        if path.name.startswith("k"):
            assert text == f'[{path.name[1:]}, "text"]'
        assert path.name.startswith(".tmp-") or text


def store_published(place: Place) -> None:
    archive = model.check_remote(place.objects(), revision=2)
    assert {key: archive.store[key] for key in ("k0", "k3", "count")} == {
        "k0": '[0, "text"]',
        "k3": '[3, "text"]',
        "count": "8",
    }
    assert "gone_soon" not in archive.store
    assert "local_note" not in archive.store
    assert archive.column("title") == FIRST
    same_here(place, archive)


def publish_again(place: Place) -> None:
    """Publish one thing more, as anybody's next push does, hours later."""
    with mmmeta(place.work / "anybody", remote=place.remote) as m:
        m.pull()
        m.store["anybody"] = True
        assert m.push().published


# --- clients

OWN = {"d1": "read", "d3": "to do", "d5": None}


def published_twice(place: Place) -> None:
    first_and_generated(place)
    with publisher(place) as m:
        m.push()


def snapshot_published(place: Place) -> None:
    """Four revisions, and a snapshot of the last, so that a newcomer takes that."""
    first_and_changed(place)
    noise = random.Random(1)  # noqa: S311
    with publisher(place) as m:
        m.generate(ensure=True)
        m.push()
        for name in ("d6", "d7"):
            place.scrape(name, title="second", text=noise.randbytes(6_000).hex())
            m.generate()
            m.push()


def client_at_first(place: Place) -> None:
    """A client at revision 1 with columns of its own; the archive has two more by now."""
    first(place)
    with client(place) as m:
        m.sync()
        for file in m.files(content_hash=list(OWN)):
            file["note"] = OWN[file.key]
            file.save()
    change(place)
    settings(place)
    with publisher(place) as m:
        m.generate(ensure=True)
        m.push()
        m.store["count"] = 9
        m.push()


def pull(place: Place) -> None:
    with client(place) as m:
        m.pull()


def update(place: Place) -> None:
    with client(place) as m:
        m.update()


def sync_client(place: Place) -> None:
    with client(place) as m:
        m.sync()


def pulled_not_merged(place: Place) -> None:
    client_at_first(place)
    pull(place)


def client_is(place: Place, *, revision: int, own: bool = False) -> model.Archive:
    archive = model.check_remote(place.objects(), revision=revision)
    assert archive.column("title") == SECOND
    model.check_catalog(place.client, archive)
    model.check_store(place.client, archive)
    mine = {"note": {key: value for key, value in OWN.items() if value is not None}} if own else {}
    model.check_state(place.client, archive, mine)
    model.check_nothing_left(place.work)
    config = place.client / "_mmmeta" / "config.yml"
    assert config.read_text() == CONFIG
    return archive


def client_has_two(place: Place) -> None:
    client_is(place, revision=2)


def client_has_four(place: Place) -> None:
    client_is(place, revision=4)


def client_has_its_own(place: Place) -> None:
    client_is(place, revision=3, own=True)


# --- work on documents

CHUNK = 3


def effects(place: Place) -> list[str]:
    """What the handler did, in order: one line a document."""
    path = place.work / "effects"
    return path.read_text().splitlines() if path.exists() else []


def client_with_work(place: Place) -> None:
    first_and_generated(place)
    with publisher(place) as m:
        m.push()
    with client(place) as m:
        m.sync()


def process(place: Place) -> None:
    def handle(file: Any) -> dict[str, Any]:
        with (place.work / "effects").open("a") as log:
            log.write(f"{file.key}\n")
        return {"seen_title": file["title"]}

    with client(place) as m:
        m.files.process(handle, mark="seen", chunk=CHUNK)


def processed(place: Place) -> None:
    archive = client_is(place, revision=2)
    marks = {"seen": dict.fromkeys(archive.live, 1), "seen_title": archive.column("title")}
    model.check_state(place.client, archive, marks)
    done = effects(place)
    assert set(done) == archive.live.keys(), "a document was left out"
    again = {key for key in done if done.count(key) > 1}
    assert len(again) <= CHUNK, "only what was in hand may be done again"
    assert all(done.count(key) <= 2 for key in done)


def into(place: Place) -> None:
    from mmmeta_core.into import into_database

    with (
        client(place) as m,
        closing(into_database(f"sqlite:///{place.work}/target.db", "documents")) as handler,
    ):
        m.files.process(handler, mark="imported", chunk=CHUNK)
        m.files.process(handler, mark="imported", on="deleted", chunk=CHUNK)


def client_with_imports(place: Place) -> None:
    """What was imported at revision 1 changed since, and one of it was deleted."""
    first(place)
    with client(place) as m:
        m.sync()
    into(place)
    change(place)
    settings(place)
    with publisher(place) as m:
        m.generate(ensure=True)
        m.push()
    with client(place) as m:
        m.sync()


def imported(place: Place) -> None:
    archive = client_is(place, revision=2)
    model.check_state(place.client, archive, {"imported": {**dict.fromkeys(archive.live, 1), "d0": 0}})
    rows = model.read_table(place.work / "target.db", "documents", "content_hash")
    titles = {key: row["title"] for key, row in rows.items()}
    assert titles.keys() == SECOND.keys(), "each one once, and the deleted one removed"
    changed = {key: title for key, title in titles.items() if key not in FIRST}
    assert changed == {"d6": "second", "d7": "second"}


def client_with_downloads(place: Place) -> None:
    with_files(place)
    push_files(place)
    with client(place) as m:
        m.sync()
        m.download(place.downloads, workers=1, limit=2)
    with publisher(place) as m:
        m.update()


def download(place: Place) -> None:
    with client(place) as m:
        m.download(place.downloads, workers=2)


def downloads_whole(place: Place) -> None:
    model.whole_downloads(place.downloads, set(CONTENTS.values()))


def downloaded(place: Place) -> None:
    archive = model.check_remote(place.objects(), revision=2, named=True)
    names = {f"d{number}": f"d{number}.txt" for number in range(7)}
    model.check_downloads(place.downloads, {path: CONTENTS[name] for name, path in names.items()})
    keys = {hashlib.sha1(CONTENTS[name].encode()).hexdigest(): path for name, path in names.items()}  # noqa: S324
    model.check_state(place.client, archive, {"downloaded": dict.fromkeys(keys, 1), "downloaded_path": keys})
    model.check_nothing_left(place.work)


def exported_before(place: Place) -> None:
    client_with_work(place)
    for name in ("out.csv", "out.db", "out.jsonl"):
        (place.work / name).write_text("what was there")


def export(place: Place) -> None:
    with client(place) as m:
        for name in ("out.csv", "out.db", "out.jsonl"):
            m.export(place.work / name, format="sqlite" if name == "out.db" else None)


def exported(place: Place) -> None:
    csv = model.read_csv(place.work / "out.csv")
    table = model.read_table(place.work / "out.db", "files", "content_hash")
    lines = [json.loads(line) for line in (place.work / "out.jsonl").read_text().splitlines()]
    assert {key: row["title"] for key, row in csv.items()} == SECOND
    assert {key: row["title"] for key, row in table.items()} == SECOND
    assert {line["content_hash"]: line["title"] for line in lines} == SECOND
    client_is(place, revision=2)


def exports_whole(place: Place) -> None:
    """A file is the old one or all of the new one."""
    for name in ("out.csv", "out.db", "out.jsonl"):
        path = place.work / name
        if path.read_bytes() != b"what was there":
            rows = (
                model.read_table(path, "files", "content_hash")
                if name == "out.db"
                else path.read_text().splitlines()
            )
            assert len(rows) == len(SECOND) + (name == "out.csv")


def littered(place: Place) -> None:
    """What killed processes left an hour ago, everywhere."""
    first_and_generated(place)
    with client(place) as m:
        m.sync()
    for folder in (place.publisher, place.client):
        for inner in ("_mmmeta", "_mmmeta/_store"):
            for number in range(3):
                (folder / inner / f".tmp-1-{number}").write_bytes(b"half of")
    if not place.endpoint:
        for number in range(3):
            (Path(place.remote) / "_mmmeta" / f".tmp-{number}").write_bytes(b"half of")
    place.pass_time()


def clean(place: Place) -> None:
    push(place)
    sync_client(place)


def by_publisher(*arguments: str) -> Command:
    def command(place: Place) -> list[str]:
        options = ["--metadir", place.publisher, "--files-root", place.documents, "--remote", place.remote]
        return [*map(str, options), *arguments]

    return command


def by_client(*arguments: str) -> Command:
    def command(place: Place) -> list[str]:
        filled = (argument.format(work=place.work) for argument in arguments)
        return ["--metadir", str(place.client), "--remote", place.remote, *filled]

    return command


def publishing(
    name: str, prepare: Step, act: Step, check: Step, follow: Step = update_publisher, **more: Any
) -> Scenario:
    return Scenario(name, prepare, act, check, follow, **{"between": whole_for_readers, **more})


PUSH = by_publisher("push")
PUSH_FILES = by_publisher("push", "--files")

PUBLISHERS: tuple[Scenario, ...] = (
    publishing(
        "generate",
        first_and_changed,
        generate,
        second_published,
        push_and_update,
        command=by_publisher("generate", "--ensure"),
    ),
    publishing("push", first_and_generated, push, second_published, s3=True, command=PUSH),
    publishing("push the first", nothing_published, push, first_published, s3=True, command=PUSH),
    publishing("push a snapshot", snapshot_due, push, snapshot_left, command=PUSH),
    publishing("push behind others", behind, push, both_published, command=PUSH),
    publishing(
        "push files",
        with_files,
        push_files,
        files_published,
        between=named_for_readers,
        s3=True,
        command=PUSH_FILES,
    ),
    publishing(
        "sync as a publisher", first_and_changed, sync_publisher, synced, command=by_publisher("sync")
    ),
    publishing("upsert and delete", first, write_published, upserted, push_and_update),
    publishing(
        "write the store",
        first,
        write_store,
        store_published,
        push_and_update,
        between=store_whole,
        command=by_publisher("store", "set", "k0", '[0, "text"]'),
    ),
    publishing("clean up", littered, clean, second_published),
)

INTO = by_client("process", "--into", "sqlite:///{work}/target.db", "--chunk", str(CHUNK))
DOWNLOAD = by_client("download", "{work}/downloads", "--workers", "2")
EXPORT = by_client("export", "-o", "{work}/out.db", "--format", "sqlite")
PULL = by_client("pull")
SYNC = by_client("sync")

CLIENTS: tuple[Scenario, ...] = (
    Scenario("pull the log", published_twice, pull, client_has_two, update, s3=True, command=PULL),
    Scenario("pull a snapshot", snapshot_published, pull, client_has_four, update, s3=True, command=PULL),
    Scenario("pull what is new", client_at_first, pull, client_has_its_own, update, command=PULL),
    Scenario("update", pulled_not_merged, update, client_has_its_own, command=by_client("update")),
    Scenario("sync as a client", client_at_first, sync_client, client_has_its_own, command=SYNC),
    Scenario("process", client_with_work, process, processed),
    Scenario("into a database", client_with_imports, into, imported, command=INTO),
    Scenario(
        "download",
        client_with_downloads,
        download,
        downloaded,
        between=downloads_whole,
        s3=True,
        command=DOWNLOAD,
    ),
    Scenario("export", exported_before, export, exported, between=exports_whole, command=EXPORT),
)

BY_NAME: dict[str, Scenario] = {scenario.name: scenario for scenario in (*PUBLISHERS, *CLIENTS)}

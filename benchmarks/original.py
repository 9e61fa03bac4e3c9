"""The jobs as the original mmmeta does them; run by the Python of an environment that has it."""

from mmmeta import mmmeta


def _metadir(base):
    return mmmeta(str(base / "documents"))


def generate_cold(base, clock):
    m = _metadir(base)
    clock.start()
    m.generate()
    clock.stop()


generate_again = generate_cold


def update_cold(base, clock):
    m = _metadir(base)
    clock.start()
    m.update()
    clock.stop()


update_again = update_nothing = update_cold


def save(base, clock):
    m = _metadir(base)
    files = [file for file, _ in zip(m.files, range(1000), strict=False)]
    clock.start()
    for file in files:
        file["imported"] = True
        file.save()
    clock.stop()


def iterate(base, clock):
    m = _metadir(base)
    clock.start()
    count = sum(1 for _ in m.files)
    clock.stop()
    clock.note(documents=count)


def find(base, clock):
    m = _metadir(base)
    clock.start()
    found = list(m.files.find(document_type="contract", retrieved_at={">=": clock.options["since"]}))
    clock.stop()
    clock.note(documents=len(found))

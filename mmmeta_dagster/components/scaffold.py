"""What `dg scaffold defs` writes: a YAML file that runs as it is, with what else there is as comments."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import dagster as dg

_S3 = """\
# s3:  # how to reach a bucket; left out, as AWS tools do
  #   endpoint_url: https://storage.example.org
  #   region: eu-central-1
  #   profile: archive
  #   anonymous: false
  #   access_key_id: "{{ env.ARCHIVE_KEY }}"
  #   secret_access_key: "{{ env.ARCHIVE_SECRET }}"
  #   session_token: "{{ env.ARCHIVE_TOKEN }}"
"""

_COMMON = f"""\
{_S3}  # key_prefix: NAME  # of the asset keys
  # group_name: NAME  # of the assets in Dagster
  # checks:  # after each run
  #   required_columns: [title]
  #   min_ratio: 0.5
  #   documents: 100
  # translation:  # what else the assets have
  #   owners: ["team:archive"]
"""

_PUBLISHER = f"""\
type: TYPE

attributes:
  name: NAME
  path: data/NAME  # the metadir _mmmeta is below it
  files_root: data/archive  # the metadata files; left out, nothing is generated
  remote: data/archive  # the archive: a folder or s3://bucket/prefix, also "{{{{ env.ARCHIVE }}}}"
  {_COMMON}  # deps: [scraper/documents]  # assets that make documents
  # ensure: true  # soft-delete documents whose metadata file is gone
  # ensure_files: true  # soft-delete documents whose own file is gone; restore those back
  # no_meta: true  # there are no metadata files: catalog the files themselves
  # upload_files: true  # upload documents that the archive lacks before the catalog is published
  # freshness:  # let Dagster say when nothing was published for so long
  #   hours: 48
  #   warn_hours: 24
  # schedule:
  #   cron: "0 * * * *"
  #   timezone: Europe/Berlin
  #   default_status: running
"""

_ARCHIVE = f"""\
type: TYPE

attributes:
  name: NAME
  remote: data/archive  # a folder, s3://bucket/prefix or https://host/path, also "{{{{ env.ARCHIVE }}}}"
  {_S3}  # key: NAME/remote  # of the asset
  # group_name: NAME  # of the asset in Dagster
  # description: Letters of the city, since 2019.
  # owners: ["team:archive"]
  # freshness:  # let Dagster say when nothing was published for so long
  #   hours: 48
  #   warn_hours: 24
  # watch:  # look for new revisions
  #   minimum_interval_seconds: 30
  #   default_status: running
"""

_CLIENT = f"""\
type: TYPE

attributes:
  name: NAME
  path: data/NAME  # the metadir _mmmeta is below it
  remote: data/archive  # the archive: a folder, s3://bucket/prefix or https://host/path, also "{{{{ env.ARCHIVE }}}}"
  trigger:  # run the job when something new was published
    keys: [remote_last_updated]
    # max_attempts: 3
    # minimum_interval_seconds: 30
    # default_status: running
  # archive: publisher/remote  # the publisher's asset
  # state_db: data/NAME/state.db  # or postgresql+psycopg://user@host/database?schema=NAME
  {_COMMON}  # downloads:  # documents to fetch, each one once
  #   dest: data/NAME/documents
  #   filters: {{document_type: contract}}
  #   workers: 8
  #   max_attempts: 5
  #   source: archive
  #   pool: downloads
  # pipelines:  # work on documents, by mark: the client's column that says done
  #   imported:
  #     into:  # a table in a database; or handler: package.module:function
  #       url: sqlite:///data/NAME.db
  #       table: documents
  #       columns: [title, retrieved_at]
  #     filters:
  #       retrieved_at: {{since: 7 days}}  # counted from each run
  #     workers: 1
  #     chunk: 100
  #     max_attempts: 5
  #     timeout: 60
  #     on_change: content
  #     deletions: true
  #     pool: imports
  #     lease: 120
  #     spread:  # by many steps at once
  #       documents: 1000
  #       steps: 100
  #       retries: 3
  # schedule:
  #   cron: "0 * * * *"
  #   timezone: Europe/Berlin
  #   default_status: running
"""


class _TextScaffolder(dg.Scaffolder[Any]):
    text: ClassVar[str]

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        """Write defs.yaml with comments; what is Dagster's own for `--format python`."""
        if request.scaffold_format != "yaml":
            dg.scaffold_component(request)
            return
        name = re.sub(r"\W", "_", re.sub(r"^(?=\d)", "_", request.target_path.stem), flags=re.ASCII)
        text = self.text.replace("TYPE", request.type_name).replace("NAME", name)
        if request.append:
            with request.target_path.open("a", encoding="utf-8") as file:
                file.write(f"---\n{text}")
        else:
            (request.target_path / "defs.yaml").write_text(text, encoding="utf-8")


class PublisherScaffolder(_TextScaffolder):
    """Writes a publisher."""

    text = _PUBLISHER


class ArchiveScaffolder(_TextScaffolder):
    """Writes an archive that is published elsewhere."""

    text = _ARCHIVE


class ClientScaffolder(_TextScaffolder):
    """Writes a client."""

    text = _CLIENT

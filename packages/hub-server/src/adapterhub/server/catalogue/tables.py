"""Tables derived from `adapters` and `versions`, shaped for reading; all can be rebuilt from the records at any time.

`listings` holds one row per adapter that has a published version. Its `rank` orders adapters by popularity and is at the
same time the row id of the full-text index, which therefore yields popular matches first, without sorting. The counters
(`explore_pairs`, `explore_cells`, `facet_counts`) only count what everybody may see; a row whose count falls to zero is deleted.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    desc,
    event,
    false,
    select,
)

from adapterhub.server.storage.tables import BigId, metadata

__all__ = [
    "architectures",
    "configs",
    "explore_cells",
    "explore_pairs",
    "facet_counts",
    "imported_records",
    "listing_rows",
    "listings",
    "vocabulary",
]

listings = Table(
    "listings",
    metadata,
    Column("rank", BigId, primary_key=True, autoincrement=False),
    Column("adapter_id", BigId, ForeignKey("adapters.id"), nullable=False, unique=True),
    Column("organisation_id", BigId, nullable=False),
    Column("private", Boolean, nullable=False, server_default=false()),
    Column("namespace", String(64), nullable=False),
    Column("namespace_key", String(64), nullable=False),
    Column("name", String(128), nullable=False),
    Column("name_key", String(128), nullable=False),
    Column("version", String(128), nullable=False),  # the one shown: the default, else the newest that is not yanked
    Column("digest", String(71)),
    Column("kind", String(16), nullable=False),  # task | language
    Column("type", String(32), nullable=False),
    Column("task", String(128), nullable=False),
    Column("subtask", String(128), nullable=False),
    Column("task_key", String(128), nullable=False),
    Column("subtask_key", String(128), nullable=False),
    Column("model_name", String(255), nullable=False),
    Column("family", String(64), nullable=False, server_default=""),
    Column("method", String(32), nullable=False),
    Column("using", String(64)),
    Column("reduction_factor", String(24), nullable=False, server_default=""),
    Column("non_linearity", String(32), nullable=False, server_default=""),
    Column("config_id", String(71), nullable=False, server_default=""),
    Column("license", Text),
    Column("languages", Text, nullable=False, server_default=""),  # tags with blanks between
    Column("description", Text, nullable=False, server_default=""),
    Column("size", BigInteger, nullable=False, server_default="0"),
    Column("hidden_size", Integer),
    Column("downloads", BigInteger, nullable=False, server_default="0"),
    Column("versions", Integer, nullable=False, server_default="1"),
    Column("created_at", String(27), nullable=False),
    Column("updated_at", String(27), nullable=False),
    Column("yanked", Boolean, nullable=False, server_default=false()),
    Column("status", String(16), nullable=False),
    Column("sha1", String(40)),
    Column("words", Text, nullable=False),  # what the full-text index holds for this row
    Index("ix_listings_pair", "kind", "task_key", "subtask_key", "rank"),
    Index("ix_listings_namespace", "namespace_key", "name_key"),
    Index("ix_listings_name", "name_key"),
    Index("ix_listings_model", "model_name", "name_key"),
    Index("ix_listings_updated", "updated_at", "rank"),
)

#: the expanded configs of the listings; a hub of a million adapters has few different ones
configs = Table(
    "configs",
    metadata,
    Column("config_id", String(71), primary_key=True),
    Column("config", Text, nullable=False),
)

#: a listing with its config
listing_rows: Any = select(*listings.c, configs.c.config).select_from(
    listings.outerjoin(configs, configs.c.config_id == listings.c.config_id)
)

#: how many adapters, and for how many base models, stand under each (task, subtask)
explore_pairs = Table(
    "explore_pairs",
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("task_key", String(128), primary_key=True),
    Column("subtask_key", String(128), primary_key=True),
    Column("task", String(128), nullable=False),
    Column("subtask", String(128), nullable=False),
    Column("adapters", Integer, nullable=False),
    Column("models", Integer, nullable=False),
)

#: the same, by everything the third explore level filters by
explore_cells = Table(
    "explore_cells",
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("task_key", String(128), primary_key=True),
    Column("subtask_key", String(128), primary_key=True),
    Column("model_name", String(255), primary_key=True),
    Column("family", String(64), primary_key=True),
    Column("method", String(32), primary_key=True),
    Column("using", String(64), primary_key=True),  # empty: none named
    Column("reduction_factor", String(24), primary_key=True),
    Column("non_linearity", String(32), primary_key=True),
    Column("adapters", Integer, nullable=False),
)

#: how many adapters have each value of each search facet
facet_counts = Table(
    "facet_counts",
    metadata,
    Column("field", String(24), primary_key=True),
    Column("value", String(255), primary_key=True),
    Column("adapters", Integer, nullable=False),
    Index("ix_facet_counts_top", "field", desc("adapters"), "value"),
)

#: names and descriptions of tasks (`subtask_key` empty) and of their data sets or domains
vocabulary = Table(
    "vocabulary",
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("task_key", String(128), primary_key=True),
    Column("subtask_key", String(128), primary_key=True),
    Column("task", String(128), nullable=False),
    Column("subtask", String(128), nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("url", Text, nullable=False, server_default=""),
    Column("citation", Text, nullable=False, server_default=""),
    Column("language", Text, nullable=False, server_default=""),
    Column("metric", Text, nullable=False, server_default=""),
    Column("dataset", Text, nullable=False, server_default=""),
)

#: what an imported catalogue says about an adapter beyond what a manifest holds, as one JSON object; nothing is dropped
imported_records = Table(
    "imported_records",
    metadata,
    Column("adapter_id", BigId, ForeignKey("adapters.id"), primary_key=True),
    Column("source", Text, nullable=False),
    Column("document", Text, nullable=False),
)

#: descriptions and citations of named adapter architectures
architectures = Table(
    "architectures",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("display_name", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    Column("citation", Text, nullable=False, server_default=""),
)

# The full-text index is no SQLAlchemy table. SQLite: FTS5 over the column `words`, whose content stays in `listings`
# (external content), with neither positions nor columns stored. PostgreSQL: a generated tsvector under a GIN index.
event.listen(
    listings,
    "after_create",
    DDL(
        "CREATE VIRTUAL TABLE listings_text USING fts5("
        "words, content='listings', content_rowid='rank', detail='none', columnsize=0, prefix='2 3 4', "
        "tokenize='unicode61 remove_diacritics 0')"
    ).execute_if(dialect="sqlite"),
)
event.listen(listings, "before_drop", DDL("DROP TABLE IF EXISTS listings_text").execute_if(dialect="sqlite"))
# What a search reads of each candidate, small and in order of popularity: a seventh of the table, so it stays in memory.
event.listen(
    listings,
    "after_create",
    DDL(
        "CREATE INDEX ix_listings_light ON listings (rank, name_key, namespace_key, kind, task_key, subtask_key, "
        'model_name, family, method, "using", languages, license, downloads)'
    ).execute_if(dialect="sqlite"),
)
event.listen(
    listings,
    "after_create",
    DDL(
        "ALTER TABLE listings ADD COLUMN tsv tsvector "
        "GENERATED ALWAYS AS (array_to_tsvector(string_to_array(words, ' '))) STORED"
    ).execute_if(dialect="postgresql"),
)
event.listen(
    listings,
    "after_create",
    DDL("CREATE INDEX ix_listings_tsv ON listings USING gin (tsv)").execute_if(dialect="postgresql"),
)

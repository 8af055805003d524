"""The tokens of one build: which random token stands for which member, claim and note of the slice.

Rows are sorted by numbers in the order of the tokens: a member's rank among them, the first half of a claim's. Until
they are written a token is its sixteen bytes (UUID), a third of what its text takes in memory.
"""

from __future__ import annotations

import duckdb

from workbench.broker.cut import CUTS
from workbench.broker.cutter import Cutter
from workbench.broker.vault import Vault
from workbench.schema import IdentifierClass, dictionary


def make_tokens(
    con: duckdb.DuckDBPyConnection, cutter: Cutter, vault: Vault, namespace: str, names: list[str]
) -> None:
    """Gives `permitted` the columns `token` and `rank`, and makes `claim_key` and `id_token` as the tables need them.

    `claim_key`: one row per kind and claim of the slice, with its token and its member's rank. `id_token`: the other
    ids of class claim_key (notes, events, the claims that notes speak of).
    """
    members = vault.cover(con, namespace, "member", "SELECT member_id FROM permitted")
    con.execute(
        "CREATE OR REPLACE TABLE permitted AS SELECT p.*, t.number AS token, "
        "(row_number() OVER (ORDER BY t.number))::UINTEGER AS rank "
        f"FROM {members} t JOIN permitted p ON p.member_id = t.original"
    )
    if any(follows_claim(name) for name in names):
        _claim_key(con, cutter, vault, namespace)
    ids = [
        _ids(cutter, name, column) for name in names for column in claim_keys(name) if not follows_claim(name)
    ]
    if ids:
        con.execute(f"CREATE TABLE other_id AS SELECT DISTINCT id FROM ({' UNION ALL '.join(ids)}) i(id)")
        others = vault.cover(con, namespace, "claim", "SELECT id FROM other_id")
        con.execute(
            "CREATE TABLE id_token AS SELECT t.original AS id, t.number AS token, t.prefix "
            f"FROM {others} t SEMI JOIN other_id o ON o.id = t.original"
        )
        con.execute("DROP TABLE other_id")


def _claim_key(con: duckdb.DuckDBPyConnection, cutter: Cutter, vault: Vault, namespace: str) -> None:
    """Makes `claim_key`; tokens are drawn only where the vault has none, so a later build joins the vault once."""
    con.execute(
        "CREATE TABLE claim_key AS "
        "SELECT c.kind, c.claim_id AS id, c.rank AS member_rank, t.number AS token, t.prefix "
        f"FROM ({cutter.kept_claims()}) c LEFT JOIN {vault.pairs(namespace, 'claim')} t ON t.original = c.claim_id"
    )
    missing = "SELECT id FROM claim_key WHERE token IS NULL"
    if con.execute(f"{missing} LIMIT 1").fetchall():
        claims = vault.cover(con, namespace, "claim", missing)
        con.execute(
            "CREATE OR REPLACE TABLE claim_key AS "
            "SELECT k.kind, k.id, k.member_rank, t.number AS token, t.prefix "
            f"FROM claim_key k JOIN {claims} t ON t.original = k.id"
        )


def follows_claim(name: str) -> bool:
    """Whether every row of a table goes with one claim of its own member."""
    rule = CUTS.get(name)
    return rule is not None and rule.claim is not None and not rule.claim_may_be_empty and not rule.own_only


def claim_keys(name: str) -> list[str]:
    """The columns of class claim_key of a table."""
    return [
        c.name for c in dictionary()[name].columns.values() if c.identifier_class == IdentifierClass.CLAIM_KEY
    ]


def _ids(cutter: Cutter, name: str, column: str) -> str:
    selection = cutter.select(name)
    return (
        f"SELECT s.{column} FROM {selection.source} WHERE {selection.fate} IS NULL AND s.{column} IS NOT NULL"
    )

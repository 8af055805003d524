"""The data dictionary: every table and column, its type, meaning, source element and identifier class."""

from workbench.schema.dictionary import Column, IdentifierClass, Table, dictionary, dictionary_digest

__all__ = ["Column", "IdentifierClass", "Table", "dictionary", "dictionary_digest"]

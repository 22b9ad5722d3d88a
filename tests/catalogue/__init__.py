"""Modules such as people bring, with random weights; ``python -m tests.catalogue`` judges them."""

from tests.catalogue import libraries, neuroscience, torch_modules, written
from tests.catalogue.entries import Entry, Group


def of_torch() -> list[Entry]:
    """Entries that need torch alone."""
    return _in(*torch_modules.GROUPS, *written.GROUPS, *neuroscience.GROUPS)


def all_entries() -> list[Entry]:
    """Every entry."""
    return of_torch() + _in(*libraries.GROUPS)


def _in(*groups: Group) -> list[Entry]:
    return [entry for group in groups for entry in group.entries]

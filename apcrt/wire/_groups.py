"""Association groups: which connections belong to one client.

What lives here: the registry that all connections of a server share. What must not: locks (the engine has one) and
what is kept for a group (context handles).

Source: C706 9.3.1 (association groups), MS-RPCE 3.3.1.4.2.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Hashable


def _random_id() -> int:
    return secrets.randbits(32)


class AssociationGroups:
    """Groups and their members. Not thread-safe.

    Args:
        new_id: gives candidates for identifiers; 0 and taken ones are passed over. By default they are random, because
            whoever knows one may join the group.
    """

    def __init__(self, new_id: Callable[[], int] = _random_id) -> None:
        self._new_id = new_id
        self._members: dict[int, set[Hashable]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def join(self, group_id: int, member: Hashable) -> int | None:
        """Add `member` to a group, or to a new one when `group_id` is 0.

        Returns:
            The group's identifier, never 0; None if there is no such group, which happens when the last connection of a
            group has closed.
        """
        if group_id:
            members = self._members.get(group_id)
            if members is None:
                return None
            members.add(member)
            return group_id
        while not group_id or group_id in self._members:
            group_id = self._new_id()
        self._members[group_id] = {member}
        return group_id

    def leave(self, group_id: int, member: Hashable) -> bool:
        """Take `member` out. True when it was the last one: the group, and all that was kept for it, is gone."""
        members = self._members.get(group_id)
        if members is None:
            return False
        members.discard(member)
        if members:
            return False
        del self._members[group_id]
        return True

    def members(self, group_id: int) -> frozenset[Hashable]:
        """The members of a group; none if there is no such group."""
        return frozenset(self._members.get(group_id, ()))

"""Name -> thing, by one decorator, with an error that lists the choices. Knows nothing of what it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from understudy.errors import UnknownName

T = TypeVar("T")


class Registry(Generic[T]):
    """`METHODS = Registry("method")`, then `@METHODS.register("saliency")` above a class or function."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        if name in self._items:
            raise ValueError(f"{self.kind} '{name}' is registered twice")

        def keep(item: T) -> T:
            self._items[name] = item
            return item

        return keep

    def get(self, name: str, *, param: str | None = None) -> T:
        """Return what is registered under `name`, or raise UnknownName, which lists what there is."""
        if name not in self._items:
            raise UnknownName.among(self.kind, name, self._items, param=param)
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._items))

    def __contains__(self, name: object) -> bool:
        return name in self._items

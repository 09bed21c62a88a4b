"""Registers frozen dataclasses as pytrees, whose leaves are tensors and nested values."""

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any, TypeVar

from torch.utils import _pytree

T = TypeVar("T")


def pytree(static: Iterable[str] = ()) -> Callable[[type[T]], type[T]]:
    """Class decorator; the fields named in ``static`` travel in the tree's structure."""
    fixed = tuple(static)

    def register(cls: type[T]) -> type[T]:
        names = tuple(f.name for f in fields(cls) if f.name not in fixed)  # type: ignore[arg-type]

        def flatten(value: T) -> tuple[list[Any], Any]:
            constants = tuple(getattr(value, name) for name in fixed)
            return [getattr(value, name) for name in names], constants

        def unflatten(leaves: Iterable[Any], constants: Any) -> T:
            return cls(
                **dict(zip(names, leaves, strict=True)), **dict(zip(fixed, constants, strict=True))
            )

        _pytree.register_pytree_node(
            cls, flatten, unflatten, serialized_type_name=f"{cls.__module__}.{cls.__qualname__}"
        )
        return cls

    return register

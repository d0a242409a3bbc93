"""What ``torch.export`` must be told of our containers."""

from collections.abc import Callable
from typing import Any

from torch.utils import _pytree as pytree

from .cache import Cache, Once, Static

__all__ = ["register_for_export"]


def register_for_export() -> None:
    """Let ``torch.export`` see the tensors of a filled :class:`Cache` of :class:`Static` and :class:`Once` slots.

    The exported function must return the cache: it works on a copy. Call this once, before exporting. It is not done on
    import: whatever maps a function over inputs would then hand copies to the blocks, and what they write be lost.
    """
    if Cache in pytree.SUPPORTED_NODES:
        return

    def add(kind: type, flatten: Callable[[Any], tuple[list[Any], Any]], build: Callable[[Any, Any], Any]) -> None:
        def flatten_with_keys(node: Any) -> tuple[list[tuple[Any, Any]], Any]:
            parts, context = flatten(node)
            return [(pytree.SequenceKey(i), part) for i, part in enumerate(parts)], context

        name = f"{kind.__module__}.{kind.__name__}"
        pytree.register_pytree_node(
            kind, flatten, build, serialized_type_name=name, flatten_with_keys_fn=flatten_with_keys
        )

    add(Cache, lambda c: (list(c.values()), list(c)), lambda parts, keys: Cache(dict(zip(keys, parts, strict=True))))
    add(Static, Static.flatten, Static.build)
    add(Once, Once.flatten, Once.build)

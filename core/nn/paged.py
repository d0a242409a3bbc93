"""A paged key/value cache (vLLM, arXiv:2309.06180): texts of any length share one pool of pages.

A text holds as many pages as its tokens need, wherever they lie; its :class:`BlockTable` says which. Texts come and go
without a copy, and beams share the pages of their common beginning until one of them writes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .cache import Make, Slot
from .context import Tokens

__all__ = ["BlockTable", "OutOfPages", "Paged", "Pages"]

FIRST = 16  # pages of a pool without a bound, to begin with


class OutOfPages(RuntimeError):
    """The pool has a bound, and no page is left."""


@dataclass(eq=False)
class BlockTable:
    """What one text holds.

    Attributes:
        pages: numbers of its pages, in order.
        length: how many tokens lie in them.
        skipped: how many the text was given beside them: padding that nobody kept.
    """

    pages: list[int] = field(default_factory=list)
    length: int = 0
    skipped: int = 0


class Pages:
    """The pool, and which of the texts are the rows of the batch that comes next.

    Every layer has keys and values of its own under the same page numbers: ``decoder.cache(Pages().slot)``. Rows are
    opened by the first call; whoever serves texts that come and go (`core.generate.batching`) sets :attr:`rows`.

    Args:
        count: how many pages there are; None lets the pool grow.
        size: tokens in a page.

    Attributes:
        rows: the texts of the batch.
        storage: keys and values, (slots, 2, pages, groups, size, d), once their shape is known.
        index: order of the tokens for masks, (pages, size) int64.

    Raises:
        ValueError: for a pool or a page of nothing.
    """

    def __init__(self, count: int | None = None, size: int = 16) -> None:
        if size < 1 or (count is not None and count < 1):
            raise ValueError(f"a pool needs at least one page of at least one token, not {count} of {size}")
        self.bound, self.size = count, size
        self.rows: list[BlockTable] = []
        self.storage: Tensor | None = None
        self.index = torch.empty(0, size, dtype=torch.long)
        self._slots = 0
        self._owners: list[int] = []  # of each page
        self._free: list[int] = []
        self._add(FIRST if count is None else count)

    def slot(self) -> "Paged":
        """Return the slot of the next layer.

        Raises:
            RuntimeError: if the pool is in use already.
        """
        if self.storage is not None:
            raise RuntimeError("these pages hold texts of a cache that was made before: use a new pool")
        self._slots += 1
        return Paged(self, self._slots - 1)

    @property
    def available(self) -> int | None:
        """How many pages are free; None without a bound."""
        return None if self.bound is None else len(self._free)

    def needed(self, tokens: int) -> int:
        """How many pages so many tokens of one text need."""
        return -(-tokens // self.size)

    def lengths(self) -> list[int]:
        """How many tokens each row holds."""
        return [row.length for row in self.rows]

    def close(self, table: BlockTable) -> None:
        """Give back the pages of a text."""
        self._drop(table, 0)
        table.length = table.skipped = 0

    def advance(self, counts: Sequence[int]) -> None:
        """Make room for so many more tokens of each row, of its own alone.

        Raises:
            OutOfPages: if there are not enough; nothing has changed then.
        """
        if self.bound is not None:
            wanted = sum(self._wanted(row, count) for row, count in zip(self.rows, counts, strict=True))
            if wanted > len(self._free):
                raise OutOfPages(f"{wanted} more pages of {self.size} tokens are needed, {len(self._free)} are free")
        for row, count in zip(self.rows, counts, strict=True):
            if count and self._shares_its_last(row):
                mine = self._take()
                self._copy(row.pages[-1], mine)
                self._owners[row.pages[-1]] -= 1
                row.pages[-1] = mine
            row.length += count
            while len(row.pages) < self.needed(row.length):
                row.pages.append(self._take())

    def truncate(self, length: int) -> None:
        """Forget all tokens that each row was given but the first `length`."""
        for row in self.rows:
            row.length = max(0, min(row.length, length - row.skipped))
            self._drop(row, self.needed(row.length))

    def reorder(self, rows: Sequence[int]) -> None:
        """Make the given rows the batch; a row that occurs twice is shared until one of the two writes."""
        picked = [replace(self.rows[row], pages=list(self.rows[row].pages)) for row in rows]
        for table in picked:
            for page in table.pages:
                self._owners[page] += 1
        for table in self.rows:
            self.close(table)
        self.rows = picked

    def tables(self) -> Tensor:
        """The pages of each row, (B, most pages) int64; after those of a row, any."""
        most = max((len(row.pages) for row in self.rows), default=0)
        return torch.tensor([row.pages + [0] * (most - len(row.pages)) for row in self.rows]).view(-1, most)

    def allocate(self, groups: int, dim: int, like: Tensor) -> Tensor:
        """Return the storage, which is made, with the dtype and device of `like`, by the first to ask."""
        if self.storage is None:
            self.index = self.index.to(like.device)
            # zeros: what nobody wrote is masked, but 0 times NaN would be NaN
            self.storage = like.new_zeros(self._slots, 2, len(self.index), groups, self.size, dim)
        return self.storage

    def _add(self, count: int) -> None:
        before = len(self._owners)
        self._owners += [0] * count
        self._free += range(before + count - 1, before - 1, -1)  # lower numbers are taken first
        self.index = torch.cat([self.index, self.index.new_full((count, self.size), -1)])
        if self.storage is not None:
            slots, two, _, *shape = self.storage.shape
            self.storage = torch.cat([self.storage, self.storage.new_zeros(slots, two, count, *shape)], 2)

    def _take(self) -> int:
        if not self._free:
            self._add(len(self._owners))
        page = self._free.pop()
        self._owners[page] = 1
        return page

    def _drop(self, table: BlockTable, kept: int) -> None:
        for page in table.pages[kept:]:
            self._owners[page] -= 1
            if not self._owners[page]:
                self._free.append(page)
        del table.pages[kept:]

    def _shares_its_last(self, row: BlockTable) -> bool:
        return row.length % self.size > 0 and self._owners[row.pages[-1]] > 1

    def _wanted(self, row: BlockTable, count: int) -> int:
        shares = bool(count) and self._shares_its_last(row)
        return self.needed(row.length + count) - len(row.pages) + shares

    def _copy(self, page: int, to: int) -> None:
        self.index[to] = self.index[page]
        if self.storage is not None:
            self.storage[:, :, to] = self.storage[:, :, page]


class Paged(Slot):
    """The keys and values of one layer, in pages. The first layer's slot moves the tables for all of them.

    Of the tokens it keeps the index only. Made by :meth:`Pages.slot`.
    """

    def __init__(self, pages: Pages, number: int) -> None:
        self.pages, self.number = pages, number
        self._starts = torch.zeros(0, 1, dtype=torch.long)

    @property
    def length(self) -> int:  # type: ignore[override]
        """How many tokens the rows were given, or the most of them: then the caller numbers their tokens."""
        return max((row.length + row.skipped for row in self.pages.rows), default=0)

    def place(self, tokens: Tokens, count: int, device: torch.device) -> Tokens:
        """Number the new tokens of each row on from those before, where they have no order of their own."""
        lengths = self.pages.lengths()
        before = [length - (count if self.number else 0) for length in lengths]  # which the first slot has moved
        self._starts = torch.tensor(before, dtype=torch.long, device=device)[:, None]
        if tokens.index is not None:
            return tokens
        if not any(before):  # nothing is there yet: kernels have a shortcut for the plain triangle
            coords = torch.arange(count, device=device)[None] if tokens.coords is None else tokens.coords
            return tokens._replace(coords=coords)
        alike = len(set(before)) == 1
        starts = self._starts[:1] if alike else self._starts
        return tokens._replace(index=starts + torch.arange(count, device=device))

    def read(self, make: Make) -> tuple[Tensor, Tensor, Tokens]:
        """Write the new tokens, and return those of all rows side by side; what is not there has index -1.

        Raises:
            ValueError: if there are other rows than the batch has, or segments.
            OutOfPages: if the pool has a bound, and it is reached.
        """
        k, v, tokens = make()
        pages, (rows, groups, count, dim) = self.pages, k.shape
        if tokens.segment is not None:
            raise ValueError("pages hold one text a row: give packed texts as rows of a batch")
        if not pages.rows:
            pages.rows = [BlockTable() for _ in range(rows)]
            self._starts = self._starts.new_zeros(rows, 1)
        if len(pages.rows) != rows:
            raise ValueError(f"a cache of {len(pages.rows)} rows was given {rows}")
        if self.number == 0:
            pages.advance([count] * rows)
        tables = pages.tables().to(k.device)
        at = self._starts + torch.arange(count, device=k.device)  # (B, count)
        page, place = tables.gather(1, at // pages.size), at % pages.size
        keys, values = pages.allocate(groups, dim, k)[self.number]
        keys[page, :, place] = k.detach().transpose(1, 2)
        values[page, :, place] = v.detach().transpose(1, 2)
        if self.number == 0:
            pages.index[page, place] = at if tokens.index is None else tokens.index.expand(rows, -1)
        if tokens.index is None:
            return k, v, tokens
        # (B, P) -> (B, groups, P) of pages whose heads lie apart: one copy makes them (B, groups, P * size, d)
        parts = (tables[:, None] * groups + torch.arange(groups, device=k.device)[:, None]).flatten()
        longest = tables.shape[1] * pages.size
        given = [x.flatten(0, 1).index_select(0, parts).view(rows, groups, longest, dim) for x in (keys, values)]
        lengths = torch.tensor(pages.lengths(), device=k.device)[:, None]
        index = pages.index[tables].flatten(1).masked_fill(torch.arange(longest, device=k.device) >= lengths, -1)
        end = int(lengths.max())
        return given[0][:, :, :end], given[1][:, :, :end], Tokens(index[:, :end])

    def reorder(self, rows: Tensor) -> None:
        """Pick rows; their pages are shared."""
        if self.number == 0:
            self.pages.reorder(rows.tolist())

    def truncate(self, length: int) -> None:
        """Forget the rest; its pages are free."""
        if self.number == 0:
            self.pages.truncate(length)

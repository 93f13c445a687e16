"""Pages of an SQLite file without the copies that lie in their unused space.

Where SQLite moves rows between pages it leaves copies of them in the space between a page's list of cells and its
cells, which `secure_delete` does not clear: of 6,207 deleted rows ten could be read there, and nowhere else
(DECISIONS). Nothing reads this space, so zeros in it change nothing: https://sqlite.org/fileformat2.html#b_tree_pages
"""

from __future__ import annotations

_HEADERS = {2: 12, 5: 12, 10: 8, 13: 8}  # type of a b-tree page → bytes of its header
_FILE_HEADER = 100  # bytes before the header of the first page


def blanked(page: bytes, *, first: bool) -> bytes:
    """Return a page, the `first` of the file or another, with zeros where nothing is; what is no b-tree page stays.

    An overflow page begins with the number of the next one, a page of the free list with that of the next trunk: their
    first byte is 0 in a file of less than 2^25 pages, and a larger file is left as it is.
    """
    start = _FILE_HEADER if first else 0
    size = _HEADERS.get(page[start]) if len(page) > start + 12 else None
    if size is None:
        return page
    cells = int.from_bytes(page[start + 3 : start + 5], "big")
    content = int.from_bytes(page[start + 5 : start + 7], "big") or 65_536
    begin = start + size + 2 * cells
    if not begin < content <= len(page):
        return page
    return page[:begin] + bytes(content - begin) + page[content:]

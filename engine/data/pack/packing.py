"""Best-fit-decreasing bin packing.

Longest example first, each into the fullest bin that still has room. On length distributions of
real data that is within a percent or so of full bins, and as nothing is random, the same rows
always give the same bins (a resumed run sees the same data).
"""

import bisect
from collections.abc import Sequence


def pack(lengths: Sequence[int], max_length: int) -> list[list[int]]:
    """Put every example into one bin.

    Args:
        lengths: tokens of each example, 1 to `max_length`.
        max_length: tokens that a bin holds.

    Returns:
        Bins as lists of indices into `lengths`, ascending; bins in the order of their first index,
        so that unshuffled training begins at the beginning of the file.

    Raises:
        ValueError: a length is not within 1 to `max_length`.
    """
    bins: list[list[int]] = []
    open_bins: dict[int, list[int]] = {}  # room left -> bins that have it
    rooms: list[int] = []  # its keys, ascending: the smallest that suffices is the best fit
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        length = lengths[index]
        if not 0 < length <= max_length:
            raise ValueError(f"example {index}: length {length} is not within 1 to {max_length}")
        at = bisect.bisect_left(rooms, length)
        if at == len(rooms):
            room, place = max_length, len(bins)
            bins.append([])
        else:
            room = rooms[at]
            place = open_bins[room].pop()
            if not open_bins[room]:
                del open_bins[room], rooms[at]
        bins[place].append(index)
        left = room - length
        if left:
            if left not in open_bins:
                open_bins[left] = []
                bisect.insort(rooms, left)
            open_bins[left].append(place)
    return sorted(sorted(one) for one in bins)

"""What the names of cases say: which cases look like parts of one thing."""

import re
from collections import defaultdict
from collections.abc import Sequence

MIN_SHARE = 0.9  # of the cases, that share their beginning with others


def common_beginnings(names: Sequence[str]) -> dict[str, list[int]]:
    """Group names that differ in the numbers at their end: slices, tiles or frames of one thing.

    From the end, number after number is cut off as long as that leaves several groups of several
    names: `seq1_f001` and `seq1_f002` are of `seq1_f`, `p1_x0_y1` and `p1_x1_y0` are of `p1_x`.
    Names that are all numbered alike (`case_001`, `case_002`) are no such groups.

    Returns
    -------
    dict
        Beginning to the positions of its names, in the order of the names; empty where less than
        `MIN_SHARE` of them share their beginning.
    """
    numbers = [[match.start() for match in re.finditer(r"\d+", name)] for name in names]
    coarsest: dict[str, list[int]] = {}
    for n_cut in range(1, max(map(len, numbers), default=0) + 1):
        groups = defaultdict(list)
        for position, (name, starts) in enumerate(zip(names, numbers, strict=True)):
            cut = starts[-n_cut] if len(starts) >= n_cut else 0
            groups[name[:cut] or name].append(position)
        shared = sum(len(rows) for rows in groups.values() if len(rows) > 1)
        is_coarser = not coarsest or len(groups) < len(coarsest)
        if len(groups) > 1 and shared >= MIN_SHARE * len(names) and is_coarser:
            coarsest = dict(groups)
    return coarsest

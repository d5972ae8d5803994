"""Training images dealt to sites, patients whole: by the centre that names tell, else drawn."""
from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from dataloaders.description import Item
from dataloaders.errors import UserError
from dataloaders.splits.draws import stratified_order


@dataclass
class Site:
    """What a site has: labelled images, unlabelled ones, or both."""

    labeled: list[Item] = field(default_factory=list)
    unlabeled: list[Item] = field(default_factory=list)
    centres: list[str] = field(default_factory=list)
    """Whose images these are, where names tell it."""

    @property
    def said(self) -> str:
        """What it has, for people."""
        who = f" ({', '.join(self.centres)})" if self.centres else ""
        patients = len(groups_of(self.labeled) | groups_of(self.unlabeled))
        return f"{len(self.labeled)} labelled and {len(self.unlabeled)} unlabelled images of {patients} patients or images{who}"


def groups_of(items: Iterable[Item]) -> set[str]:
    """The patients, or single images, of these."""
    return {item.case.group for item in items}


def by_draw(labeled: Sequence[Item], unlabeled: Sequence[Item], number: int, with_labels: int, seed: int) -> list[Site]:
    """Sites of about as many patients each: the first have the labelled ones, the others all that is not labelled.

    The draw follows from the seed and the names of the patients, each stratum dealt out evenly. Raises `UserError` where a site would
    be empty.
    """
    if not 0 < with_labels < number:
        raise UserError(f"--sites {number} --labeled_sites {with_labels}: some sites have labels and some have none; "
                        "give at least 2 sites, and fewer with labels.")
    sites, places, first = [Site() for _ in range(number)], dict[str, int](), 0
    for items, takers, what in ((labeled, with_labels, "labelled"), (unlabeled, number - with_labels, "unlabelled")):
        groups = [group for group in stratified_order([item.case for item in items], seed) if group not in places]
        if len(groups) < takers:
            raise UserError(f"--sites {number} --labeled_sites {with_labels}: there are {len(groups)} {what} patients or images for "
                            f"{takers} sites; give fewer sites, or another --labeled_num.")
        places |= {group: first + turn % takers for turn, group in enumerate(groups)}
        first += takers
    for item in labeled:
        sites[places[item.case.group]].labeled.append(item)
    for item in unlabeled:
        sites[places[item.case.group]].unlabeled.append(item)
    return sites


def by_centre(labeled: Sequence[Item], unlabeled: Sequence[Item], number: int, pattern: str) -> list[Site]:
    """Sites of whole centres: what the first group of `pattern` finds in the name of a case. Those with labels stand first.

    Where there are more centres than sites, the largest is dealt first, each to the site that has the fewest images. Raises `UserError`
    for names that tell no centre, for fewer centres than sites, and where no site has labels.
    """
    try:
        found = {item.case.name: re.search(pattern, item.case.name) for item in (*labeled, *unlabeled)}
        centres = {name: match[1] for name, match in found.items() if match}
    except (re.error, IndexError) as error:
        raise UserError(f"--site_pattern {pattern}: no regular expression with a group ({error}); "
                        "write one such as '^([A-Z]+)_'.") from None
    silent = [name for name in found if name not in centres]
    if silent:
        raise UserError(f"--site_pattern {pattern}: {len(silent)} of {len(found)} names tell no centre ({silent[0]}, ...); "
                        "mend the pattern.")
    sizes = {centre: sum(centres[item.case.name] == centre for item in (*labeled, *unlabeled)) for centre in set(centres.values())}
    if len(sizes) < number:
        raise UserError(f"--sites {number}: the names tell of {len(sizes)} centres ({', '.join(sorted(sizes))}); "
                        f"give {len(sizes)} at most.")
    sites, loads = [Site() for _ in range(number)], [0] * number
    of: dict[str, Site] = {}
    for centre in sorted(sizes, key=lambda one: (-sizes[one], one)):
        place = loads.index(min(loads))
        loads[place] += sizes[centre]
        sites[place].centres.append(centre)
        of[centre] = sites[place]
    for item in labeled:
        of[centres[item.case.name]].labeled.append(item)
    for item in unlabeled:
        of[centres[item.case.name]].unlabeled.append(item)
    return sorted(sites, key=lambda site: not site.labeled)

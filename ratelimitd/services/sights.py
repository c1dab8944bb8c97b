"""What was seen once: a hash for each place, by its last bits; a later one takes its place."""

from array import array


class Sights:
    """Tells what comes a second time; bounded, so that one may be forgotten. 8 bytes a place."""

    __slots__ = ("_last", "_seen")

    def __init__(self, places: int) -> None:
        """Have `places`, a power of two."""
        self._last = places - 1
        self._seen = array("q", bytes(8 * places))

    def __len__(self) -> int:
        """Return how many places there are."""
        return len(self._seen)

    def is_second(self, sight: int) -> bool:
        """Tell whether the place of `sight` has it; else it has it from now on."""
        place = sight & self._last
        if self._seen[place] == sight:
            return True
        self._seen[place] = sight
        return False

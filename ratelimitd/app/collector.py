"""The garbage collector of a process that answers requests.

Nothing on the way of a request makes a cycle, so the collector has little to find, and looking at
all that a daemon holds takes 40 ms and more: longer than a gateway waits. What is there once it
serves is therefore never looked at again, and the rest less often.
"""

import gc

# A first look at so many new objects takes about a quarter of a millisecond.
_NEW_OBJECTS = 5_000
_YOUNG_LOOKS = 20
_OLD_LOOKS = 50


def settle() -> None:
    """Leave alone what exists now; call it when everything that stays was made."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, _YOUNG_LOOKS, _OLD_LOOKS)

"""Ways to be wrong in Lua: each algorithm, the batch around them, and what is written."""

from tests.support.mutant import Mutant

BATCH = "lua/lib/batch.lua"
BIRTHS = "lua/lib/births.lua"
CALENDAR = "lua/lib/calendar.lua"
CONCURRENCY = "lua/lib/concurrency.lua"
GCRA = "lua/lib/gcra.lua"
KEYSPACE = "lua/lib/keyspace.lua"
REFUSAL = "lua/lib/refusal.lua"
SHAPE = "lua/lib/shape.lua"
SLIDING = "lua/lib/sliding_window.lua"
WINDOW = "lua/lib/fixed_window.lua"

_CHECKS = "tests/property/test_check.py"
_EXAMPLES = tuple(f"tests/lua/test_{name}.py" for name in ("algorithms", "places", "scripts"))
_ALL_CHECKS = (_CHECKS, "tests/property/test_waits.py", "-k", "valkey9")
# What most likely notices, or is fast, comes first.
_ONE_ALGORITHM = f"{_CHECKS}::test_check_of_one_algorithm_equals_the_model[valkey9-%s]"
_KIND_OF = {
    CALENDAR: "calendar",
    CONCURRENCY: "places",
    GCRA: "gcra",
    SLIDING: "sliding",
    WINDOW: "fixed",
}
_GIVE_BACK_TESTS = ("tests/lua/test_give_back.py", "-k", "valkey9")

# name, file, what stands there, what the mutant has instead
_CHECK_MUTANTS = (
    ("admits one more", WINDOW, "after > check.limit", "after > check.limit + 1"),
    ("refuses at the limit", WINDOW, "after > check.limit", "after >= check.limit"),
    ("refuses a refund", WINDOW, "cost >= 0 and after", "after"),
    ("a question is never over", WINDOW, "cost >= 0 and", "cost > 0 and"),
    ("a refund goes below zero", WINDOW, "elseif after < 0 then", "elseif false then"),
    ("the count does not saturate", WINDOW, "if after > MAX_INTEGER then", "if false then"),
    (
        "a window ends one step late",
        WINDOW,
        "start_us < window.start_us then",
        "start_us < window.start_us - 1000000 then",
    ),
    (
        "a future window is not pulled to now",
        WINDOW,
        "start_us < window.start_us then",
        "start_us ~= window.start_us then",
    ),
    (
        "reset is rounded to whole seconds",
        WINDOW,
        "reset_us = reset_us,",
        "reset_us = floor(reset_us / 1000000) * 1000000,",
    ),
    (
        "a wait is told for what never fits",
        WINDOW,
        "need > check.limit and -1 or reset_us",
        "reset_us",
    ),
    ("state loses its window", WINDOW, "return window.prefix ..", 'return "0:" ..'),
    ("garbage behind the right window counts", WINDOW, '"^%d+$", window', '"^%d*", window'),
    ("time to live in seconds", WINDOW, "ceil(reset_us / 1000)", "ceil(reset_us / 1000000)"),
    ("time to live rounded down", WINDOW, "ceil(reset_us / 1000)", "floor(reset_us / 1000)"),
    (
        "calendar: a period goes on at its end",
        CALENDAR,
        "if now_us < next_us then",
        "if now_us <= next_us then",
    ),
    (
        "calendar: without a period the last one counts",
        CALENDAR,
        "or now_us >= end_us",
        "",
    ),
    ("sliding: admits one more", SLIDING, "overlap > check.limit", "overlap > check.limit + 1"),
    ("sliding: refuses at the limit", SLIDING, "overlap > check.limit", "overlap >= check.limit"),
    ("sliding: the share is rounded down", SLIDING, "return ceil(count", "return floor(count"),
    (
        "sliding: the weight is rounded down",
        SLIDING,
        "return left > 0 and weight + 1 or weight",
        "return weight",
    ),
    (
        "sliding: the weight is divided in one piece",
        SLIDING,
        "ipairs({256, 256, 16})",
        "ipairs({1048576})",
    ),
    (
        "sliding: the last window is forgotten",
        SLIDING,
        "    return 0, true, current\n",
        "    return 0, true, 0\n",
    ),
    (
        "sliding: a future window is not pulled to now",
        SLIDING,
        "if start_us >= window.start_us then",
        "if start_us == window.start_us then",
    ),
    (
        "sliding: the count does not saturate",
        SLIDING,
        "if after > MOST_COUNTED then",
        "if false then",
    ),
    (
        "sliding: a life ends with its window",
        SLIDING,
        "ceil((reset_us + window_us) / 1000)",
        "ceil(reset_us / 1000)",
    ),
    ("sliding: life in seconds", SLIDING, "+ window_us) / 1000)", "+ window_us) / 1000000)"),
    (
        "sliding: the wait ends with the window",
        SLIDING,
        "if wait_us < window.window_us then",
        "if false then",
    ),
    (
        "sliding: the wait is a microsecond short",
        SLIDING,
        "return window_us - rest_of(",
        "return window_us - 1 - rest_of(",
    ),
    (
        "sliding: a wait is told for what never fits",
        SLIDING,
        "if room < 0 then",
        "if false then",
    ),
    ("gcra: refuses what conforms exactly", GCRA, "rem > than_rem", "rem >= than_rem"),
    (
        "gcra: the remainder does not count",
        GCRA,
        "return us > than_us or (us == than_us and rem > than_rem)",
        "return us > than_us",
    ),
    ("gcra: no carry", GCRA, "us, rem = us + 1, rem - at.limit", "rem = rem - at.limit"),
    ("gcra: a cell has no remainder", GCRA, "window_us % limit", "0"),
    (
        "gcra: time does not give back",
        GCRA,
        "if us < 0 then\n      return 0, 0",
        "if false then\n      return 0, 0",
    ),
    (
        "gcra: a state ahead is not pulled to now",
        GCRA,
        "if us > most_us or (us == most_us and rem > at.most_rem) then",
        "if false then",
    ),
    (
        "gcra: a remainder of another limit is taken",
        GCRA,
        "if rem >= at.limit then\n      us, rem = us + 1, 0\n",
        "if false then\n      us, rem = us + 1, 0\n",
    ),
    (
        "gcra: debt grows without end",
        GCRA,
        "if cost > taken or is_beyond(us, rem, at.most_us, at.most_rem) then",
        "if false then",
    ),
    ("gcra: lost debt is not told", GCRA, "lost = cost - most + before", "lost = nil"),
    ("gcra: part of a cell is none", GCRA, "return left > 0 and", "return false and"),
    (
        "gcra: the end of the burst is near",
        GCRA,
        "if us < at.burst_us then",
        "if us <= at.burst_us then",
    ),
    ("gcra: all products are exact", GCRA, "if parts < EXACT then", "if true then"),
    (
        "gcra: cells are rounded down",
        GCRA,
        "return cells\n  end",
        "return max(0, cells - 1)\n  end",
    ),
    (
        "gcra: cells are a guess",
        GCRA,
        "while cells > 0 and not is_beyond",
        "while false and not is_beyond",
    ),
    (
        "gcra: the wait is rounded down",
        GCRA,
        "    retry_us = retry_us + 1\n",
        "",
    ),
    ("gcra: a wait is told for what never fits", GCRA, "if need > at.burst then", "if false then"),
    ("gcra: what exceeds a burst may pass", GCRA, "cost > at.burst or is_beyond", "is_beyond"),
    ("gcra: life in seconds", GCRA, "ceil(ahead_us / 1000)", "ceil(ahead_us / 1000000)"),
    ("gcra: life rounded down", GCRA, "ceil(ahead_us / 1000)", "floor(ahead_us / 1000)"),
    (
        "gcra: a refund goes below now",
        GCRA,
        "if us < 0 then\n      us, rem = 0, 0",
        "if false then\n      us, rem = 0, 0",
    ),
    ("gcra: nothing passes for none", GCRA, "return 0, 0, cost > 0 or", "return 0, 0, false and"),
    (
        "concurrency: admits one more",
        CONCURRENCY,
        "not is_held and set.count > limit",
        "not is_held and set.count > limit + 1",
    ),
    (
        "concurrency: refuses at the limit",
        CONCURRENCY,
        "set.count > limit or cost",
        "set.count >= limit or cost",
    ),
    (
        "concurrency: who holds a place is refused",
        CONCURRENCY,
        "not is_held and set.count",
        "set.count",
    ),
    (
        "concurrency: places at their deadline are held",
        CONCURRENCY,
        "if deadline_us > at.now_us then",
        "if deadline_us >= at.now_us then",
    ),
    (
        "concurrency: a deadline ahead is not pulled to now",
        CONCURRENCY,
        "= min(deadline_us, at.deadline_us)\n        set.count",
        "= deadline_us\n        set.count",
    ),
    (
        "concurrency: places are not rolled back",
        CONCURRENCY,
        "for at = counter.a, length + 1, -1 do",
        "for at = counter.a, length + 2, -1 do",
    ),
    (
        "concurrency: refused calls hold places",
        SHAPE,
        " and number ~= CONCURRENCY",
        "",
    ),
    (
        "concurrency: the farthest is freed",
        CONCURRENCY,
        "deadline_us < found_us or",
        "deadline_us > found_us or",
    ),
    (
        "concurrency: a wait too short",
        CONCURRENCY,
        "deadlines(counter)[missing]",
        "deadlines(counter)[1]",
    ),
    ("concurrency: life in seconds", CONCURRENCY, "- now_us) / 1000)", "- now_us) / 1000000)"),
    ("concurrency: life rounded down", CONCURRENCY, "ceil((last_deadline", "floor((last_deadline"),
    ("concurrency: no life", CONCURRENCY, 'call("PEXPIRE", key,', 'format("%s", key,'),
    (
        "concurrency: freed places stay in the set",
        CONCURRENCY,
        'call_in_pieces(call, "ZREM", key, removed)\n',
        "\n",
    ),
    (
        "concurrency: a spoiled set is added to",
        CONCURRENCY,
        "if set.is_spoiled or set.count == 0 then",
        "if set.count == 0 then",
    ),
    (
        "concurrency: deadlines are remembered too long",
        CONCURRENCY,
        "if set.last_at ~= counter.a then",
        "if not set.last_at then",
    ),
    ("births: one more", BIRTHS, "count.a >= check.births", "count.a > check.births"),
    ("births: a refusal is one", BIRTHS, "          count.a = count.a - 1\n", ""),
    ("births: none is counted", BIRTHS, "          count.is_dirty = true\n", ""),
    ("births: overflow is not told", BATCH, "check.is_overflowed and 1 or 0", "0"),
    (
        "births: every key is new",
        BIRTHS,
        "counter.is_dirty or counter.is_born or counters.states[index]",
        "false",
    ),
    (
        "a stale request takes keys of the next",
        BATCH,
        "  counters.next_key = counters.next_key + request.key_count\n",
        "",
    ),
    (
        "a stale request takes slots of the next",
        BATCH,
        "  counters.next_slot = counters.next_slot + request.slot_bytes\n",
        "",
    ),
    (
        "a refusal charges",
        BATCH,
        "    if check.counts_denied then",
        "    if true then",
    ),
    (
        "a refusal writes",
        BATCH,
        "(check.counts_denied or not is_refused)",
        "true",
    ),
    ("the rollback is forgotten", BATCH, "    roll_back(checks)\n", ""),
    (
        "the rollback stops at the last check",
        BATCH,
        "for i = #checks, 1, -1 do",
        "for i = 1, #checks do",
    ),
    (
        "denied hits are never counted",
        BATCH,
        "    if check.counts_denied then",
        "    if false then",
    ),
    (
        "denied hits are not written",
        BATCH,
        "(check.counts_denied or not is_refused)",
        "not is_refused",
    ),
    ("a question writes", SHAPE, "spends = cost ~= 0 and", "spends = true and"),
    (
        "unreadable state stays",
        BATCH,
        "is_dirty = is_pulled or not is_readable",
        "is_dirty = is_pulled",
    ),
    (
        "a refusal takes back refunds",
        SHAPE,
        "counts_denied = cost < 0 or (flags",
        "counts_denied = (flags",
    ),
    (
        "a refund to nobody leaves a counter",
        BATCH,
        "counter.is_dirty or check.cost > 0 or counter.is_there",
        "true",
    ),
    ("births: a refund is one", BIRTHS, "check.cost > 0 and check.spends", "check.spends"),
    (
        "a state ahead of the clock stays ahead",
        BATCH,
        "is_dirty = is_pulled or not is_readable",
        "is_dirty = not is_readable",
    ),
    (
        "a denied request is admitted",
        BATCH,
        "local is_refused = request.is_denied\n    or (has_over",
        "local is_refused = (has_over",
    ),
    ("a shadow limit refuses", REFUSAL, "check.is_over and not check.is_shadow", "check.is_over"),
    (
        "one quota descriptor over refuses",
        REFUSAL,
        "quota_over > 0 and quota_passing == 0",
        "quota_over > 0",
    ),
    ("each quota limit is a descriptor", REFUSAL, "if not check.is_joined then", "if true then"),
    (
        "a descriptor with a quota that passes is not over",
        REFUSAL,
        "          quota_passing = quota_passing - 1\n",
        "",
    ),
    ("no time to live", KEYSPACE, ', "PX", ttl_ms', ""),
    ("a peek sees the peeks before it", "lua/peek.lua", "  batch.forget(counters)\n", ""),
    ("the counter is written for each check", KEYSPACE, "if counter.is_dirty then", "if true then"),
)

_GIVE_BACK_MUTANTS = (
    (
        "give back: into another window",
        WINDOW,
        "if charged_at_us < window.start_us or charged_at_us >= window.end_us then",
        "if false then",
    ),
    (
        "give back: sliding, into another window",
        SLIDING,
        "if charged_at_us < window.start_us or",
        "if false and",
    ),
    (
        "give back: cells that time gave back",
        GCRA,
        "  left_us = left_us - max(0, at.now_us - charged_at_us)\n",
        "",
    ),
    ("give back: any place", CONCURRENCY, "set.members[id] == deadline_us and", ""),
    ("give back: nothing is written", "lua/give_back.lua", "counter.is_dirty = true", ""),
)


def _check_tests(file: str) -> tuple[str, ...]:
    kind = _KIND_OF.get(file)
    first = () if kind is None else (_ONE_ALGORITHM % kind,)
    return (*_EXAMPLES, *first, *_ALL_CHECKS)


LUA_MUTANTS = (
    *[Mutant(name, file, old, new, _check_tests(file)) for name, file, old, new in _CHECK_MUTANTS],
    *[Mutant(*fields, tests=_GIVE_BACK_TESTS) for fields in _GIVE_BACK_MUTANTS],
)

--[[ shape: the checks of a request as they come packed; lib/batch tells the layout.

  --- @include "lib/prelude"
  --- @include "lib/fixed_window"
  --- @include "lib/calendar"
  --- @include "lib/sliding_window"
  --- @include "lib/gcra"
  --- @include "lib/concurrency" ]]
local shape = {}

local HEAD_LENGTH, CHECK_LENGTH = 5, 58
local FIXED_WINDOW, CALENDAR, SLIDING_WINDOW, GCRA, CONCURRENCY = 0, 1, 2, 3, 4

-- The algorithms that were made, by their numbers.
local loaded = {}

-- Returns what all counters of a check have in common now; nil for a calendar without a period for now.
local function at_now(algorithm, now_us, windows, limit, window_us, a, b, c)
  if algorithm == FIXED_WINDOW then
    local window = windows[window_us]
    if not window then
      window = fixed_window.at(window_us, now_us)
      windows[window_us] = window
    end
    return window
  elseif algorithm == CALENDAR then
    return calendar.at(window_us, a, b, c, now_us)
  elseif algorithm == SLIDING_WINDOW then
    loaded[algorithm] = loaded[algorithm] or new_sliding_window()
    return loaded[algorithm].at(window_us, now_us)
  elseif algorithm == GCRA then
    loaded[algorithm] = loaded[algorithm] or new_gcra()
    return loaded[algorithm].at(limit, window_us, a, b, now_us)
  end
  assert(algorithm == CONCURRENCY, "an algorithm from 0 to 4")
  loaded[algorithm] = loaded[algorithm] or new_concurrency()
  return loaded[algorithm].at(window_us, now_us)
end

-- Returns the check that stands at `position`; windows: those known already, by their length.
function shape.check(packed, position, now_us, windows)
  local number, flags, limit, cost, window_us, a, b, c, births =
    unpack_bytes(">BBi8i8i8i8i8i8i8", packed, position)
  local at = at_now(number, now_us, windows, limit, window_us, a, b, c)
  local has_births = flags >= 32
  local algorithm = at and at.algorithm
  return {
    algorithm = algorithm,
    charge = algorithm and algorithm.charge,
    tell = algorithm and algorithm.tell,
    -- Of gcra: what one limit may hold is too far ahead for another that shares the counter.
    pull = algorithm and limit > 0 and algorithm.pull,
    at = at,
    limit = limit,
    cost = cost,
    is_shadow = flags % 2 == 1,
    is_quota = flags % 4 >= 2,
    -- Charged also where the request is refused: a refused call holds no place, and what is given
    -- back is given back whoever refuses.
    counts_denied = cost < 0 or (flags % 8 >= 4 and number ~= CONCURRENCY),
    is_joined = flags % 16 >= 8,
    has_slot = flags % 32 >= 16,
    births = has_births and births or nil,
    key_count = has_births and 3 or 1,
    -- Whether charging it changes its counter.
    spends = cost ~= 0 and not (number == GCRA and limit == 0),
    -- What it saw of the request at hand; the next request of this shape uses it again.
    counter = false,
    a_before = false,
    b_before = false,
    was_dirty = false,
    used_before = false,
    used_after = false,
    is_over = false,
    lost = false,
    -- With births: the count of them that was charged, and whether the overflow counter was.
    born = false,
    is_overflowed = false,
    slot = false,
  }
end

-- Returns one shape: its checks, and what they have in common.
function shape.parse(packed, now_us, windows)
  local count, passing_quota, is_denied = unpack_bytes(">HHB", packed)
  assert(#packed == HEAD_LENGTH + count * CHECK_LENGTH, "as many checks as it says")
  local checks = {}
  local parsed = {
    passing_quota = passing_quota,
    is_denied = is_denied == 1,
    checks = checks,
    key_count = 0,
    slot_bytes = 0,
    is_stale = false,
    has_births = false,
    has_sets = false,
  }
  for i = 1, count do
    local check = shape.check(packed, HEAD_LENGTH + 1 + (i - 1) * CHECK_LENGTH, now_us, windows)
    checks[i] = check
    parsed.key_count = parsed.key_count + check.key_count
    parsed.slot_bytes = parsed.slot_bytes + (check.has_slot and SLOT_LENGTH or 0)
    parsed.is_stale = parsed.is_stale or not check.at
    parsed.has_births = parsed.has_births or check.births ~= nil
    parsed.has_sets = parsed.has_sets or (check.at and check.algorithm.is_set or false)
  end
  return parsed
end

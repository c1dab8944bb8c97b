--[[ gcra: at most burst + rate * t in any span t, exactly; refused until exactly retry_after.

  A cell costs window / limit microseconds of the time at which all would be forgotten (TAT); a cost
  conforms if TAT is then at most `burst` cells ahead of now. Where refused costs count, or a shadow
  limit lets them pass, TAT goes at most burst + max_debt cells ahead; what is beyond is lost.
  State: "us:rem", TAT in whole microseconds and a remainder in 1/limit us. A remainder that another
  limit left is rounded up where it is too large; a TAT too far ahead (the clock stepped back, or the
  limit changed) is pulled to the most that may be, and written so. In a counter, `a` is us and `b` rem.
  Within: the policy bounds limit and burst to 2^26 and burst + max_debt cells to 2^52 us. All is
  worked out as time ahead of now, so that no sum exceeds 2^53.

  --- @include "lib/prelude" ]]
-- Made when first needed: making its functions takes longer than deciding a check.
local function new_gcra()
  local gcra = {}

  -- A product of a count of cells and a remainder may exceed 2^53: it is made in two pieces.
  local PIECE = 16384
  -- Below this a product is exact, and so are its quotient and its remainder.
  local EXACT = 4503599627370496

  -- How long `cells` take: us, rem.
  local function span(cells, at)
    if cells == 1 then
      return at.cell_us, at.cell_rem
    end
    local limit, cell_rem = at.limit, at.cell_rem
    local low = cells % PIECE
    local high = (cells - low) / PIECE * cell_rem
    local high_us = floor(high / limit)
    local rest = (high - high_us * limit) * PIECE + low * cell_rem
    local rest_us = floor(rest / limit)
    return cells * at.cell_us + high_us * PIECE + rest_us, rest - rest_us * limit
  end

  local function is_beyond(us, rem, than_us, than_rem)
    return us > than_us or (us == than_us and rem > than_rem)
  end

  -- What a limit has in common for all its counters.
  function gcra.at(limit, window_us, burst, max_debt, now_us)
    local at = {
      algorithm = gcra,
      now_us = now_us,
      limit = limit,
      window_us = window_us,
      burst = burst,
      most = burst + max_debt,
    }
    if limit > 0 then
      at.cell_us = floor(window_us / limit)
      at.cell_rem = window_us % limit
      at.burst_us, at.burst_rem = span(burst, at)
      at.most_us, at.most_rem = span(at.most, at)
    end
    return at
  end

  -- Returns us, is_readable, rem; an absent state is long forgotten.
  function gcra.load(state)
    if not state then
      return 0, true, 0
    end
    local us_text, rem_text = match(state, "^(%d+):(%d+)$")
    if not us_text or #us_text > 16 or #rem_text > 16 then
      return 0, false, 0
    end
    local us, rem = tonumber(us_text), tonumber(rem_text)
    if us > MAX_INTEGER or rem > MAX_INTEGER then
      return 0, false, 0
    end
    return us, true, rem
  end

  -- How far TAT is ahead of now, by this limit: us, rem.
  local function ahead(counter, at)
    local us, rem = counter.a - at.now_us, counter.b
    if rem >= at.limit then
      us, rem = us + 1, 0
    end
    if us < 0 then
      return 0, 0
    end
    local most_us = at.most_us
    if us > most_us or (us == most_us and rem > at.most_rem) then
      return most_us, at.most_rem
    end
    return us, rem
  end

  -- Pulls TAT to the most that may be by this limit, and has it written. Not where the limit is 0.
  function gcra.pull(counter, at)
    -- Most are not even near.
    if counter.a + 1 < at.now_us + at.most_us then
      return
    end
    local us, rem = ahead(counter, at)
    local is_pulled = counter.a > at.now_us + us or (counter.a == at.now_us + us and counter.b > rem)
    if is_pulled then
      counter.a, counter.b = at.now_us + us, rem
      counter.is_dirty = true
    end
  end

  -- How many cells a time ahead takes, rounded up: where floats may round, a guess, then exactly.
  local function cells_in(us, rem, at)
    local window_us = at.window_us
    local parts = us * at.limit + rem
    if parts < EXACT then
      local left = parts % window_us
      return left > 0 and (parts - left) / window_us + 1 or parts / window_us
    end
    local cells = ceil(parts / window_us)
    while is_beyond(us, rem, span(cells, at)) do
      cells = cells + 1
    end
    while cells > 0 and not is_beyond(us, rem, span(cells - 1, at)) do
      cells = cells - 1
    end
    return cells
  end

  local function set_ahead(counter, at, us, rem)
    counter.a, counter.b = at.now_us + us, rem
  end

  local function refund(counter, at, us, rem, cost)
    local less_us, less_rem = span(min(cost, at.most), at)
    us, rem = us - less_us, rem - less_rem
    if rem < 0 then
      us, rem = us - 1, rem + at.limit
    end
    if us < 0 then
      us, rem = 0, 0
    end
    set_ahead(counter, at, us, rem)
  end

  local function add(us, rem, cells, at)
    if cells == 1 then
      us, rem = us + at.cell_us, rem + at.cell_rem
    else
      local more_us, more_rem = span(cells, at)
      us, rem = us + more_us, rem + more_rem
    end
    if rem >= at.limit then
      us, rem = us + 1, rem - at.limit
    end
    return us, rem
  end

  -- A limit of 0 refuses every cost, and holds nothing; a question is over while old state is ahead.
  local function charge_nothing(counter, at, cost)
    local is_ahead = is_beyond(counter.a, counter.b, at.now_us, 0)
    return 0, 0, cost > 0 or (cost == 0 and is_ahead)
  end

  -- Adds `cost` cells; below 0 it is a refund, floored at now. Returns cells before and after, is_over,
  -- and how many cells are beyond the debt that is recorded, or nil.
  function gcra.charge(counter, check)
    local at, cost = check.at, check.cost
    if at.limit == 0 then
      return charge_nothing(counter, at, cost)
    end
    local us, rem = ahead(counter, at)
    local before = cells_in(us, rem, at)
    if cost == 0 then
      return before, before, is_beyond(us, rem, at.burst_us, at.burst_rem)
    end
    if cost < 0 then
      refund(counter, at, us, rem, -cost)
      return before, max(0, before + cost), false
    end
    local most = at.most
    local taken = cost < most and cost or most
    us, rem = add(us, rem, taken, at)
    -- Most are: a cost above the burst is never so near.
    if us < at.burst_us then
      set_ahead(counter, at, us, rem)
      return before, before + cost, false
    end
    local is_over = cost > at.burst or is_beyond(us, rem, at.burst_us, at.burst_rem)
    local lost
    if cost > taken or is_beyond(us, rem, at.most_us, at.most_rem) then
      us, rem = at.most_us, at.most_rem
      -- In this order no sum exceeds 2^53.
      lost = cost - most + before
    end
    set_ahead(counter, at, us, rem)
    return before, before + taken, is_over, lost
  end

  -- Returns cells used, reset_us and retry_after_us: 0 where not over, -1 where `need` never fits. Reset
  -- is the time to a full bucket, or the wait of who is over.
  function gcra.tell(counter, check, is_over, need)
    local at = check.at
    if at.limit == 0 then
      return 0, 0, is_over and -1 or 0
    end
    local us, rem = ahead(counter, at)
    local used = cells_in(us, rem, at)
    local full_us = rem > 0 and us + 1 or us
    if not is_over then
      return used, full_us, 0
    end
    if need > at.burst then
      return used, full_us, -1
    end
    us, rem = add(us, rem, need, at)
    local retry_us = us - at.burst_us
    if rem > at.burst_rem then
      retry_us = retry_us + 1
    end
    retry_us = max(0, retry_us)
    return used, retry_us, retry_us
  end

  -- Takes back what is left of `amount` cells since they were charged; says whether any was.
  function gcra.give_back(counter, check, amount, charged_at_us)
    local at = check.at
    if at.limit == 0 then
      return false
    end
    local us, rem = ahead(counter, at)
    if amount < 0 then
      us, rem = add(us, rem, min(-amount, at.most), at)
      if is_beyond(us, rem, at.most_us, at.most_rem) then
        us, rem = at.most_us, at.most_rem
      end
      set_ahead(counter, at, us, rem)
      return true
    end
    local left_us, left_rem = span(min(amount, at.most), at)
    left_us = left_us - max(0, at.now_us - charged_at_us)
    if left_us < 0 then
      return false
    end
    us, rem = us - left_us, rem - left_rem
    if rem < 0 then
      us, rem = us - 1, rem + at.limit
    end
    if us < 0 then
      us, rem = 0, 0
    end
    set_ahead(counter, at, us, rem)
    return true
  end

  -- Returns state, ttl_ms.
  function gcra.dump(counter, now_us)
    local us, rem = counter.a, counter.b
    local ahead_us = us - now_us + (rem > 0 and 1 or 0)
    return format("%.0f:%.0f", us, rem), format("%.0f", max(1, ceil(ahead_us / 1000)))
  end

  return gcra
end

--[[ sliding_window: this window's count and the part of the last one that still overlaps.

  Estimate: current + previous * overlap, the overlap in parts of 2^-20, every rounding upward. It
  never exceeds the limit; the last window counts as if it had been spent evenly.
  State: "start:current:previous", the window's start in us. One window later current becomes
  previous; a state from a later window (the clock stepped back) is pulled to now, its counts kept.
  In a counter, `a` is current and `b` previous. Limits are below 2^32, windows at most 2^45 us.

  --- @include "lib/prelude" ]]
-- Made when first needed: making its functions takes longer than deciding a check.
local function new_sliding_window()
  local sliding_window = {}

  -- Counts saturate beyond every limit, so that a count times a weight stays below 2^53.
  local MOST_COUNTED = 4294967296
  local PARTS = 1048576

  -- rest / window in PARTS, rounded up: a long division, because rest * PARTS may exceed 2^53.
  local function weight_of(rest_us, window_us)
    local weight, left = 0, rest_us
    for _, piece in ipairs({256, 256, 16}) do
      left = left * piece
      weight = weight * piece + floor(left / window_us)
      left = left % window_us
    end
    return left > 0 and weight + 1 or weight
  end

  -- The longest rest of a window whose weight is at most `weight`.
  local function rest_of(weight, window_us)
    local low = window_us % PARTS
    return weight * ((window_us - low) / PARTS) + floor(weight * low / PARTS)
  end

  function sliding_window.at(window_us, now_us)
    local start_us = now_us - now_us % window_us
    local reset_us = start_us + window_us - now_us
    return {
      algorithm = sliding_window,
      window_us = window_us,
      start_us = start_us,
      reset_us = reset_us,
      weight = weight_of(reset_us, window_us),
      ttl_ms = format("%.0f", ceil((reset_us + window_us) / 1000)),
    }
  end

  -- Returns current, is_readable, previous, and whether the state was pulled to now.
  function sliding_window.load(state, window)
    if not state then
      return 0, true, 0
    end
    local start_text, current_text, previous_text = match(state, "^(%d+):(%d+):(%d+)$")
    if not start_text or #start_text > 16 or #current_text > 10 or #previous_text > 10 then
      return 0, false, 0
    end
    local start_us = tonumber(start_text)
    local current, previous = tonumber(current_text), tonumber(previous_text)
    if start_us > MAX_INTEGER or current > MOST_COUNTED or previous > MOST_COUNTED then
      return 0, false, 0
    end
    if start_us >= window.start_us then
      return current, true, previous, start_us > window.start_us
    end
    if start_us >= window.start_us - window.window_us then
      return 0, true, current
    end
    return 0, true, 0
  end

  local function share(count, weight)
    return ceil(count * weight / PARTS)
  end

  -- Adds `cost` to the current window; below 0 it is a refund, floored at zero. Returns the estimate
  -- before and after, is_over.
  function sliding_window.charge(counter, check)
    local cost, current = check.cost, counter.a
    local overlap = share(counter.b, check.at.weight)
    local after = current + cost
    if after > MOST_COUNTED then
      after = MOST_COUNTED
    elseif after < 0 then
      after = 0
    end
    counter.a = after
    return current + overlap, after + overlap, cost >= 0 and after + overlap > check.limit
  end

  -- Time from the start of a window until `count` of the window before leaves room for `need`.
  local function fits_after_us(count, room, window_us)
    if count <= room then
      return 0
    end
    return window_us - rest_of(floor(room * PARTS / count), window_us)
  end

  local function wait_for_room_us(counter, check, need)
    local window = check.at
    local room = check.limit - need
    if room < 0 then
      return -1
    end
    if room >= counter.a then
      local wait_us = fits_after_us(counter.b, room - counter.a, window.window_us)
      if wait_us < window.window_us then
        return max(0, wait_us + window.reset_us - window.window_us)
      end
    end
    return window.reset_us + fits_after_us(counter.a, room, window.window_us)
  end

  -- Returns the estimate, reset_us and retry_after_us: the first moment at which `need` is admitted if
  -- nothing else comes; 0 where not over, -1 for never.
  function sliding_window.tell(counter, check, is_over, need)
    local window = check.at
    local estimate = counter.a + share(counter.b, window.weight)
    return estimate, window.reset_us, is_over and wait_for_room_us(counter, check, need) or 0
  end

  -- Takes back `amount` if it was charged in this window; says whether it did.
  function sliding_window.give_back(counter, check, amount, charged_at_us)
    local window = check.at
    if charged_at_us < window.start_us or charged_at_us >= window.start_us + window.window_us then
      return false
    end
    counter.a = max(0, min(counter.a - amount, MOST_COUNTED))
    return true
  end

  -- Returns state, ttl_ms: it counts until the end of the next window.
  function sliding_window.dump(counter)
    local window = counter.at
    return format("%.0f:%.0f:%.0f", window.start_us, counter.a, counter.b), window.ttl_ms
  end

  return sliding_window
end

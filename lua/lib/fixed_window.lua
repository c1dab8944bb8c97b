--[[ fixed_window: at most `limit` per window, windows aligned to the Unix epoch.

  A fixed window admits up to 2x the limit in a window-long span across a border.
  State: "start:used", the window's start in us and what was charged in it. A state from an older
  window is empty; one from a later window (the clock stepped back) is pulled to now, its count kept. ]]
local fixed_window = {}

-- Integers up to 2^53 - 1 are exact in a double; counts saturate there.
local MAX_COUNT = 9007199254740991

-- A global costs a look-up each time, and these run for each check.
local format, match, sub = string.format, string.match, string.sub

-- The window that holds now_us: what every counter of it has in common is worked out once.
function fixed_window.at(window_us, now_us)
  local start_us = now_us - now_us % window_us
  local reset_us = start_us + window_us - now_us
  local prefix = format("%.0f:", start_us)
  return {
    start_us = start_us,
    reset_us = reset_us,
    ttl_ms = format("%.0f", math.ceil(reset_us / 1000)),
    prefix = prefix,
    used_at = #prefix + 1,
  }
end

-- Returns used, is_readable.
function fixed_window.load(state, window)
  if not state then
    return 0, true
  end
  local is_current = sub(state, 1, window.used_at - 1) == window.prefix
  local used_text = is_current and match(state, "^%d+$", window.used_at)
  local start_us = window.start_us
  if not used_text then
    local start_text
    start_text, used_text = match(state, "^(%d+):(%d+)$")
    if not start_text or #start_text > 16 then
      return 0, false
    end
    start_us = tonumber(start_text)
  end
  local used = tonumber(used_text)
  if #used_text > 16 or used > MAX_COUNT or start_us > MAX_COUNT then
    return 0, false
  end
  if start_us < window.start_us then
    return 0, true
  end
  return used, true
end

-- Returns the count after `cost`; below 0 it is a refund, floored at zero.
function fixed_window.charge(used, cost)
  local sum = used + cost
  if sum > MAX_COUNT then
    return MAX_COUNT
  end
  return sum > 0 and sum or 0
end

-- A refund is never over; a cost of 0 asks whether the counter stands beyond the limit.
function fixed_window.is_over(used_after, limit, cost)
  return cost >= 0 and used_after > limit
end

-- Time until the same cost may be admitted: 0 where it is, -1 where it never fits.
function fixed_window.retry_after_us(is_over, limit, cost, window)
  if not is_over then
    return 0
  end
  if cost > limit then
    return -1
  end
  return window.reset_us
end

function fixed_window.dump(used, window)
  return window.prefix .. format("%.0f", used)
end

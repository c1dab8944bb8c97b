--[[ fixed_window: at most `limit` per window, windows aligned to the Unix epoch.

  A fixed window admits up to 2x the limit in a window-long span across a border.
  State: "start:used", the window's start in us and what was charged in it. A state from an older
  window is empty; one from a later window (the clock stepped back) is pulled to now, its count kept. ]]
local fixed_window = {}

-- Integers up to 2^53 - 1 are exact in a double; counts saturate there.
local MAX_COUNT = 9007199254740991

-- Returns used, is_readable.
function fixed_window.load(state, window_us, now_us)
  if not state then
    return 0, true
  end
  local start_text, used_text = string.match(state, "^(%d+):(%d+)$")
  if not start_text or #start_text > 16 or #used_text > 16 then
    return 0, false
  end
  local start_us, used = tonumber(start_text), tonumber(used_text)
  if start_us > MAX_COUNT or used > MAX_COUNT then
    return 0, false
  end
  if start_us < now_us - now_us % window_us then
    return 0, true
  end
  return used, true
end

-- Returns the count after `cost`; below 0 it is a refund, floored at zero.
function fixed_window.charge(used, cost)
  return math.max(0, math.min(used + cost, MAX_COUNT))
end

-- A refund is never over; a cost of 0 asks whether the counter stands beyond the limit.
function fixed_window.is_over(used_after, limit, cost)
  return cost >= 0 and used_after > limit
end

function fixed_window.reset_us(window_us, now_us)
  return window_us - now_us % window_us
end

-- Time until the same cost may be admitted: 0 where it is, -1 where it never fits.
function fixed_window.retry_after_us(is_over, limit, cost, reset_us)
  if not is_over then
    return 0
  end
  if cost > limit then
    return -1
  end
  return reset_us
end

function fixed_window.dump(used, window_us, now_us)
  return string.format("%.0f:%.0f", now_us - now_us % window_us, used)
end

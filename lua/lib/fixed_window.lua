--[[ fixed_window: at most `limit` per window, windows aligned to the Unix epoch or to a calendar.

  A fixed window admits up to 2x the limit in a window-long span across a border.
  State: "start:used", the window's start in us and what was charged in it. A state from an older
  window is empty; one from a later window (the clock stepped back) is pulled to now, its count kept,
  and written so, or it would be ahead for as long as the clock is behind.
  In a counter, `a` is what was used.

  --- @include "lib/prelude" ]]
local fixed_window = {}

-- A window that holds now_us: what every counter of it has in common is worked out once.
function fixed_window.between(start_us, end_us, now_us)
  local reset_us = end_us - now_us
  local prefix = format("%.0f:", start_us)
  return {
    algorithm = fixed_window,
    start_us = start_us,
    end_us = end_us,
    reset_us = reset_us,
    ttl_ms = format("%.0f", ceil(reset_us / 1000)),
    prefix = prefix,
    used_at = #prefix + 1,
  }
end

function fixed_window.at(window_us, now_us)
  local start_us = now_us - now_us % window_us
  return fixed_window.between(start_us, start_us + window_us, now_us)
end

-- Returns used, is_readable, nil, and whether the state was pulled to now.
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
  if #used_text > 16 or used > MAX_INTEGER or start_us > MAX_INTEGER then
    return 0, false
  end
  if start_us < window.start_us then
    return 0, true
  end
  return used, true, nil, start_us > window.start_us
end

-- Adds `cost` to the counter, up to 2^53 - 1; below 0 it is a refund, floored at zero. Returns used
-- before and after, is_over: a refund never is; a cost of 0 asks whether the counter stands beyond
-- the limit.
function fixed_window.charge(counter, check)
  local before, cost = counter.a, check.cost
  local after = before + cost
  if after > MAX_INTEGER then
    after = MAX_INTEGER
  elseif after < 0 then
    after = 0
  end
  counter.a = after
  return before, after, cost >= 0 and after > check.limit
end

-- Returns used, reset_us and retry_after_us: 0 where not over, -1 where `need` never fits.
function fixed_window.tell(counter, check, is_over, need)
  local reset_us = check.at.reset_us
  if not is_over then
    return counter.a, reset_us, 0
  end
  return counter.a, reset_us, need > check.limit and -1 or reset_us
end

-- Takes back `amount` if it was charged in this window; says whether it did.
function fixed_window.give_back(counter, check, amount, charged_at_us)
  local window = check.at
  if charged_at_us < window.start_us or charged_at_us >= window.end_us then
    return false
  end
  counter.a = max(0, min(counter.a - amount, MAX_INTEGER))
  return true
end

-- Returns state, ttl_ms.
function fixed_window.dump(counter)
  local window = counter.at
  return window.prefix .. format("%.0f", counter.a), window.ttl_ms
end

--[[ calendar: a fixed window between borders that the caller knows; Lua has no time zones.

  --- @include "lib/fixed_window" ]]
local calendar = {}

-- Returns the period that holds now_us, of three that follow each other; nil if none does.
function calendar.at(previous_us, current_us, next_us, end_us, now_us)
  if now_us < previous_us or now_us >= end_us then
    return nil
  end
  if now_us < current_us then
    return fixed_window.between(previous_us, current_us, now_us)
  end
  if now_us < next_us then
    return fixed_window.between(current_us, next_us, now_us)
  end
  return fixed_window.between(next_us, end_us, now_us)
end

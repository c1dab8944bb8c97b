--[[ clock: microseconds since the Unix epoch, given by the caller or read from the store's TIME. ]]
local clock = {}

-- argument: "" in production; a number in tests, so that none of them waits.
function clock.now_us(argument, time)
  if argument ~= "" then
    return tonumber(argument)
  end
  local seconds_and_us = time()
  return tonumber(seconds_and_us[1]) * 1000000 + tonumber(seconds_and_us[2])
end

--[[ give_back: return what one part of a request was charged after another part refused it.

  Only in a Cluster, where a request's counters may lie on several nodes. A charge is given back
  into the window it was made in, and not at all once that window has passed. It is sent once: a
  give-back that is lost leaves the charge, so it never admits more than the limit.

  KEYS[n]  counters, distinct
  ARGV[1]  now_us or ""           ARGV[2]  count, then for each: key index, window_us, amount, charged_at_us
  Returns  how many charges were given back

  --- @include "lib/clock"
  --- @include "lib/fixed_window" ]]
local function time()
  return redis.call("TIME")
end

local now_us = clock.now_us(ARGV[1], time)
local states = redis.call("MGET", unpack(KEYS))
local counters = {}
local given_back = 0

for i = 0, tonumber(ARGV[2]) - 1 do
  local key = tonumber(ARGV[3 + 4 * i])
  local window_us = tonumber(ARGV[4 + 4 * i])
  local amount = tonumber(ARGV[5 + 4 * i])
  local charged_at_us = tonumber(ARGV[6 + 4 * i])
  local window = fixed_window.at(window_us, now_us)
  local is_same_window = charged_at_us - charged_at_us % window_us == window.start_us
  if states[key] and is_same_window then
    local counter = counters[key]
    if not counter then
      counter = {used = fixed_window.load(states[key], window), window = window}
      counters[key] = counter
    end
    counter.used = fixed_window.charge(counter.used, -amount)
    given_back = given_back + 1
  end
end

for index, counter in pairs(counters) do
  local state = fixed_window.dump(counter.used, counter.window)
  redis.call("SET", KEYS[index], state, "PX", counter.window.ttl_ms)
end
return given_back

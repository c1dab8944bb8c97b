--[[ check: decide and charge a list of requests, in order, atomically.

  KEYS[n]  counters, distinct     ARGV  see lib/batch
  Returns  see lib/batch

  --- @include "lib/clock"
  --- @include "lib/batch" ]]
local function time()
  return redis.call("TIME")
end

-- 1. Read every counter once; a value of another type reads as absent.
local now_us = clock.now_us(ARGV[1], time)
local requests = batch.parse(ARGV)
local counters, unreadable = batch.load(requests, redis.call("MGET", unpack(KEYS)), now_us)

-- 2. Decide in the order given, on the table alone: an error up to here spends nothing.
local reply = {now_us, unreadable}
for _, request in ipairs(requests) do
  batch.decide(request, counters, now_us, reply)
end

-- 3. Write each charged counter once, with the time to live of its window.
for index, counter in pairs(counters) do
  if counter.is_dirty then
    local ttl_ms = math.ceil(fixed_window.reset_us(counter.window_us, now_us) / 1000)
    local state = fixed_window.dump(counter.used, counter.window_us, now_us)
    redis.call("SET", KEYS[index], state, "PX", string.format("%.0f", ttl_ms))
  end
end
return reply

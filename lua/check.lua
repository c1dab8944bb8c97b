--[[ check: decide and charge a list of requests, in order, atomically.

  KEYS[n], ARGV, Returns  see lib/batch

  --- @include "lib/clock"
  --- @include "lib/batch" ]]
local function time()
  return redis.call("TIME")
end

-- 1. Read every counter once; a value of another type reads as absent.
local now_us = clock.now_us(ARGV[1], time)
local requests = batch.parse(ARGV, #KEYS)
local counters = batch.counters(KEYS, redis.call("MGET", unpack(KEYS)), now_us)

-- 2. Decide in the order given, on the table alone: an error up to here spends nothing.
local reply = batch.reply()
local first = 1
for _, request in ipairs(requests) do
  batch.decide(request, counters, first, reply)
  first = first + #request.checks
end

-- 3. Write each charged counter once, with the time to live of its window.
for _, counter in ipairs(counters.ordered) do
  if counter.is_dirty then
    local state = fixed_window.dump(counter.used, counter.window)
    redis.call("SET", counter.key, state, "PX", counter.window.ttl_ms)
  end
end
return batch.answer(counters, reply)

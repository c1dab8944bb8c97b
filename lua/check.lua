--[[ check: decide and charge a list of requests, in order, atomically.

  KEYS[n], ARGV, Returns  see lib/batch

  --- @include "lib/clock"
  --- @include "lib/batch"
  --- @include "lib/keyspace" ]]
local function time()
  return redis.call("TIME")
end

-- 1. Read every counter once; a value of another type reads as absent, or as unreadable for a set.
local now_us = clock.now_us(ARGV[1], time)
local requests, sets = batch.parse(ARGV, #KEYS, now_us)
local states = redis.call("MGET", unpack(KEYS))
if #sets > 0 then
  keyspace.read_sets(KEYS, states, sets, redis.pcall)
end
local counters = batch.counters(KEYS, states, ARGV[3], now_us)

-- 2. Decide in the order given, on the table alone: an error up to here spends nothing.
local reply = batch.reply()
for _, request in ipairs(requests) do
  batch.decide(request, counters, reply)
end

-- 3. Write each charged counter once, with its time to live.
keyspace.write(redis.call, counters.ordered, now_us)
return batch.answer(counters, reply)

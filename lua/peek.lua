--[[ peek: decide each of a list of requests as if it came alone now; nothing is written.

  KEYS[n], ARGV, Returns  see lib/batch

  --- @include "lib/clock"
  --- @include "lib/batch"
  --- @include "lib/keyspace" ]]
local function time()
  return redis.call("TIME")
end

local now_us = clock.now_us(ARGV[1], time)
local requests, sets = batch.parse(ARGV, #KEYS, now_us)
local states = redis.call("MGET", unpack(KEYS))
if #sets > 0 then
  keyspace.read_sets(KEYS, states, sets, redis.pcall)
end
local counters = batch.counters(KEYS, states, ARGV[3], now_us)

local reply = batch.reply()
for _, request in ipairs(requests) do
  batch.decide(request, counters, reply)
  batch.forget(counters)
end
return batch.answer(counters, reply)

--[[ peek: decide each of a list of requests as if it came alone now; nothing is written.

  KEYS[n], ARGV, Returns  see lib/batch

  --- @include "lib/clock"
  --- @include "lib/batch" ]]
local function time()
  return redis.call("TIME")
end

local now_us = clock.now_us(ARGV[1], time)
local requests = batch.parse(ARGV, #KEYS)
local counters = batch.counters(KEYS, redis.call("MGET", unpack(KEYS)), now_us)

local reply = batch.reply()
local first = 1
for _, request in ipairs(requests) do
  batch.forget(counters)
  batch.decide(request, counters, first, reply)
  first = first + #request.checks
end
return batch.answer(counters, reply)

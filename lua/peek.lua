--[[ peek: decide each of a list of requests as if it came alone now; nothing is written.

  KEYS[n]  counters, distinct     ARGV  see lib/batch
  Returns  see lib/batch

  --- @include "lib/clock"
  --- @include "lib/batch" ]]
local function time()
  return redis.call("TIME")
end

local now_us = clock.now_us(ARGV[1], time)
local requests = batch.parse(ARGV)
local states = redis.call("MGET", unpack(KEYS))
local _, unreadable = batch.load(requests, states, now_us)

local reply = {now_us, unreadable}
for _, request in ipairs(requests) do
  local counters = batch.load({request}, states, now_us)
  batch.decide(request, counters, now_us, reply)
end
return reply

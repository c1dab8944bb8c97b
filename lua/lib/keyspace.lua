--[[ keyspace: how counters are read from the store and written to it; `call` and `pcall` are redis's.

  --- @include "lib/prelude"
  --- @include "lib/concurrency" ]]
local keyspace = {}

-- Members of one ZADD or ZREM: unpack fails near 8,000 values.
local MOST_VALUES = 2000

-- Puts the sorted sets at `indexes` into states, each key read once; another type is an error there.
function keyspace.read_sets(keys, states, indexes, pcall)
  local by_key = {}
  for _, index in ipairs(indexes) do
    local key = keys[index]
    by_key[key] = by_key[key] or pcall("ZRANGE", key, 0, -1, "WITHSCORES")
    states[index] = by_key[key]
  end
end

local function call_in_pieces(call, verb, key, values)
  for first = 1, #values, MOST_VALUES do
    call(verb, key, unpack(values, first, min(first + MOST_VALUES - 1, #values)))
  end
end

local function write_set(call, counter, now_us)
  local added, removed, ttl_ms = concurrency.changes(counter, now_us)
  if counter.b.is_spoiled or not ttl_ms then
    call("DEL", counter.key)
  end
  if ttl_ms then
    call_in_pieces(call, "ZREM", counter.key, removed)
    call_in_pieces(call, "ZADD", counter.key, added)
    call("PEXPIRE", counter.key, ttl_ms)
  end
end

-- Writes each charged counter once, with its time to live.
function keyspace.write(call, ordered, now_us)
  for i = 1, #ordered do
    local counter = ordered[i]
    if counter.is_dirty then
      local algorithm = counter.at.algorithm
      if algorithm == concurrency then
        write_set(call, counter, now_us)
      else
        local state, ttl_ms = algorithm.dump(counter, now_us)
        call("SET", counter.key, state, "PX", ttl_ms)
      end
    end
  end
end

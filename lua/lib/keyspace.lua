--[[ keyspace: how counters are read from the store and written to it; `call` and `pcall` are redis's. ]]
local keyspace = {}

-- Puts the sorted sets at `indexes` into states, each key read once; another type is an error there.
function keyspace.read_sets(keys, states, indexes, pcall)
  local by_key = {}
  for _, index in ipairs(indexes) do
    local key = keys[index]
    by_key[key] = by_key[key] or pcall("ZRANGE", key, 0, -1, "WITHSCORES")
    states[index] = by_key[key]
  end
end

-- Writes each charged counter once, with its time to live.
function keyspace.write(call, ordered, now_us)
  for i = 1, #ordered do
    local counter = ordered[i]
    if counter.is_dirty then
      local algorithm = counter.at.algorithm
      if algorithm.is_set then
        algorithm.write(call, counter, now_us)
      else
        local state, ttl_ms = algorithm.dump(counter, now_us)
        call("SET", counter.key, state, "PX", ttl_ms)
      end
    end
  end
end

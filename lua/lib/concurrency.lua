--[[ concurrency: at most `limit` places held at once; a place frees itself at its deadline.

  With a slot, a cost above 0 takes one place under that id, and takes no second one; a cost below 0
  frees it, and does nothing if it is not held. Without, a cost takes that many places under ids made
  up here, and a refund frees those with the nearest deadlines, whoever holds them: so the bound is
  the limit, and releases of what was refused or is overdue. A refused request holds nothing.
  State: a sorted set, member 16 bytes, score the deadline in us. A deadline too far ahead (the clock
  stepped back) is pulled to now + slot_ttl, and written so.
  In a counter, `b` is its set, and `a` the length of the log by which charges are undone.

  --- @include "lib/prelude" ]]
-- Made when first needed: making its functions takes longer than deciding a check.
local function new_concurrency()
  local concurrency = {is_set = true}

  -- What one request may take without a slot; a higher cost never fits.
  local MAX_PLACES = 1000
  -- Of one ZADD or ZREM: unpack fails near 8,000.
  local MOST_VALUES = 2000

  function concurrency.at(slot_ttl_us, now_us)
    return {
      algorithm = concurrency,
      now_us = now_us,
      ttl_us = slot_ttl_us,
      deadline_us = now_us + slot_ttl_us,
    }
  end

  -- `fresh` counts the members with the last deadline that may be.
  local function new_set(at)
    return {
      at = at,
      members = {},
      stored = {},
      count = 0,
      fresh = 0,
      log_ids = {},
      log_olds = {},
      is_spoiled = false,
    }
  end

  local function spoiled_set(at)
    local set = new_set(at)
    set.is_spoiled = true
    return set
  end

  -- state: the reply of ZRANGE WITHSCORES, or its error. Returns 0, is_readable, the set, and whether
  -- a deadline was pulled.
  function concurrency.load(state, at)
    local set, is_pulled = new_set(at), false
    if not state then
      return 0, true, set
    end
    if state.err then
      return 0, false, spoiled_set(at)
    end
    for i = 1, #state, 2 do
      local id, deadline_us = state[i], tonumber(state[i + 1])
      if #id ~= SLOT_LENGTH or not deadline_us or deadline_us < 0 or deadline_us > MAX_INTEGER
        or deadline_us % 1 ~= 0 then
        return 0, false, spoiled_set(at)
      end
      set.stored[id] = deadline_us
      if deadline_us > at.now_us then
        set.members[id] = min(deadline_us, at.deadline_us)
        set.count = set.count + 1
        if deadline_us >= at.deadline_us then
          set.fresh = set.fresh + 1
          is_pulled = is_pulled or deadline_us > at.deadline_us
        end
      end
    end
    return 0, true, set, is_pulled
  end

  local function set_member(set, id, deadline_us)
    local old_us = set.members[id]
    if old_us then
      set.count = set.count - 1
      set.fresh = old_us == set.at.deadline_us and set.fresh - 1 or set.fresh
    end
    if deadline_us then
      set.count = set.count + 1
      set.fresh = deadline_us == set.at.deadline_us and set.fresh + 1 or set.fresh
    end
    set.members[id] = deadline_us
    return old_us or false
  end

  -- Gives a member its deadline, or takes it out with nil; the log remembers what was.
  local function put(counter, id, deadline_us)
    local set, at = counter.b, counter.a + 1
    set.log_ids[at] = id
    set.log_olds[at] = set_member(set, id, deadline_us)
    counter.a = at
  end

  -- Takes back what was put since the log was `length` long.
  function concurrency.undo(counter, length)
    local set = counter.b
    for at = counter.a, length + 1, -1 do
      set_member(set, set.log_ids[at], set.log_olds[at] or nil)
    end
    counter.a = length
  end

  -- Returns the ids in the order of their deadlines.
  local function in_order(members)
    local ids = {}
    for id in pairs(members) do
      ids[#ids + 1] = id
    end
    table.sort(ids, function(one, other)
      local one_us, other_us = members[one], members[other]
      return one_us < other_us or (one_us == other_us and one < other)
    end)
    return ids
  end

  local function nearest(members)
    local found
    for id, deadline_us in pairs(members) do
      local found_us = found and members[found]
      if not found or deadline_us < found_us or (deadline_us == found_us and id < found) then
        found = id
      end
    end
    return found
  end

  local function release(counter, slot, places)
    local members = counter.b.members
    if slot then
      if members[slot] then
        put(counter, slot, nil)
      end
    elseif places == 1 then
      local id = nearest(members)
      if id then
        put(counter, id, nil)
      end
    else
      local ids = in_order(members)
      for i = 1, min(places, #ids) do
        put(counter, ids[i], nil)
      end
    end
  end

  local function take(counter, places)
    local set = counter.b
    local serial = set.count
    for _ = 1, places do
      local id
      repeat
        id = pack_bytes(">i8i8", set.at.now_us, serial)
        serial = serial + 1
      until not set.members[id]
      put(counter, id, set.at.deadline_us)
    end
  end

  -- Returns places held before and after, is_over.
  function concurrency.charge(counter, check, slot)
    local set, cost, limit = counter.b, check.cost, check.limit
    local before = set.count
    if cost == 0 then
      return before, before, before > limit
    end
    if cost < 0 then
      release(counter, slot, -cost)
      return before, set.count, false
    end
    if slot then
      local is_held = set.members[slot]
      put(counter, slot, set.at.deadline_us)
      return before, set.count, not is_held and set.count > limit
    end
    take(counter, min(cost, min(limit, MAX_PLACES) + 1))
    return before, set.count, set.count > limit or cost > MAX_PLACES
  end

  -- The deadlines in order, worked out once for each length of the log that a request ended with.
  local function deadlines(counter)
    local set = counter.b
    if set.sorted_at ~= counter.a then
      local sorted = {}
      for _, deadline_us in pairs(set.members) do
        sorted[#sorted + 1] = deadline_us
      end
      table.sort(sorted)
      set.sorted, set.sorted_at = sorted, counter.a
    end
    return set.sorted
  end

  local function last_deadline(counter)
    local set = counter.b
    if set.fresh > 0 then
      return set.at.deadline_us
    end
    if set.last_at ~= counter.a then
      local last_us = 0
      for _, deadline_us in pairs(set.members) do
        last_us = max(last_us, deadline_us)
      end
      set.last_us, set.last_at = last_us, counter.a
    end
    return set.last_us
  end

  local function wait_for_places_us(counter, check, places)
    local set, limit = counter.b, check.limit
    if places > min(limit, MAX_PLACES) then
      return -1
    end
    local missing = set.count + places - limit
    if missing <= 0 then
      return 0
    end
    return deadlines(counter)[missing] - set.at.now_us
  end

  -- Returns places held, reset_us (the last deadline) and retry_after_us: until enough places free
  -- themselves; 0 where not over, -1 for never.
  function concurrency.tell(counter, check, is_over, need)
    local set = counter.b
    local places = check.has_slot and min(need, 1) or need
    return set.count,
      set.count > 0 and last_deadline(counter) - set.at.now_us or set.at.ttl_us,
      is_over and wait_for_places_us(counter, check, places) or 0
  end

  -- Frees the places that a charge added; says whether there were any.
  function concurrency.give_back(counter, _, amount, charged_at_us, slot)
    local set = counter.b
    local length = counter.a
    if slot and amount > 0 and set.members[slot] then
      put(counter, slot, nil)
    elseif not slot and amount > 0 then
      local deadline_us = min(charged_at_us + set.at.ttl_us, set.at.deadline_us)
      for _, id in ipairs(in_order(set.members)) do
        if set.members[id] == deadline_us and counter.a - length < amount then
          put(counter, id, nil)
        end
      end
    end
    return counter.a > length
  end

  local function call_in_pieces(call, verb, key, values)
    for first = 1, #values, MOST_VALUES do
      call(verb, key, unpack(values, first, min(first + MOST_VALUES - 1, #values)))
    end
  end

  -- Writes what changed, and the life of the last deadline; nothing held is no key.
  function concurrency.write(call, counter, now_us)
    local set, key = counter.b, counter.key
    if set.is_spoiled or set.count == 0 then
      call("DEL", key)
    end
    if set.count == 0 then
      return
    end
    local added, removed = {}, {}
    for id, deadline_us in pairs(set.members) do
      if set.stored[id] ~= deadline_us then
        added[#added + 1] = format("%.0f", deadline_us)
        added[#added + 1] = id
      end
    end
    for id in pairs(set.stored) do
      if not set.members[id] then
        removed[#removed + 1] = id
      end
    end
    call_in_pieces(call, "ZREM", key, removed)
    call_in_pieces(call, "ZADD", key, added)
    call("PEXPIRE", key, format("%.0f", ceil((last_deadline(counter) - now_us) / 1000)))
  end

  return concurrency
end

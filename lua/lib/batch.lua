--[[ batch: a list of requests as one serial history over counters held in a table.

  --- @include "lib/prelude"
  --- @include "lib/shape"
  --- @include "lib/refusal"
  --- @include "lib/births"

  KEYS: the counter of each check, in the order of the requests and their checks; a key may repeat. A
  check with births has three in a row: its own, the count of births, the overflow counter.
  Arguments, packed as the struct library does, big-endian; requests that differ in their keys and
  slots alone have one shape, which is sent and read once:
    now_us in decimal, or "" (the store's clock)
    for each request: H number of its shape, from 0
    the slots, 16 bytes each, of all checks that have one, in their order
    each shape, an argument of its own:
      H check count, H passing_quota, B is_denied (1: refused whatever its limits say), then for each check:
        B algorithm, B flags, i8 limit, i8 cost (below 0: refund), i8 window_us, i8 a, i8 b, i8 c,
        i8 births in a second
      flags: 1 shadow, 2 quota, 4 counts_denied, 8 joined (same descriptor as the check before),
        16 has a slot, 32 has births
      algorithms: 0 fixed_window
        1 calendar        window_us, a, b, c: where the previous, current, next period and the one after begin
        2 sliding_window
        3 gcra            a: burst; b: max_debt
        4 concurrency     window_us: slot_ttl_us
  Replies, five values:
    now_us, unreadable counters,
    for each request: B 0 admitted, 1 refused, 2 stale: no period of a calendar holds now, nothing decided
    for each check: B is_over, i8 used_before, used_after, used_final, reset_us, retry_after_us,
      B is_overflowed; zeros in a stale request
    cells that gcra charged beyond its debt, which no counter holds ]]
local batch = {}


local ADMITTED, REFUSED, STALE = "\0", "\1", "\2"
local RESULT = ">Bi8i8i8i8i8B"

-- Returns the shape of each request, and the indexes of the keys that are sorted sets; raises unless
-- they name exactly the keys and slots that came.
function batch.parse(arguments, key_count, now_us)
  local shapes, windows = {}, {}
  for i = 4, #arguments do
    shapes[i - 4] = shape.parse(arguments[i], now_us, windows)
  end
  local requests, sets = {}, {}
  local keys, slot_bytes = 0, 0
  local order = arguments[2]
  for at = 1, #order, 2 do
    local request = shapes[unpack_bytes(">H", order, at)]
    requests[#requests + 1] = request
    if request.has_sets and not request.is_stale then
      local key = keys + 1
      for _, check in ipairs(request.checks) do
        if check.algorithm.is_set then
          sets[#sets + 1] = key
          sets[#sets + 1] = check.births and key + 2 or nil
        end
        key = key + check.key_count
      end
    end
    keys = keys + request.key_count
    slot_bytes = slot_bytes + request.slot_bytes
  end
  assert(keys == key_count, "a key for each check")
  assert(slot_bytes == #arguments[3], "a slot for each check that has one")
  return requests, sets
end

-- Returns the counters of a batch: read once, when a check first needs them, and `ordered` as they were.
function batch.counters(keys, states, slots, now_us)
  return {
    keys = keys,
    states = states,
    slots = slots,
    now_us = now_us,
    by_key = {},
    ordered = {},
    unreadable = {},
    lost = 0,
    next_key = 1,
    next_slot = 1,
  }
end

-- Forgets what was decided, as if nothing had been asked yet.
function batch.forget(counters)
  counters.by_key = {}
  counters.ordered = {}
  counters.lost = 0
end

local function counter_at(counters, index, at)
  local key = counters.keys[index]
  local counter = counters.by_key[key]
  if not counter then
    local state = counters.states[index]
    local a, is_readable, b, is_pulled = at.algorithm.load(state, at)
    counter = {
      key = key,
      at = at,
      a = a,
      is_dirty = is_pulled or not is_readable,
      is_there = state and true or false,
    }
    if b then
      counter.b = b
    end
    counters.by_key[key] = counter
    counters.ordered[#counters.ordered + 1] = counter
    if not is_readable then
      counters.unreadable[key] = true
    end
  end
  return counter
end

-- Charges each check in order, as if the request were admitted; says whether any is over.
local function charge_all(checks, counters)
  local keys, by_key, index = counters.keys, counters.by_key, counters.next_key
  local has_over = false
  for i = 1, #checks do
    local check = checks[i]
    local counter, slot
    if check.births then
      counter = counters.births.counter_of(counters, index, check, counter_at)
    else
      counter = by_key[keys[index]] or counter_at(counters, index, check.at)
    end
    if check.has_slot then
      slot = sub(counters.slots, counters.next_slot, counters.next_slot + SLOT_LENGTH - 1)
      counters.next_slot = counters.next_slot + SLOT_LENGTH
      check.slot = slot
    end
    check.counter, check.a_before, check.b_before = counter, counter.a, counter.b
    check.was_dirty = counter.is_dirty
    if check.pull then
      check.pull(counter, check.at)
    end
    local is_over
    check.used_before, check.used_after, is_over, check.lost = check.charge(counter, check, slot)
    check.is_over = is_over
    has_over = has_over or is_over
    index = index + check.key_count
  end
  counters.next_key = index
  return has_over
end

-- What a counter held before the request is what its first check saw.
local function roll_back(checks)
  for i = #checks, 1, -1 do
    local check = checks[i]
    local counter, undo = check.counter, check.algorithm.undo
    counter.is_dirty = check.was_dirty
    if undo then
      undo(counter, check.a_before)
    else
      counter.a, counter.b = check.a_before, check.b_before
    end
  end
end

-- Charges what counts although the request is refused, and pulls again what was pulled.
local function charge_denied(checks)
  for i = 1, #checks do
    local check = checks[i]
    if check.pull then
      check.pull(check.counter, check.at)
    end
    if check.counts_denied then
      check.lost = select(4, check.charge(check.counter, check, check.slot))
    end
  end
end

-- What the request asked of the counter of check `i`, up to that check.
local function need_of(checks, i)
  local need, counter = 0, checks[i].counter
  for j = 1, i do
    if checks[j].counter == counter then
      need = need + max(0, checks[j].cost)
    end
  end
  return need
end

function batch.reply()
  return {requests = {}, checks = {}}
end

local function pass_over(request, counters, reply)
  counters.next_key = counters.next_key + request.key_count
  counters.next_slot = counters.next_slot + request.slot_bytes
  reply.requests[#reply.requests + 1] = STALE
  for _ = 1, #request.checks do
    reply.checks[#reply.checks + 1] = pack_bytes(RESULT, 0, 0, 0, 0, 0, 0, 0)
  end
end

-- Decides the next request, and charges it; appends its part of the reply.
function batch.decide(request, counters, reply)
  if request.is_stale then
    pass_over(request, counters, reply)
    return
  end
  local checks = request.checks
  if request.has_births then
    counters.births = counters.births or new_births(counters.now_us)
  end
  local has_over = charge_all(checks, counters)
  local is_refused = request.is_denied
    or (has_over and refusal.is_refused(checks, request.passing_quota))
  if is_refused then
    roll_back(checks)
    charge_denied(checks)
  end
  if request.has_births then
    counters.births.settle(checks, is_refused)
  end
  local told, count = reply.checks, #reply.checks
  reply.requests[#reply.requests + 1] = is_refused and REFUSED or ADMITTED
  for i = 1, #checks do
    local check = checks[i]
    local counter, is_over = check.counter, check.is_over
    if check.spends and (check.counts_denied or not is_refused) then
      -- A refund to nobody leaves nothing behind.
      counter.is_dirty = counter.is_dirty or check.cost > 0 or counter.is_there
      if check.lost then
        counters.lost = min(counters.lost + check.lost, MAX_INTEGER)
      end
    end
    local used, reset_us, retry_us =
      check.tell(counter, check, is_over, is_over and need_of(checks, i) or 0)
    told[count + i] = pack_bytes(
      RESULT,
      is_over and 1 or 0,
      check.used_before,
      check.used_after,
      used,
      reset_us,
      retry_us,
      check.is_overflowed and 1 or 0
    )
  end
end

-- Returns the whole reply.
function batch.answer(counters, reply)
  local unreadable = 0
  for _ in pairs(counters.unreadable) do
    unreadable = unreadable + 1
  end
  return {
    counters.now_us,
    unreadable,
    table.concat(reply.requests),
    table.concat(reply.checks),
    counters.lost,
  }
end

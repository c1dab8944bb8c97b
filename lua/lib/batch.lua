--[[ batch: a list of requests as one serial history over counters held in a table.

  --- @include "lib/fixed_window"
  --- @include "lib/refusal"

  KEYS: the counter of each check, in the order of the requests and their checks; a key may repeat.
  Arguments, packed as the struct library does, big-endian; requests that differ in their keys alone
  have one shape, which is sent and read once:
    now_us in decimal, or "" (the store's clock)
    for each request: H number of its shape, from 0
    each shape, an argument of its own:
      H check count, H passing_quota, B is_denied (1: refused whatever its limits say), then for each check:
        i8 window_us, i8 limit, i8 cost (below 0: refund), B flags (1 shadow, 2 quota, 4 counts_denied)
  Replies, four values:
    now_us, unreadable counters,
    for each request: B is_refused
    for each check: B is_over, i8 used_before, used_after, used_final, reset_us, retry_after_us, B is_overflowed ]]
local batch = {}

local CHECK_AT, CHECK_LENGTH = 6, 25

local pack_bytes, unpack_bytes = struct.pack, struct.unpack

local function parse_shape(packed)
  local count, passing_quota, is_denied = unpack_bytes(">HHB", packed)
  local shape = {passing_quota = passing_quota, is_denied = is_denied == 1, checks = {}}
  for i = 1, count do
    local at = CHECK_AT + (i - 1) * CHECK_LENGTH
    local window_us, limit, cost, flags = unpack_bytes(">i8i8i8B", packed, at)
    shape.checks[i] = {
      window_us = window_us,
      limit = limit,
      cost = cost,
      is_shadow = flags % 2 == 1,
      is_quota = math.floor(flags / 2) % 2 == 1,
      counts_denied = math.floor(flags / 4) % 2 == 1,
    }
  end
  return shape
end

-- Returns the shape of each request; raises unless they name exactly the keys that came.
function batch.parse(arguments, key_count)
  local shapes = {}
  for i = 3, #arguments do
    shapes[i - 3] = parse_shape(arguments[i])
  end
  local requests = {}
  local checks = 0
  local order = arguments[2]
  for at = 1, #order, 2 do
    local shape = shapes[unpack_bytes(">H", order, at)]
    requests[#requests + 1] = shape
    checks = checks + #shape.checks
  end
  assert(checks == key_count, "a key for each check")
  return requests
end

-- Returns the counters of a batch: read once, when a check first needs them, and `ordered` as they were.
function batch.counters(keys, states, now_us)
  return {
    keys = keys,
    states = states,
    now_us = now_us,
    windows = {},
    by_key = {},
    ordered = {},
    unreadable = {},
  }
end

-- Forgets what was decided, as if nothing had been asked yet.
function batch.forget(counters)
  counters.by_key = {}
  counters.ordered = {}
end

local function window_of(counters, window_us)
  local window = counters.windows[window_us]
  if not window then
    window = fixed_window.at(window_us, counters.now_us)
    counters.windows[window_us] = window
  end
  return window
end

local function counter_at(counters, index, check)
  local key = counters.keys[index]
  local counter = counters.by_key[key]
  if not counter then
    local window = window_of(counters, check.window_us)
    local used, is_readable = fixed_window.load(counters.states[index], window)
    counter = {key = key, used = used, window = window, is_dirty = not is_readable}
    counters.by_key[key] = counter
    counters.ordered[#counters.ordered + 1] = counter
    if not is_readable then
      counters.unreadable[key] = true
    end
  end
  return counter
end

-- What each check of the request at hand saw; used again for the next, so its checks say how far it counts.
local own, before, after, over = {}, {}, {}, {}

-- Charges each check in order, as if the request were admitted.
local function charge_all(checks, counters, first)
  for i = 1, #checks do
    local check = checks[i]
    local counter = counter_at(counters, first + i - 1, check)
    own[i] = counter
    before[i] = counter.used
    after[i] = fixed_window.charge(counter.used, check.cost)
    over[i] = fixed_window.is_over(after[i], check.limit, check.cost)
    counter.used = after[i]
  end
end

-- A key's count before the request is what its first check saw.
local function roll_back(checks)
  for i = #checks, 1, -1 do
    own[i].used = before[i]
  end
end

local function settle(checks, is_refused)
  if is_refused then
    roll_back(checks)
  end
  for i = 1, #checks do
    local check = checks[i]
    if is_refused and check.counts_denied then
      own[i].used = fixed_window.charge(own[i].used, check.cost)
    end
    if check.cost ~= 0 and (check.counts_denied or not is_refused) then
      own[i].is_dirty = true
    end
  end
end

function batch.reply()
  return {requests = {}, checks = {}}
end

-- Decides a request whose first key is number `first`, and charges it; appends its part of the reply.
function batch.decide(request, counters, first, reply)
  local checks = request.checks
  charge_all(checks, counters, first)
  local is_refused = request.is_denied or refusal.is_refused(checks, over, request.passing_quota)
  settle(checks, is_refused)
  local told = reply.checks
  reply.requests[#reply.requests + 1] = is_refused and "\1" or "\0"
  for i = 1, #checks do
    local check, counter = checks[i], own[i]
    told[#told + 1] = pack_bytes(
      ">Bi8i8i8i8i8B",
      over[i] and 1 or 0,
      before[i],
      after[i],
      counter.used,
      counter.window.reset_us,
      fixed_window.retry_after_us(over[i], check.limit, check.cost, counter.window),
      0
    )
  end
end

-- Returns the whole reply.
function batch.answer(counters, reply)
  local unreadable = 0
  for _ in pairs(counters.unreadable) do
    unreadable = unreadable + 1
  end
  return {counters.now_us, unreadable, table.concat(reply.requests), table.concat(reply.checks)}
end

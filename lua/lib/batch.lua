--[[ batch: a list of requests as one serial history over counters held in a table.

  --- @include "lib/fixed_window"
  --- @include "lib/refusal"

  Arguments, one value each:
    now_us or "" (the store's clock), request count, then for each request:
      check count, passing_quota, is_denied (1: refused whatever its limits say), then for each check:
        key index, window_us, limit, cost (below 0: refund), flags (1 shadow, 2 quota, 4 counts_denied)
  Replies, one integer each:
    now_us, unreadable counters, then for each request:
      is_refused, then for each check:
        is_over, used_before, used_after, used_final, reset_us, retry_after_us ]]
local batch = {}

-- Returns the requests of `arguments`, from its second value on.
function batch.parse(arguments)
  local requests = {}
  local position = 2
  local function take()
    position = position + 1
    return tonumber(arguments[position])
  end
  for i = 1, tonumber(arguments[2]) do
    local check_count = take()
    local request = {passing_quota = take(), is_denied = take() == 1, checks = {}}
    for j = 1, check_count do
      local check = {
        key = take(),
        window_us = take(),
        limit = take(),
        cost = take(),
      }
      local flags = take()
      check.is_shadow = flags % 2 == 1
      check.is_quota = math.floor(flags / 2) % 2 == 1
      check.counts_denied = math.floor(flags / 4) % 2 == 1
      request.checks[j] = check
    end
    requests[i] = request
  end
  return requests
end

-- Turns raw states into counters {used, window_us, is_dirty}; returns them and how many were unreadable.
function batch.load(requests, states, now_us)
  local counters = {}
  local unreadable = 0
  for _, request in ipairs(requests) do
    for _, check in ipairs(request.checks) do
      if not counters[check.key] then
        local used, is_readable = fixed_window.load(states[check.key], check.window_us, now_us)
        if not is_readable then
          unreadable = unreadable + 1
        end
        counters[check.key] = {used = used, window_us = check.window_us, is_dirty = not is_readable}
      end
    end
  end
  return counters, unreadable
end

-- Charges each check in order, as if the request were admitted.
local function charge_all(request, counters)
  for _, check in ipairs(request.checks) do
    local counter = counters[check.key]
    check.used_before = counter.used
    check.used_after = fixed_window.charge(counter.used, check.cost)
    check.is_over = fixed_window.is_over(check.used_after, check.limit, check.cost)
    counter.used = check.used_after
  end
end

-- A key's count before the request is what its first check saw.
local function roll_back(request, counters)
  for i = #request.checks, 1, -1 do
    local check = request.checks[i]
    counters[check.key].used = check.used_before
  end
end

local function settle(request, counters, is_refused)
  if is_refused then
    roll_back(request, counters)
  end
  for _, check in ipairs(request.checks) do
    local counter = counters[check.key]
    if is_refused and check.counts_denied then
      counter.used = fixed_window.charge(counter.used, check.cost)
    end
    if check.cost ~= 0 and (check.counts_denied or not is_refused) then
      counter.is_dirty = true
    end
  end
end

-- Decides one request against `counters` and charges them; appends its part of the reply.
function batch.decide(request, counters, now_us, reply)
  charge_all(request, counters)
  local is_refused = request.is_denied or refusal.is_refused(request.checks, request.passing_quota)
  settle(request, counters, is_refused)
  reply[#reply + 1] = is_refused and 1 or 0
  for _, check in ipairs(request.checks) do
    local reset_us = fixed_window.reset_us(check.window_us, now_us)
    reply[#reply + 1] = check.is_over and 1 or 0
    reply[#reply + 1] = check.used_before
    reply[#reply + 1] = check.used_after
    reply[#reply + 1] = counters[check.key].used
    reply[#reply + 1] = reset_us
    reply[#reply + 1] = fixed_window.retry_after_us(check.is_over, check.limit, check.cost, reset_us)
  end
end

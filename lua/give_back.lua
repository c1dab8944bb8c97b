--[[ give_back: return what one part of a request was charged after another part refused it.

  Only in a Cluster, where a request's counters may lie on several nodes. A charge is given back
  into the window it was made in, and not at all once that window has passed; of gcra's cells, what
  time has not given back since; of concurrency, the places that are still held. It is sent once: a
  give-back that is lost leaves the charge, so it never admits more than the limit.

  KEYS[n]  counters, distinct
  ARGV[1]  now_us or ""
  ARGV[2]  for each charge: H index of its key, i8 charged_at_us, then its check as lib/batch tells,
           its cost what it added to its counter
  ARGV[3]  the slots, 16 bytes each, of all charges that have one, in their order
  Returns  how many charges were given back

  --- @include "lib/prelude"
  --- @include "lib/clock"
  --- @include "lib/shape"
  --- @include "lib/keyspace" ]]
local CHARGE_HEAD, CHARGE_LENGTH = 10, 68

local function time()
  return redis.call("TIME")
end

-- Returns the charges, and the indexes of the keys that are sorted sets.
local function parse(packed, slots, now_us)
  local charges, sets, windows, slot_at = {}, {}, {}, 1
  for at = 1, #packed, CHARGE_LENGTH do
    local index, charged_at_us = unpack_bytes(">Hi8", packed, at)
    local check = shape.check(packed, at + CHARGE_HEAD, now_us, windows)
    local charge = {index = index, charged_at_us = charged_at_us, check = check}
    if check.has_slot then
      charge.slot = sub(slots, slot_at, slot_at + SLOT_LENGTH - 1)
      slot_at = slot_at + SLOT_LENGTH
    end
    if check.algorithm and check.algorithm.is_set then
      sets[#sets + 1] = index
    end
    charges[#charges + 1] = charge
  end
  return charges, sets
end

local now_us = clock.now_us(ARGV[1], time)
local charges, sets = parse(ARGV[2], ARGV[3], now_us)
local states = redis.call("MGET", unpack(KEYS))
keyspace.read_sets(KEYS, states, sets, redis.pcall)
local counters, ordered = {}, {}
local given_back = 0

for _, charge in ipairs(charges) do
  local index, check = charge.index, charge.check
  -- Without a period for now there is nothing to give back to.
  if states[index] and check.at then
    local counter = counters[index]
    if not counter then
      local a, _, b = check.algorithm.load(states[index], check.at)
      counter = {key = KEYS[index], at = check.at, a = a, b = b, is_dirty = false}
      counters[index] = counter
      ordered[#ordered + 1] = counter
    end
    if check.algorithm.give_back(counter, check, check.cost, charge.charged_at_us, charge.slot) then
      counter.is_dirty = true
      given_back = given_back + 1
    end
  end
end

keyspace.write(redis.call, ordered, now_us)
return given_back

--[[ births: at most so many new counters of a limit in a second; the others share one.

  --- @include "lib/fixed_window"

  A check with a cost above 0 on a key that is absent gives birth to it, if its request writes it.
  Beyond so many in a second the check charges the overflow counter instead. What is charged there
  stays there: a release or refund goes to the key's own counter. ]]
-- Made when first needed, as most requests have no such bound.
local function new_births(now_us)
  local births = {}
  local window = fixed_window.at(1000000, now_us)

  local function is_present(counters, index, counter)
    if counter.at.algorithm.is_set then
      return counter.b.count > 0
    end
    return counter.is_dirty or counter.is_born or counters.states[index]
  end

  -- Returns the counter that a check charges, which is told in the check if it is the overflow's, or if
  -- the count of births is charged too; counter_at reads the one of a key.
  function births.counter_of(counters, index, check, counter_at)
    local counter = counter_at(counters, index, check.at)
    check.born, check.is_overflowed = false, false
    if check.cost <= 0 or is_present(counters, index, counter) then
      return counter
    end
    local count = counter_at(counters, index + 1, window)
    if count.a >= check.births then
      check.is_overflowed = true
      return counter_at(counters, index + 2, check.at)
    end
    count.a = count.a + 1
    counter.is_born = true
    check.born = count
    return counter
  end

  -- A birth counts if some check of the request writes the key: a refund to nobody writes nothing.
  function births.settle(checks, is_refused)
    for i = 1, #checks do
      local count, counter = checks[i].born, checks[i].counter
      if count then
        local is_written = false
        for j = 1, #checks do
          local check = checks[j]
          local is_charged = check.cost > 0 and check.spends and (check.counts_denied or not is_refused)
          is_written = is_written or (check.counter == counter and is_charged)
        end
        counter.is_born = is_written
        if is_written then
          count.is_dirty = true
        else
          count.a = count.a - 1
        end
      end
    end
  end

  return births
end

--[[ subject_block: block entries and unblock them, all of them or none; expired blocks leave.

  The keys have no time to live; a block carries its own end.

  KEYS[1] blocks by field    KEYS[2] fields by the end of their block, those that end    KEYS[3] meta
  ARGV[1] now_us or ""       ARGV[2] channel    ARGV[3] epoch, taken if there is none yet
  ARGV[4] most blocks
  ARGV[5..] for each: field, end in us ("" for none), block ("" unblocks)
  Returns  {OK, version, entries that were blocked or unblocked} or {FULL, blocks}

  --- @include "lib/clock"
  --- @include "lib/registry" ]]
local function time()
  return redis.call("TIME")
end

-- As many expired ones as unpack takes; the rest leaves with the next write.
local MAX_LEAVING = 4000

local now_us = clock.now_us(ARGV[1], time)
local channel = ARGV[2]
local epoch = ARGV[3]
local max_blocks = tonumber(ARGV[4])

-- 1. What has expired counts as absent.
local is_expired = {}
local expired = redis.call(
  "ZRANGE", KEYS[2], "-inf", registry.text(now_us), "BYSCORE", "LIMIT", 0, MAX_LEAVING
)
for _, field in ipairs(expired) do
  is_expired[field] = true
end
local writes, fields = {}, {}
for i = 5, #ARGV, 3 do
  local write = {field = ARGV[i], until_us = ARGV[i + 1], block = ARGV[i + 2]}
  writes[#writes + 1] = write
  fields[#fields + 1] = write.field
end
local blocks = redis.call("HMGET", KEYS[1], unpack(fields))
local count = redis.call("HLEN", KEYS[1]) - #expired
local changed = 0
for i, write in ipairs(writes) do
  write.is_there = blocks[i] ~= false and not is_expired[write.field]
  if write.block ~= "" and not write.is_there then
    count = count + 1
  end
  if write.block ~= "" or write.is_there then
    changed = changed + 1
  end
end
if count > max_blocks then
  return {registry.status.FULL, redis.call("HLEN", KEYS[1]) - #expired}
end

-- 2. Write.
local version = tonumber(redis.call("HMGET", KEYS[3], "version")[1] or 0)
if #expired > 0 then
  redis.call("HDEL", KEYS[1], unpack(expired))
  redis.call("ZREM", KEYS[2], unpack(expired))
end
for _, write in ipairs(writes) do
  if write.block ~= "" then
    redis.call("HSET", KEYS[1], write.field, write.block)
  elseif write.is_there then
    redis.call("HDEL", KEYS[1], write.field)
  end
  if write.block ~= "" and write.until_us ~= "" then
    redis.call("ZADD", KEYS[2], write.until_us, write.field)
  else
    redis.call("ZREM", KEYS[2], write.field)
  end
end
if changed + #expired == 0 then
  return {registry.status.OK, version, 0}
end
version = version + 1
if not redis.call("HMGET", KEYS[3], "epoch")[1] then
  redis.call("HSET", KEYS[3], "epoch", epoch)
end
local text = registry.text(version)
redis.call("HSET", KEYS[3], "version", text, "blocks", text)
-- A hint only: polls find what it does not tell, so its failure is none.
redis.pcall("PUBLISH", channel, text)
return {registry.status.OK, version, changed}

--[[ subject_write: write and delete records of subjects, all of them or none.

  What changed is listed by version, the last ARGV[4] changes of it. The keys have no time to live:
  an operator's word holds until it is taken back. Records carry their own times.

  KEYS[1] records by field   KEYS[2] fields in order   KEYS[3] fields by the version of their change
  KEYS[4] meta
  ARGV[1] channel            ARGV[2] epoch, taken if there is none yet
  ARGV[3] most records       ARGV[4] most changes that are listed
  ARGV[5..] for each write: field, expected version ("" for any, 0 for absent), record ("" deletes);
           a record is a JSON object without its first brace, its version is put before it
  Returns  {OK, version, writes that changed something} or {CONFLICT, which, version} or {FULL, records}

  --- @include "lib/registry" ]]
local channel = ARGV[1]
local epoch = ARGV[2]
local max_records = tonumber(ARGV[3])
local max_changes = tonumber(ARGV[4])

-- 1. Read all, and decide whether all can be written.
local writes, fields = {}, {}
for i = 5, #ARGV, 3 do
  local write = {field = ARGV[i], expected = ARGV[i + 1], rest = ARGV[i + 2]}
  writes[#writes + 1] = write
  fields[#fields + 1] = write.field
end
local records = redis.call("HMGET", KEYS[1], unpack(fields))
local count = redis.call("HLEN", KEYS[1])
for i, write in ipairs(writes) do
  write.is_there = records[i] ~= false
  local found = registry.version_of(records[i])
  if write.expected ~= "" and tonumber(write.expected) ~= found then
    return {registry.status.CONFLICT, i - 1, found}
  end
  if write.rest ~= "" and not write.is_there then
    count = count + 1
  end
end
if count > max_records then
  return {registry.status.FULL, redis.call("HLEN", KEYS[1])}
end

-- 2. Write.
local version = tonumber(redis.call("HMGET", KEYS[4], "version")[1] or 0)
local changed = 0
for _, write in ipairs(writes) do
  if write.rest ~= "" or write.is_there then
    version = version + 1
    changed = changed + 1
    if write.rest ~= "" then
      redis.call("HSET", KEYS[1], write.field, registry.with_version(write.rest, version))
      redis.call("ZADD", KEYS[2], 0, write.field)
    else
      redis.call("HDEL", KEYS[1], write.field)
      redis.call("ZREM", KEYS[2], write.field)
    end
    redis.call("ZADD", KEYS[3], registry.text(version), write.field)
  end
end
if changed == 0 then
  return {registry.status.OK, version, 0}
end
if not redis.call("HMGET", KEYS[4], "epoch")[1] then
  redis.call("HSET", KEYS[4], "epoch", epoch)
end
redis.call("HSET", KEYS[4], "version", registry.text(version))

-- 3. Keep the list of changes short: who knows less than its floor begins anew.
local MAX_LEAVING = 4000 -- as many as unpack takes, and more than one call adds
local excess = math.min(redis.call("ZCARD", KEYS[3]) - max_changes, MAX_LEAVING)
if excess > 0 then
  local oldest = redis.call("ZRANGE", KEYS[3], 0, excess - 1, "WITHSCORES")
  local leaving = {}
  for i = 1, #oldest, 2 do
    leaving[#leaving + 1] = oldest[i]
  end
  redis.call("ZREM", KEYS[3], unpack(leaving))
  redis.call("HSET", KEYS[4], "floor", oldest[#oldest])
end
-- A hint only: polls find what it does not tell, so its failure is none.
redis.pcall("PUBLISH", channel, registry.text(version))
return {registry.status.OK, version, changed}

--[[ subject_changes: what changed in the registry since a version.

  KEYS[1] fields by the version of their change    KEYS[2] meta    KEYS[3] blocks by field
  ARGV[1] epoch that is known    ARGV[2] version that is known
  ARGV[3] version of the blocks that are known     ARGV[4] most fields
  Returns  {is_reset, epoch, version, has_more, blocks version, fields, has_blocks, blocks}

  is_reset is 1 where nothing that is known can be relied upon: another epoch, an older version, or
  changes that are not listed any more. version is the one up to which fields are complete; has_more
  is 1 where there are later ones. blocks are field, block, ... and empty unless has_blocks is 1.

  --- @include "lib/registry" ]]
local known_epoch = ARGV[1]
local known_version = tonumber(ARGV[2])
local known_blocks = tonumber(ARGV[3])
local max_fields = tonumber(ARGV[4])

local meta = redis.call("HMGET", KEYS[2], "epoch", "version", "floor", "blocks")
local epoch = meta[1] or ""
local version = tonumber(meta[2] or 0)
local floor = tonumber(meta[3] or 0)
local blocks_version = tonumber(meta[4] or 0)

local is_reset = epoch ~= known_epoch or version < known_version or known_version < floor
local fields, complete_to = {}, version
if not is_reset then
  local after = "(" .. registry.text(known_version)
  local found = redis.call(
    "ZRANGE", KEYS[1], after, "+inf", "BYSCORE", "LIMIT", 0, max_fields, "WITHSCORES"
  )
  for i = 1, #found, 2 do
    fields[#fields + 1] = found[i]
  end
  if #fields == max_fields then
    complete_to = tonumber(found[#found])
  end
end

local has_blocks = is_reset or blocks_version ~= known_blocks
local blocks = {}
if has_blocks then
  blocks = redis.call("HGETALL", KEYS[3])
end
return {
  is_reset and 1 or 0, epoch, complete_to, complete_to < version and 1 or 0,
  blocks_version, fields, has_blocks and 1 or 0, blocks,
}

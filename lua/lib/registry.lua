--[[ registry: what the scripts of subjects and blocks have in common.

  meta is a hash: epoch (a random text, new with each life of the registry), version (grows with each
  change), floor (changes up to it are not listed any more), blocks (the version of the last change to
  blocks). ]]
local registry = {}

-- One meaning with ratelimitd/store/subject_scripts.py.
registry.status = {OK = 0, CONFLICT = 1, FULL = 2}

-- Numbers are doubles: tostring would round a version.
function registry.text(number)
  return string.format("%.0f", number)
end

-- The version of a stored record; 0 for an absent one and for one that nobody of us wrote.
function registry.version_of(record)
  return tonumber(record and string.match(record, '^{"version":(%d+),') or 0)
end

function registry.with_version(rest, version)
  return '{"version":' .. registry.text(version) .. "," .. rest
end

--[[ prelude: what every library uses; a global costs a look-up each time, and these run for each check. ]]
local ceil, floor, max, min = math.ceil, math.floor, math.max, math.min
local format, match, sub = string.format, string.match, string.sub
local pack_bytes, unpack_bytes = struct.pack, struct.unpack

-- Integers up to 2^53 - 1 are exact in a double.
local MAX_INTEGER = 9007199254740991
-- The bytes of a slot, and of a member of its set.
local SLOT_LENGTH = 16

-- SPDX-License-Identifier: Apache-2.0
-- A strict JSON reader (RFC 8259): nothing but JSON, and no more than its limits.
--
-- decode(text, most) gives the value, or nil and what is wrong; `most` is how many values
-- it may have, else VALUES. Objects and arrays are tables
-- (arrays have the metatable `array`), null is `null`. An object that has a name twice
-- is wrong: readers would disagree on what it says.

local DEPTH, VALUES = 16, 2000

local null = setmetatable({}, { __tostring = function() return "null" end })
local array = {}

local ESCAPES = {
  ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t",
}

local function wrong(at, what)
  error({ json = what .. " at byte " .. at }, 0)
end

local function skip(text, at)
  return string.find(text, "[^ \t\r\n]", at) or #text + 1
end

-- A code point as UTF-8.
local function utf8(code)
  local floor, char = math.floor, string.char
  if code < 0x80 then return char(code) end
  if code < 0x800 then return char(0xC0 + floor(code / 0x40), 0x80 + code % 0x40) end
  if code < 0x10000 then
    return char(0xE0 + floor(code / 0x1000), 0x80 + floor(code / 0x40) % 0x40, 0x80 + code % 0x40)
  end
  return char(0xF0 + floor(code / 0x40000), 0x80 + floor(code / 0x1000) % 0x40,
              0x80 + floor(code / 0x40) % 0x40, 0x80 + code % 0x40)
end

-- Four hexadecimal digits.
local function unit(text, at)
  local digits = string.match(text, "^%x%x%x%x", at)
  if not digits then wrong(at, "four hexadecimal digits expected") end
  return tonumber(digits, 16)
end

-- What follows "\u"; two of them for a character beyond the first 65536.
local function escaped(text, at)
  local code = unit(text, at)
  if code >= 0xDC00 and code < 0xE000 then wrong(at, "half a character") end
  if code < 0xD800 or code >= 0xE000 then return utf8(code), at + 4 end
  if string.sub(text, at + 4, at + 5) ~= "\\u" then wrong(at, "half a character") end
  local low = unit(text, at + 6)
  if low < 0xDC00 or low >= 0xE000 then wrong(at + 6, "half a character") end
  return utf8(0x10000 + (code - 0xD800) * 0x400 + low - 0xDC00), at + 10
end

local function read_string(text, at)
  local parts = {}
  while true do
    local stop = string.find(text, '[%z\1-\31"\\]', at)
    if not stop then wrong(#text + 1, "a string does not end") end
    parts[#parts + 1] = string.sub(text, at, stop - 1)
    local found = string.sub(text, stop, stop)
    if found == '"' then return table.concat(parts), stop + 1 end
    if found ~= "\\" then wrong(stop, "a control character in a string") end
    local letter = string.sub(text, stop + 1, stop + 1)
    if letter == "u" then
      parts[#parts + 1], at = escaped(text, stop + 2)
    elseif ESCAPES[letter] then
      parts[#parts + 1], at = ESCAPES[letter], stop + 2
    else
      wrong(stop, "an escape that there is not")
    end
  end
end

local function read_number(text, at)
  local whole = string.match(text, "^-?0", at) or string.match(text, "^-?[1-9]%d*", at)
  if not whole then wrong(at, "a value expected") end
  local stop = at + #whole
  local fraction = string.match(text, "^%.%d+", stop) or ""
  stop = stop + #fraction
  local exponent = string.match(text, "^[eE][+-]?%d+", stop) or ""
  stop = stop + #exponent
  if string.find(text, "^[%w.+-]", stop) then wrong(stop, "a number that is none") end
  if string.find(exponent, "%d%d%d%d") then wrong(at, "a number too large") end -- not LuaJIT's
  local value = tonumber(whole .. fraction .. exponent)
  if value == math.huge or value == -math.huge then wrong(at, "a number too large") end
  return value, stop
end

local WORDS = { t = { "true", true }, f = { "false", false }, n = { "null", null } }
local read

local function read_array(text, at, depth, count)
  local found = setmetatable({}, array)
  at = skip(text, at)
  if string.sub(text, at, at) == "]" then return found, at + 1 end
  while true do
    found[#found + 1], at = read(text, at, depth, count)
    at = skip(text, at)
    local mark = string.sub(text, at, at)
    if mark == "]" then return found, at + 1 end
    if mark ~= "," then wrong(at, "',' or ']' expected") end
    at = at + 1
  end
end

local function read_object(text, at, depth, count)
  local found = {}
  at = skip(text, at)
  if string.sub(text, at, at) == "}" then return found, at + 1 end
  while true do
    at = skip(text, at)
    if string.sub(text, at, at) ~= '"' then wrong(at, "a name expected") end
    local start, name = at, nil
    name, at = read_string(text, at + 1)
    if found[name] ~= nil then wrong(start, "a name is there twice") end
    at = skip(text, at)
    if string.sub(text, at, at) ~= ":" then wrong(at, "':' expected") end
    found[name], at = read(text, at + 1, depth, count)
    at = skip(text, at)
    local mark = string.sub(text, at, at)
    if mark == "}" then return found, at + 1 end
    if mark ~= "," then wrong(at, "',' or '}' expected") end
    at = at + 1
  end
end

function read(text, at, depth, count)
  at = skip(text, at)
  count.values = count.values + 1
  if depth > DEPTH then wrong(at, "too deep") end
  if count.values > count.most then wrong(at, "too many values") end
  local first = string.sub(text, at, at)
  if first == "{" then return read_object(text, at + 1, depth + 1, count) end
  if first == "[" then return read_array(text, at + 1, depth + 1, count) end
  if first == '"' then return read_string(text, at + 1) end
  local word = WORDS[first]
  if word then
    if string.sub(text, at, at + #word[1] - 1) ~= word[1] then wrong(at, "a value expected") end
    return word[2], at + #word[1]
  end
  return read_number(text, at)
end

local function decode(text, most)
  local fine, value = pcall(function()
    local found, at = read(text, 1, 0, { values = 0, most = most or VALUES })
    at = skip(text, at)
    if at <= #text then wrong(at, "something after the value") end
    return found
  end)
  if fine then return value end
  if type(value) == "table" then return nil, value.json end
  error(value, 0)
end

return { decode = decode, null = null, array = array }

-- SPDX-License-Identifier: Apache-2.0
-- What an app's answer asks for: the header `fly-replay` or its JSON form, as one table:
--
--   app, instance, prefer, state    strings
--   regions                         list of codes and aliases, in order of preference
--   elsewhere                       true
--   timeout                         milliseconds
--   fallback                        "force_self" or "prefer_self"
--   path, delete, set               of the JSON form: a path, names, {name, value} pairs
--   cache                           {prefix, ttl, invalidate}
--
-- Each reader gives the table, or nil and what is wrong.

local LONGEST = 8192 -- of the header
local LONGEST_TIMEOUT = 60000
local SHORTEST_TTL, LONGEST_TTL = 10, 86400
local HEADERS = 64
local FALLBACKS = { force_self = true, prefer_self = true }
local UNITS = { ms = 1, s = 1000, m = 60000 }
local NOT_SET = {
  host = true, connection = true, upgrade = true, te = true, via = true, trailer = true,
  ["content-length"] = true, ["transfer-encoding"] = true, ["keep-alive"] = true,
  ["proxy-connection"] = true,
}
local OURS = { "^fly%-", "^x%-forwarded%-", "^x%-envoy%-", "^x%-flyebpf%-", "^x%-request%-id$" }

local function wrong(what)
  error({ replay = what }, 0)
end

-- Text for a header: what a client of ours might read as another line is none.
local function visible(name, value, longest)
  if type(value) ~= "string" then wrong(name .. " is no text") end
  if #value > (longest or 1024) then wrong(name .. " is too long") end
  if string.find(value, "[%z\1-\8\10-\31\127]") then wrong(name .. " has control characters") end
  return value
end

-- Without white space around it. A pattern for both ends would look at what is between
-- them once for each space in it.
local function trimmed(text)
  local first, last = string.find(text, "%S"), #text
  if not first then return "" end
  while string.find(text, "^%s", last) do last = last - 1 end
  return string.sub(text, first, last)
end

local function matching(name, value, pattern)
  if not string.find(visible(name, value), pattern) then
    wrong(name .. " is not a name of one: " .. string.sub(value, 1, 64))
  end
  return value
end

local function regions(text)
  local found = {}
  for part in string.gmatch(visible("region", text) .. ",", "([^,]*),") do
    local code = string.lower(trimmed(part))
    found[#found + 1] = matching("region", code, "^%l[%l%d-]*$")
    if #found > 32 then wrong("region names too many") end
  end
  return found
end

local function timeout(text)
  if type(text) == "number" then text = text .. "s" end
  local number, unit = string.match(visible("timeout", text), "^(%d+%.?%d*)(%a+)$")
  local factor = unit and UNITS[unit]
  if not factor then wrong("timeout is a number with ms, s or m") end
  local found = tonumber(number) * factor
  if found <= 0 or found > LONGEST_TIMEOUT then wrong("timeout is not above 0 and up to 60s") end
  return found
end

local function truth(name, value)
  if value == true or value == "true" then return true end
  if value == false or value == "false" then return nil end
  wrong(name .. " is true or false")
end

local FIELDS = {
  app = function(to, value) to.app = matching("app", value, "^[%l%d][%l%d-]*$") end,
  region = function(to, value) to.regions = regions(value) end,
  instance = function(to, value) to.instance = matching("instance", value, "^%w+$") end,
  prefer_instance = function(to, value)
    to.prefer = matching("prefer_instance", value, "^%w+$")
  end,
  elsewhere = function(to, value) to.elsewhere = truth("elsewhere", value) end,
  state = function(to, value) to.state = visible("state", value, 4096) end,
  timeout = function(to, value) to.timeout = timeout(value) end,
  fallback = function(to, value)
    if not FALLBACKS[value] then wrong("fallback is force_self or prefer_self") end
    to.fallback = value
  end,
}

local function checked(to)
  if to.instance and to.prefer then wrong("instance and prefer_instance exclude each other") end
  if not (to.app or to.regions or to.instance or to.prefer or to.elsewhere
          or (to.cache and to.cache.invalidate)) then
    wrong("it names no target")
  end
  return to
end

-- `k=v;k="v"`; white space around keys and values means nothing.
local function fields(text)
  local found, at = {}, 1
  while at <= #text do
    local key, stop = string.match(text, "^%s*([%l_]+)%s*=%s*()", at)
    if not key then wrong("a field is written name=value") end
    local value, after = string.match(text, '^"([^"]*)"%s*()', stop)
    if not value then value, after = string.match(text, '^([^;"]*)()', stop) end
    local mark = string.sub(text, after, after)
    if mark == '"' then wrong(key .. " has a quotation mark too many") end
    if mark ~= "" and mark ~= ";" then wrong("fields are separated by ;") end
    if found[key] then wrong(key .. " is there twice") end
    found[key] = trimmed(value)
    at = string.match(text, "^;%s*()", after) or after
  end
  return found
end

local function from_header(text)
  if #text >= LONGEST then wrong("it is too long") end
  local to = {}
  for key, value in pairs(fields(text)) do
    if not FIELDS[key] then wrong("there is no field " .. string.sub(key, 1, 64)) end
    FIELDS[key](to, value)
  end
  return to
end

-- What is written with underscores is the same header for an app behind CGI or WSGI.
local function header_name(value)
  local name = string.lower(visible("a header's name", value, 256))
  if not string.find(name, "^[%w!#$%%&'*+.^_`|~-]+$") then wrong("a header's name is none") end
  local plain = string.gsub(name, "_", "-")
  if NOT_SET[plain] then wrong("the header " .. name .. " is not to be changed") end
  for _, pattern in ipairs(OURS) do
    if string.find(plain, pattern) then wrong("the header " .. name .. " is the proxy's") end
  end
  return name
end

local function path(value)
  visible("path", value, 8192)
  if not string.find(value, "^/[!-~]*$") then wrong("path does not start with / or has spaces") end
  if string.find(value, "#", 1, true) then wrong("path has a fragment") end
  return value
end

-- Of `cache.prefix` and the header `fly-replay-cache`: a path, with a host name before it and
-- `*` at its end, or not. Gives the path and the host.
local function prefix(value)
  local bare = string.gsub(visible("the cache's prefix", value), "%*$", "")
  local host, rest = string.match(bare, "^([%w.:%[%]-]+)(/.*)$")
  return path(rest or bare), host and string.lower(host)
end

local function ttl(value)
  local number = tonumber(value)
  if not number or number ~= math.floor(number) then wrong("the cache's ttl is no number") end
  if number < SHORTEST_TTL then wrong("the cache's ttl is below " .. SHORTEST_TTL .. " s") end
  return math.min(number, LONGEST_TTL)
end

local function object(name, value)
  if type(value) ~= "table" then wrong(name .. " is no object") end
  return value
end

local function known(name, value, keys)
  for key in pairs(object(name, value)) do
    if not keys[key] then
      wrong(name .. " has a field that there is not: " .. string.sub(tostring(key), 1, 64))
    end
  end
end

local function transform(to, value)
  known("transform", value, { path = true, delete_headers = true, set_headers = true })
  if value.path ~= nil then to.path = path(value.path) end
  to.delete, to.set = {}, {}
  for _, name in ipairs(object("delete_headers", value.delete_headers or {})) do
    to.delete[#to.delete + 1] = header_name(name)
  end
  for _, item in ipairs(object("set_headers", value.set_headers or {})) do
    known("a header to set", item, { name = true, value = true })
    local set = { header_name(item.name), visible("a header's value", item.value, 8192) }
    to.set[#to.set + 1] = set
  end
  if #to.delete > HEADERS or #to.set > HEADERS then wrong("too many headers to change") end
end

local function cache(value)
  known("cache", value, { prefix = true, ttl = true, ttl_seconds = true, invalidate = true })
  local found = {}
  if value.invalidate ~= nil then found.invalidate = truth("invalidate", value.invalidate) end
  if value.prefix ~= nil then found.prefix, found.host = prefix(value.prefix) end
  if value.ttl ~= nil or value.ttl_seconds ~= nil then
    found.ttl = ttl(value.ttl or value.ttl_seconds)
  end
  return found
end

local function from_json(text, json)
  local value, problem = json.decode(text)
  if problem then wrong("its JSON is none: " .. problem) end
  if type(value) ~= "table" or getmetatable(value) == json.array then wrong("it is no object") end
  local to = {}
  for key, item in pairs(value) do
    if item == json.null then
      -- as if it were not there
    elseif key == "transform" then
      transform(to, item)
    elseif key == "cache" then
      to.cache = cache(item)
    elseif FIELDS[key] then
      FIELDS[key](to, item)
    else
      wrong("there is no field " .. string.sub(key, 1, 64))
    end
  end
  return to
end

-- The headers `fly-replay-cache` and `fly-replay-cache-ttl-secs`.
local function cache_headers(to, text, seconds)
  if not text then return end
  if text == "invalidate" then
    to.cache = { invalidate = true }
  else
    to.cache = { ttl = seconds and ttl(seconds) or nil }
    to.cache.prefix, to.cache.host = prefix(text)
  end
end

local function guarded(read, ...)
  local fine, value = pcall(read, ...)
  if fine then return value end
  if type(value) == "table" and value.replay then return nil, value.replay end
  error(value, 0)
end

return {
  header = function(text, caching, seconds)
    return guarded(function()
      local to = from_header(text)
      cache_headers(to, caching, seconds)
      return checked(to)
    end)
  end,
  json = function(text, json)
    return guarded(function() return checked(from_json(text, json)) end)
  end,
  regions = function(text) return guarded(regions, text) end,
  trimmed = trimmed,
}

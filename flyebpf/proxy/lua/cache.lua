-- SPDX-License-Identifier: Apache-2.0
-- Where requests like this one were replayed to before.
--
-- A worker of Envoy remembers what apps have answered it, so much at most. All workers
-- forget what one app's answer makes invalid: each app has a file with its generation, and
-- what was remembered in another one is not known any more. That file says to the control
-- plane, too, until when the app's requests have to come by here.

local MOST, BYTES = 4096, 8 * 2 ^ 20 -- entries of a worker and what they say, twice
local SLACK = 60 -- seconds that a file is ahead, so that not every entry writes one
local PREFIXES = 64 -- of one app and host

return function(folder)
  local young, old, count, bytes = {}, {}, 0, 0
  local prefixes, hosts = {}, 0 -- app and host: list of path prefixes, longest first

  local function generation(app)
    local file = io.open(folder .. "/" .. app, "r")
    if not file then return "" end
    local text = file:read("*l") or ""
    file:close()
    return text
  end

  -- `until`: in seconds since 1970, the end of the longest that was remembered.
  local function write(app, text, last)
    local name = folder .. "/" .. app
    local aside = string.format("%s.%s.%d", name, tostring({}):gsub("%W", ""), math.random(2 ^ 30))
    local file = io.open(aside, "w")
    if not file then return end
    file:write(text, "\n", string.format("%d", last), "\n")
    file:close()
    os.rename(aside, name)
  end

  local function last_of(app)
    local file = io.open(folder .. "/" .. app, "r")
    if not file then return 0 end
    file:read("*l")
    local last = tonumber(file:read("*l") or "") or 0
    file:close()
    return last
  end

  local function key_of(app, host, kind, value)
    return table.concat({ app, host, kind, value }, "\n")
  end

  local function get(key, app, now)
    local found = young[key] or old[key]
    if found and found.ends > now and found.generation == generation(app) then return found end
  end

  -- About what a value takes.
  local function size(value)
    if type(value) == "string" then return #value end
    if type(value) ~= "table" then return 8 end
    local sum = 64
    for name, item in pairs(value) do sum = sum + size(name) + size(item) end
    return sum
  end

  local function put(key, app, spec, by, ttl, now)
    if count >= MOST or bytes >= BYTES then young, old, count, bytes = {}, young, 0, 0 end
    if not young[key] then count = count + 1 end
    bytes = bytes + #key + size(spec) -- that of before, too: who changes one often pays for it
    local was = generation(app)
    young[key] = { spec = spec, by = by, ends = now + ttl, generation = was }
    if last_of(app) < now + ttl then write(app, was, now + ttl + SLACK) end
  end

  local function drop(key)
    young[key], old[key] = nil, nil
  end

  -- All that was remembered of an app is invalid, for every worker.
  local function invalidate(app, now)
    write(app, string.format("%.6f-%d", now, math.random(2 ^ 30)), last_of(app))
  end

  local function below(path, prefix)
    return string.sub(path, 1, #prefix) == prefix
  end

  -- The rule with the longest prefix, and the request's value for it.
  local function session(rules, path, value_of)
    local best
    for _, rule in ipairs(rules or {}) do
      if below(path, rule.prefix) and (not best or #rule.prefix > #best.prefix) then best = rule end
    end
    local value = best and value_of(best)
    if value and #value <= 4096 then return best, best.type .. "\n" .. best.name .. "\n" .. value end
  end

  local function add_prefix(app, host, prefix)
    local name = app .. "\n" .. host
    if not prefixes[name] then
      if hosts >= MOST then prefixes, hosts = {}, 0 end
      prefixes[name], hosts = {}, hosts + 1
    end
    local list = prefixes[name]
    for _, known in ipairs(list) do
      if known == prefix then return end
    end
    if #list >= PREFIXES then table.remove(list) end
    list[#list + 1] = prefix
    table.sort(list, function(a, b) return #a > #b end)
  end

  -- What is remembered for a request: entry, its key, and the session's rule. Sessions
  -- come before paths. `at`: {app, host, path, rules, value_of, now}.
  local function find(at)
    local rule, value = session(at.rules, at.path, at.value_of)
    local key = rule and key_of(at.app, at.host, "session", rule.prefix .. "\n" .. value)
    local found = key and get(key, at.app, at.now)
    if found then return found, key, rule end
    for _, prefix in ipairs(prefixes[at.app .. "\n" .. at.host] or {}) do
      local path_key = key_of(at.app, at.host, "path", prefix)
      local entry = below(at.path, prefix) and get(path_key, at.app, at.now)
      if entry then return entry, path_key, rule end
    end
    return nil, key, rule
  end

  -- Keep where an app has had a request replayed to. False: nothing was to be kept.
  local function remember(at, spec, by)
    local kept = false
    local rule, value = session(at.rules, at.path, at.value_of)
    if rule then
      put(key_of(at.app, at.host, "session", rule.prefix .. "\n" .. value),
          at.app, spec, by, rule.ttl, at.now)
      kept = true
    end
    local prefix = spec.cache and spec.cache.prefix
    if prefix and below(at.path, prefix) and (spec.cache.host or at.host) == at.host then
      add_prefix(at.app, at.host, prefix)
      put(key_of(at.app, at.host, "path", prefix), at.app, spec, by, spec.cache.ttl or 10, at.now)
      kept = true
    end
    return kept
  end

  return { find = find, remember = remember, drop = drop, invalidate = invalidate }
end

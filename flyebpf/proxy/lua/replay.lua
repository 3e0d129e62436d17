-- SPDX-License-Identifier: Apache-2.0
-- The listener for requests that ask for a machine, and for replays: Envoy's part.
--
-- `json`, `grammar`, `apps`, `decide`, `cache` and `pass` are the other files here.

local NAME = "flyebpf.replay"
local ASK, SOURCE, HOP, UP = "x-flyebpf-ask", "x-flyebpf-source", "x-flyebpf-hop", "x-flyebpf-up"
local CLUSTER, WAIT = "x-flyebpf-cluster", "x-flyebpf-timeout"
local INTERNAL = { ASK, SOURCE, HOP, UP, "x-envoy-original-url" }
local MOST = 5 -- replays of one request
local STATUS = "fly-replay-cache-status"
local ASKING = {
  "fly-prefer-region", "fly-force-region", "fly-prefer-instance-id", "fly-force-instance-id",
}
local UNAVAILABLE = "fly-preferred-instance-unavailable"

local function now(handle)
  local text = handle:timestampString(EnvoyTimestampResolution.MICROSECOND)
  return tonumber((string.gsub(text, "%D", "")))
end

-- What this pass tells its own end.
local function remember(handle, pass)
  handle:streamInfo():dynamicMetadata():set(NAME, "pass", pass)
end

-- Ends the request with words for people.
local function refuse(handle, status, text)
  handle:respond({
    [":status"] = status, ["content-type"] = "text/plain; charset=utf-8",
    ["cache-control"] = "no-store",
  }, text .. "\n")
end

-- The value of `fly-replay-failed`. `pass`: as :func:`replay` makes it.
local function failure(pass, reason, at)
  return string.format(
    "instance=%s;app=%s;region=%s;replay_source=%s;reason=%s;elapsed_ms=%d",
    pass.instance, pass.target, pass.region, pass.machine, reason,
    math.floor(math.max(0, at - pass.began) / 1000)
  )
end

-- Back to the machine that has asked for the replay.
local function back(pass, reason, at)
  return {
    [ASK] = "1", [HOP] = pass.back, ["fly-replay"] = failure(pass, reason, at),
  }
end

local function send(handle, choice)
  local headers = handle:headers()
  headers:replace(CLUSTER, choice.cluster)
  if choice.unavailable then headers:replace(UNAVAILABLE, choice.unavailable) end
  if choice.address then handle:setUpstreamOverrideHost(choice.address, choice.strict == true) end
end

local function transform(headers, spec)
  if spec.path then headers:replace(":path", spec.path) end
  for _, name in ipairs(spec.delete or {}) do headers:remove(name) end
  for _, pair in ipairs(spec.set or {}) do headers:replace(pair[1], pair[2]) end
end

-- Waits that routes know (flyebpf/proxy/replay.py): tenths of a second, then seconds.
local function wait_of(milliseconds)
  local step = milliseconds <= 1000 and 100 or 1000
  return string.format("%d", math.ceil(milliseconds / step) * step)
end

-- The value of a cookie.
local function cookie(headers, name)
  for pair in string.gmatch(headers:get("cookie") or "", "[^;]+") do
    local key, value = string.match(pair, "^([^=]*)=(.*)$")
    if key and grammar.trimmed(key) == name then return grammar.trimmed(value) end
  end
end

-- The request, as the cache knows requests.
local function at_cache(handle, app, source)
  local headers = handle:headers()
  return {
    app = app.name, rules = app.rules[source.port], now = now(handle) / 1e6,
    host = string.lower(headers:get(":authority") or ""), path = headers:get(":path") or "/",
    value_of = function(rule)
      if rule.type == "cookie" then return cookie(headers, rule.name) end
      return headers:get(rule.name)
    end,
  }
end

local function source_header(headers, by, spec, at)
  local src = string.format("instance=%s;region=%s;t=%.0f", by.machine, by.region, at)
  headers:replace("fly-replay-src", spec.state and src .. ";state=" .. spec.state or src)
end

-- Where such a request went before. True: this one goes there too.
local function from_cache(handle, app, source)
  local at = at_cache(handle, app, source)
  local found, key, rule = cache.find(at)
  local headers = handle:headers()
  if rule and rule.bypass and headers:get("fly-replay-cache-control") == "skip" then
    headers:replace(STATUS, "bypass")
    return false
  end
  local choice = found and decide.by_answer(found.by, app, found.spec, source.port)
  if not choice then
    if found then cache.drop(key) end
    if rule then headers:replace(STATUS, "miss") end
    return false
  end
  headers:replace(STATUS, "hit")
  transform(headers, found.spec)
  source_header(headers, found.by, found.spec, at.now * 1e6)
  remember(handle, {
    app = choice.app, cluster = choice.cluster, count = 1, kind = "hit", key = key, of = app.name,
    back = "",
  })
  send(handle, choice)
  return true
end

-- Whether the client asks for a region or a machine.
local function asks(headers)
  for _, name in ipairs(ASKING) do
    if headers:get(name) then return true end
  end
end

local function client(handle, source)
  local headers = handle:headers()
  local app = apps.read(source.app)
  if not app then return refuse(handle, "503", "app " .. source.app .. " is not known here") end
  if not asks(headers) and from_cache(handle, app, source) then return end
  local force, problem = headers:get("fly-force-region"), nil
  local asked = {
    force_instance = headers:get("fly-force-instance-id"),
    prefer_instance = headers:get("fly-prefer-instance-id"),
    prefer_region = grammar.regions(headers:get("fly-prefer-region") or ""),
  }
  if force then
    asked.force_region, problem = grammar.regions(force)
    if problem then return refuse(handle, "400", "fly-force-region: " .. problem) end
  end
  if asked.prefer_instance then
    asked.prefer_instance = string.match(asked.prefer_instance, "^%w+$")
  end
  local choice, _, words = decide.by_client(app, source.cluster, asked)
  if not choice then return refuse(handle, "503", "app " .. app.name .. ": " .. words) end
  remember(handle, { app = choice.app, cluster = choice.cluster, count = 0, kind = "client" })
  send(handle, choice)
end

-- Who has answered: {app, cluster, address, machine, region} and how often before.
local function answered(source, ask)
  local by, count = source, 0
  if ask.own then
    by, count = { app = ask.hop[3], cluster = ask.hop[4] }, tonumber(ask.hop[2]) or MOST
  end
  by = { app = by.app, cluster = by.cluster, address = ask.own and ask.hop[5] or ask.up }
  local app = apps.read(by.app or "")
  local machine = app and apps.by_address(app.clusters[by.cluster] or {}, by.address) or {}
  by.machine, by.region = machine.id or "", machine.region or ""
  return by, count, app
end

local function returned(handle, by, ask)
  local headers = handle:headers()
  headers:replace("fly-replay-failed", ask.header or "")
  remember(handle, { app = by.app, cluster = by.cluster, count = MOST, kind = "back" })
  local strict = ask.hop[6] == "force_self"
  local address = not string.find(by.address, "^envoy:") and by.address -- not one that was woken
  send(handle, { cluster = by.cluster, address = address, strict = strict })
end

local function spec_of(handle, ask)
  if not ask.json then return grammar.header(ask.header or "", ask.caching, ask.seconds) end
  local text = ask.json ~= "long" and ask.json ~= "none" and pass.unescape(ask.json)
  if not text then return nil, "its body is longer than 32768 bytes, or empty" end
  return grammar.json(text, json)
end

-- For requests like this one, which its app has had replayed.
local function keep(handle, by, app, source, spec)
  local headers, at = handle:headers(), at_cache(handle, app, source)
  if cache.remember(at, spec, { app = by.app, cluster = by.cluster, machine = by.machine,
                                region = by.region }) then
    local skipped = headers:get("fly-replay-cache-control") == "skip"
    headers:replace(STATUS, skipped and "bypass" or "miss")
  end
end

local function replay(handle, source, ask)
  local by, count, app = answered(source, ask)
  if not app then return refuse(handle, "502", "fly-replay: its app is not known here") end
  if ask.hop[1] == "back" then return returned(handle, by, ask) end
  if count >= MOST then
    return refuse(handle, "508", "fly-replay: replayed more than " .. MOST .. " times")
  end
  if ask.caching == "invalidate" then cache.invalidate(by.app, now(handle) / 1e6) end
  local spec, problem = spec_of(handle, ask)
  if not spec then return refuse(handle, "502", "fly-replay of " .. by.app .. ": " .. problem) end
  local began = now(handle)
  local this = {
    app = spec.app or by.app, count = count + 1, kind = "replay", began = began, of = source.app,
    target = spec.app or by.app, instance = spec.instance or spec.prefer or "",
    region = table.concat(spec.regions or {}, ","), machine = by.machine,
    back = spec.fallback and pass.hop("back", MOST, by, spec.fallback) or "",
  }
  local choice, reason, words = decide.by_answer(by, app, spec, source.port)
  if not choice then
    if spec.fallback then
      local headers = back(this, reason, began)
      headers[":status"] = "307"
      return handle:respond(headers, "")
    end
    return refuse(handle, "502", "fly-replay: " .. words)
  end
  this.cluster = choice.cluster
  remember(handle, this)
  local headers = handle:headers()
  if count == 0 then keep(handle, by, app, source, spec) end
  transform(headers, spec)
  source_header(headers, by, spec, began)
  if spec.timeout then headers:replace(WAIT, wait_of(spec.timeout)) end
  send(handle, choice)
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local source, ask = pass.source(headers:get(SOURCE)), pass.ask(headers:get(ASK))
  for _, name in ipairs(INTERNAL) do headers:remove(name) end
  if not source.app then return refuse(handle, "500", "no app asks for this") end
  if ask then replay(handle, source, ask) else client(handle, source) end
end

local function is_replay(headers)
  local type = string.lower(headers:get("content-type") or "")
  return headers:get("fly-replay") or string.sub(type, 1, 31) == "application/vnd.fly.replay+json"
end

-- A request that was sent back is not replayed again: the client gets an error, and
-- nothing of the answer.
local function refuse_again(handle, headers)
  for _, name in ipairs({ "fly-replay", "content-length", "content-encoding" }) do
    headers:remove(name)
  end
  headers:replace(":status", "502")
  headers:replace("content-type", "text/plain; charset=utf-8")
  local text = "fly-replay: a request that was sent back is not replayed again\n"
  for chunk in handle:bodyChunks() do
    chunk:setBytes(text)
    text = ""
  end
end

-- Of an answer by a machine that asks for the next replay.
local function passed_on(handle, headers, this, up)
  if this.kind == "back" then return refuse_again(handle, headers) end
  local by = { app = this.app, cluster = this.cluster, address = up }
  headers:replace(HOP, pass.hop("replay", this.count, by, ""))
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local this = handle:streamInfo():dynamicMetadata():get(NAME)
  this = this and this.pass
  if not this then return end -- refused, or sent back, here
  if headers:get("fly-replay-cache") == "invalidate" then
    cache.invalidate(this.of or this.app, now(handle) / 1e6)
    headers:remove("fly-replay-cache")
  end
  local up = headers:get(UP)
  for _, name in ipairs({ UP, HOP, ASK }) do headers:remove(name) end
  if up then
    if is_replay(headers) then passed_on(handle, headers, this, up) end
    return
  end
  if this.kind == "hit" then cache.drop(this.key) end
  if this.kind ~= "replay" or this.back == "" then return end
  local reason = headers:get(":status") == "504" and "timeout" or "retries_exhausted"
  for name, value in pairs(back(this, reason, now(handle))) do headers:replace(name, value) end
end

-- SPDX-License-Identifier: Apache-2.0
-- What the passes of one request tell each other, in headers that no client and no app
-- can set (flyebpf/proxy/replay.py):
--
--   x-flyebpf-ask       "replay", and with tabs between them: who answered as Envoy knows
--                       it, `hop`, and what the app says, which may have tabs itself: the
--                       headers for caching, the JSON, and `fly-replay`
--   x-flyebpf-source    app, cluster and port at which the client came in
--   x-flyebpf-hop       what this pass tells the next one, believed only if it was
--                       written by this listener: words with `;` between them

local REPLAY = "replay\t"
local MISSING, MARK = "-", ";"

local function split(text, mark)
  local found = {}
  for part in string.gmatch(text .. mark, "([^" .. mark .. "]*)" .. mark) do
    found[#found + 1] = part
  end
  return found
end

local function present(text)
  return text ~= nil and text ~= "" and text ~= MISSING and text or nil
end

local function source(text)
  local app, cluster, port = string.match(text or "", "^(%S+) (%S+) (%d+)$")
  return { app = app, cluster = cluster, port = port }
end

local ASK = "^replay\t([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)\t(.*)$"

-- nil: not a replay.
local function ask(text)
  if string.sub(text or "", 1, #REPLAY) ~= REPLAY then return nil end
  local up, hop, seconds, caching, json, header = string.match(text, ASK)
  if not up then return nil end
  local own = string.find(up, "^envoy://replay/") ~= nil
  return {
    up = up, own = own, seconds = present(seconds), caching = present(caching),
    json = present(json), header = present(header), hop = own and split(hop, MARK) or {},
  }
end

-- Of a hop: "replay", count, app, cluster, address; or "back", count, app, cluster,
-- address, and "force_self" or "prefer_self". Clusters may have commas.
local function hop(kind, count, by, more)
  return table.concat({ kind, count, by.app, by.cluster, by.address, more }, MARK)
end

local LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local VALUES = {}
for at = 1, #LETTERS do VALUES[string.byte(LETTERS, at)] = at - 1 end

-- Base64 (RFC 4648) as Envoy writes it.
local function unescape(text)
  local found, bits, value = {}, 0, 0
  for at = 1, #text do
    local six = VALUES[string.byte(text, at)]
    if six then
      value, bits = (value * 64 + six) % 0x40000, bits + 6
      if bits >= 8 then
        bits = bits - 8
        local power = 2 ^ bits
        found[#found + 1] = string.char(math.floor(value / power) % 256)
      end
    end
  end
  return table.concat(found)
end

return { source = source, ask = ask, hop = hop, unescape = unescape }

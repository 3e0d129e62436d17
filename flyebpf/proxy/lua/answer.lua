-- SPDX-License-Identifier: Apache-2.0
-- An answer that asks for a replay: it becomes a redirect, and the body of a JSON one goes
-- along as a header.

local JSON_TYPE, LONGEST = "application/vnd.fly.replay+json", 32768
local FIELD = "[^\t]*\t"
local AROUND = "^(" .. string.rep(FIELD, 5) .. ")(.*)$" -- where the JSON goes

function envoy_on_response(handle)
  local type = handle:headers():get("content-type")
  if type and string.sub(string.lower(type), 1, #JSON_TYPE) == JSON_TYPE then
    local body = handle:body()
    local length = body and body:length() or 0
    local text = length > LONGEST and "long" or "none"
    if length > 0 and length <= LONGEST then
      text = handle:base64Escape(body:getBytes(0, length))
    end
    local ask = handle:headers():get("x-flyebpf-ask")
    local head, rest = string.match(ask, AROUND)
    handle:headers():replace("x-flyebpf-ask", head .. text .. rest)
  end
  handle:headers():replace(":status", "307")
end

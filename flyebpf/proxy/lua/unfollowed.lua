-- SPDX-License-Identifier: Apache-2.0
-- A replay that the router has not followed: the client gets an error, and nothing of what
-- the app answered.

local WHY = "fly-replay: the request cannot be sent again: its body is longer than 1048576 bytes, "
  .. "or had not ended when the app answered"
local GONE = {
  "location", "fly-replay", "fly-replay-cache", "fly-replay-cache-ttl-secs", "content-length",
  "content-encoding", "etag", "x-flyebpf-ask", "x-flyebpf-hop", "x-flyebpf-vhost",
}

function envoy_on_response(handle)
  local headers = handle:headers()
  for _, name in ipairs(GONE) do headers:remove(name) end
  headers:replace(":status", "502")
  headers:replace("content-type", "text/plain; charset=utf-8")
  headers:replace("cache-control", "no-store")
  headers:replace("fly-replay-error", WHY)
  local text = WHY .. "\n"
  for chunk in handle:bodyChunks() do
    chunk:setBytes(text)
    text = ""
  end
end

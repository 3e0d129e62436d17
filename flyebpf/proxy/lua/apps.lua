-- SPDX-License-Identifier: Apache-2.0
-- What the daemon says of apps: a file of JSON for each (flyebpf/proxy/replayfiles.py).
--
--   org, network      whose it is
--   cross             its organization lets its networks replay to each other
--   sources           other organizations that may replay to it
--   ports             external port to cluster
--   first             the cluster of any other port
--   clusters          name to machines: {id, address, region, rank, usable, areas}
--
-- Files are replaced as a whole, so what is read is what was written at one time. What was
-- parsed is kept while the file's text stays the same.

local KEPT = 512
local VALUES = 1000000 -- the daemon writes them: some nine for each machine of a cluster

return function(folder, json)
  local kept, count = {}, 0

  local function read(name)
    if not string.find(name, "^[%l%d-]+$") then return nil end
    local file = io.open(folder .. "/" .. name .. ".json", "r")
    if not file then return nil end
    local text = file:read("*a")
    file:close()
    local found = kept[name]
    if found and found.text == text then return found.app end
    local app = json.decode(text, VALUES)
    if type(app) ~= "table" then return nil end
    if count >= KEPT then kept, count = {}, 0 end
    if not kept[name] then count = count + 1 end
    kept[name] = { text = text, app = app }
    app.name = name
    return app
  end

  -- Whether `source` may replay to `target`.
  local function permitted(source, target)
    if source.name == target.name then return true end
    if source.org == target.org then
      return source.network == target.network or target.cross
    end
    for _, org in ipairs(target.sources) do
      if org == source.org then return true end
    end
    return false
  end

  -- The machines of a region or of those that an alias means.
  local function inside(machines, region)
    local found = {}
    for _, machine in ipairs(machines) do
      local is = region == "any" or machine.region == region
      for _, area in ipairs(machine.areas) do is = is or area == region end
      if is then found[#found + 1] = machine end
    end
    return found
  end

  -- One of the nearest of them; nil for none.
  local function any(machines)
    local nearest, best = {}, nil
    for _, machine in ipairs(machines) do
      if machine.usable and (not best or machine.rank <= best) then
        if machine.rank ~= best then nearest, best = {}, machine.rank end
        nearest[#nearest + 1] = machine
      end
    end
    return nearest[1] and nearest[math.random(#nearest)]
  end

  local function by_id(machines, id)
    for _, machine in ipairs(machines) do
      if machine.id == id then return machine end
    end
  end

  local function by_address(machines, address)
    for _, machine in ipairs(machines) do
      if machine.address == address then return machine end
    end
  end

  local function without(machines, id)
    local found = {}
    for _, machine in ipairs(machines) do
      if machine.id ~= id then found[#found + 1] = machine end
    end
    return found
  end

  -- The first region that has one, in order of preference.
  local function preferred(machines, regions)
    for _, region in ipairs(regions) do
      local found = any(inside(machines, region))
      if found then return found end
    end
  end

  return {
    read = read, permitted = permitted, any = any, by_id = by_id, by_address = by_address,
    without = without, inside = inside, preferred = preferred,
  }
end

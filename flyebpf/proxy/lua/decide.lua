-- SPDX-License-Identifier: Apache-2.0
-- Where a request goes. Pure: what it needs is given, what is to be done comes back.
--
-- A choice: {cluster, app, address, strict, unavailable}, `address` nil where any machine
-- will do; or nil, a reason of `fly-replay-failed`, and words for people.

return function(apps)
  local NONE = "no_candidate"

  -- Puts the machine with an id into the choice, if it can be used: whether it did, and
  -- what is wrong where it is `forced`.
  local function instance(machines, forced, preferred, choice)
    local id = forced or preferred
    local machine = id and apps.by_id(machines, id)
    if machine and machine.usable then
      choice.address = machine.address
      if forced then choice.strict = true end
      return true
    end
    if forced then return false, "no such instance is running" end
    if preferred then choice.unavailable = preferred end
    return false
  end

  -- What clients ask for with headers of requests. `asked`: force_region, prefer_region
  -- (lists), force_instance, prefer_instance.
  local function by_client(app, cluster, asked)
    local machines = app.clusters[cluster] or {}
    local choice = { app = app.name, cluster = cluster }
    if asked.force_region then
      local found = {}
      for _, region in ipairs(asked.force_region) do
        for _, machine in ipairs(apps.inside(machines, region)) do found[#found + 1] = machine end
      end
      machines = found
      choice.strict = true
    end
    local found, words = instance(machines, asked.force_instance, asked.prefer_instance, choice)
    if words then return nil, NONE, words end
    if found then return choice end
    local regions = asked.force_region or asked.prefer_region
    local machine = regions and apps.preferred(machines, regions)
    choice.address = machine and machine.address
    if choice.strict and not machine then return nil, NONE, "no machine in these regions" end
    return choice
  end

  -- The cluster of `app` for a replay from `by`, at the client's port.
  local function cluster_of(app, by, port)
    if app.name == by.app then return by.cluster end
    local found = app.ports[port] or app.first
    return found ~= "" and found or nil
  end

  local function among(machines, spec, choice)
    local found, words = instance(machines, spec.instance, spec.prefer, choice)
    if words then return nil, NONE, words end
    if found then return choice end
    if not (spec.regions or spec.elsewhere) then return choice end
    local machine = apps.preferred(machines, spec.regions or { "any" })
    if not machine then return nil, NONE, "no machine there is running" end
    choice.address, choice.strict = machine.address, true
    return choice
  end

  -- Where a replay goes. `by`: {app, cluster, machine}, who has answered.
  local function by_answer(by, source, spec, port)
    local name = spec.app or by.app
    local target = apps.read(name)
    if not (target and apps.permitted(source, target)) then
      return nil, NONE, "there is no app " .. name .. " for " .. by.app
    end
    local cluster = cluster_of(target, by, port)
    if not cluster then return nil, NONE, "app " .. name .. " has no service for HTTP" end
    local machines = target.clusters[cluster] or {}
    if spec.elsewhere and name == by.app then machines = apps.without(machines, by.machine) end
    return among(machines, spec, { app = name, cluster = cluster })
  end

  return { by_client = by_client, by_answer = by_answer }
end

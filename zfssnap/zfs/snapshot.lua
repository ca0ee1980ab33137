local argv = (...)["argv"]
local first = 2 * tonumber(argv[1]) + 2
-- One alone is whole whatever comes of it.
for i = first, #argv > first and #argv or 0 do
  local err = zfs.check.snapshot(argv[i])
  if err ~= 0 then return {err = err} end
end
local taken = {}
for i = first, #argv do
  local name = argv[i]
  local err = zfs.sync.snapshot(name)
  for p = 2, first - 1, 2 do
    if err == 0 then err = zfs.sync.set_prop(name, argv[p], argv[p + 1]) end
  end
  if err ~= 0 then
    for j = first, i do zfs.sync.destroy(argv[j]) end
    return {err = err}
  end
  taken[name] = {}
  for _, prop in ipairs({"guid", "createtxg", "creation", "referenced", "written"}) do
    taken[name][prop] = zfs.get_prop(name, prop)
  end
end
return {err = 0, taken = taken}
